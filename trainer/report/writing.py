"""Metrics, settings, training history and a gallery in; `metrics.json` and one self-contained `index.html` out."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline import page, storage
from trainer import metrics as metrics_lib
from trainer import run as run_lib
from trainer.report import class_curves, conditions, confidence, matrix, training, words

if TYPE_CHECKING:
    from trainer.explanation.gallery import Gallery  # which imports TensorFlow

FILE = "index.html"
METRICS_FILE = "metrics.json"

_TABLE_CLASSES = 50  # a wider table is no longer read; the most confused pairs take its place
_LISTED_CLASSES = 60  # a longer table of classes is folded away, and the weakest are shown
_FEW_PAIRS, _PAIRS = 10, 30  # with few and with many classes
_NAMES = {
    "accuracy": ("accuracy", "share of all images that are right"),
    "top_k": ("top {k}", "the right class is among the first {k} answers"),
    "balanced_accuracy": ("balanced accuracy", "mean of the classes' recall, so each class counts equally"),
    "macro_f1": ("macro F1", "mean of the classes' F1"),
}


def write_report(
    report_dir: str,
    metrics: Mapping[str, Any],
    *,
    title: str,
    settings: Mapping[str, Any],
    history: training.History = (),
    gallery: Gallery | None = None,
    used_for: str = "",
) -> str:
    """Writes both files into `report_dir` (local or a bucket) and returns the path of the page.

    Args:
      report_dir: is made where it does not exist.
      metrics: from `trainer.evaluation.summary.summarize`; written to `metrics.json` with the versions of the packages
        added. Of it all but what `trainer.metrics.summarize` gives may be missing, and then is on the page.
      title: the page's heading, any text.
      settings: shown as they are; nested mappings and lists of them become dotted names.
      history: see `training.summarize`; without any of it the page has no curves.
      gallery: from `trainer.explanation.gallery.build`.
      used_for: see `words.summarize`.
    """
    content = {**metrics, "versions": run_lib.package_versions()}
    storage.write_json(storage.join(report_dir, METRICS_FILE), content)
    path = storage.join(report_dir, FILE)
    text = render(content, title=title, settings=settings, history=history, gallery=gallery, used_for=used_for)
    storage.write_text(path, text)
    return path


def render(
    metrics: Mapping[str, Any],
    *,
    title: str,
    settings: Mapping[str, Any],
    history: training.History = (),
    gallery: Gallery | None = None,
    used_for: str = "",
) -> str:
    """The page as HTML text; arguments as in `write_report`."""
    classes, confusion = metrics["classes"], metrics["confusion"]
    many = len(classes) > _LISTED_CLASSES
    limit = _FEW_PAIRS if len(classes) <= matrix.COUNTED_CLASSES else _PAIRS
    pairs = metrics_lib.most_confused(confusion, classes, limit)
    calibration, coverage = metrics.get("calibration"), metrics.get("coverage")
    by_recall = sorted(classes, key=lambda name: metrics["per_class"][name]["recall"])
    environment = page.environment("trainer")
    environment.filters.update(jpeg=_jpeg, rounded=words.rounded)
    return environment.get_template("report.html").render(
        title=title,
        metrics=metrics,
        correct=sum(row[i] for i, row in enumerate(confusion)),
        summary=words.summarize(metrics, pairs, used_for=used_for),
        measures=_measures(metrics),
        matrices=matrix.pictures(confusion, classes),
        as_table=len(classes) <= _TABLE_CLASSES,
        pairs=pairs,
        areas="curves" in metrics,
        numbers={name: number for number, name in enumerate(classes)},
        weakest=[name for name in by_recall if metrics["per_class"][name]["support"]][:limit] if many else [],
        class_curves=class_curves.pictures(metrics),
        few_in_bin=confidence.FEW_IN_BIN,
        reliability=confidence.reliability_pictures(calibration) if calibration else [],
        coverage=confidence.coverage_picture(coverage) if coverage else None,
        thresholds=confidence.thresholds(coverage) if coverage else [],
        slices=conditions.slices(metrics.get("slices", ()), metrics["accuracy"]),
        robustness=conditions.robustness(metrics.get("robustness", ()), metrics["accuracy"]),
        gallery=gallery,
        training=training.summarize(history),
        settings=dict(page.flatten(settings)),
    )


def _measures(metrics: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(name, value, interval, meaning) of each measure of the whole."""
    intervals, k = metrics.get("intervals", {}), metrics["top_k"]["k"]
    rows = []
    for key, (name, meaning) in _NAMES.items():
        if key == "top_k" and k == 1:
            continue
        value = metrics["top_k"]["accuracy"] if key == "top_k" else metrics[key]
        held = intervals.get(key)
        interval = f"{page.percent(held[0])} to {page.percent(held[1])}" if held else ""
        rows.append((name.format(k=k), page.percent(value), interval, meaning.format(k=k)))
    for key, name, meaning in (
        ("weighted", "weighted F1", "mean of the classes' F1, by their images"),
        ("macro_roc_auc", "macro ROC AUC", "mean chance that an image of a class scores higher for it than another"),
        ("macro_average_precision", "macro average precision", "mean area under the precision-recall curves"),
    ):
        value = metrics.get(key)
        value = value["f1"] if isinstance(value, Mapping) else value
        if value is not None:
            rows.append((name, page.percent(value), "", meaning))
    loss = metrics["loss"]
    said = f"{loss:.4f}" if loss is not None else "not a finite number; the training diverged"
    rows.append(("loss", said, "", "mean cross-entropy per image, before the temperature"))
    if "calibration" in metrics:
        brier = metrics["calibration"]["after"]["brier"]
        rows.append(("Brier score", f"{brier:.4f}", "", "mean squared error of the probabilities, 0 (best) to 2"))
    return rows


def _jpeg(data: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
