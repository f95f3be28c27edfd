"""Metrics, settings and training history in; `metrics.json` and one self-contained `index.html` beside it out."""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from pipeline import page, storage
from trainer import metrics as metrics_lib
from trainer import run as run_lib

FILE = "index.html"
METRICS_FILE = "metrics.json"

_TABLE_CLASSES = 50  # a wider table is no longer read; the most confused pairs take its place
_NAMED_CLASSES = 60  # more names on an axis overlap; indices take their place
_COUNTED_CLASSES = 20  # with more, the counts inside the picture's cells are too small to read
_PERCENT_CLASSES = 50  # per cent are shorter
_PAIRS = 30
_WEAKEST = 3


class Picture(NamedTuple):
    uri: str  # data:image/svg+xml;base64,…
    width_px: int
    height_px: int


def write_report(
    report_dir: str,
    metrics: Mapping[str, Any],
    *,
    title: str,
    settings: Mapping[str, Any],
    history: Sequence[Mapping[str, float | None]] = (),
) -> str:
    """Writes both files into `report_dir` (local or a bucket) and returns the path of the page.

    Args:
      report_dir: is made where it does not exist.
      metrics: from `trainer.metrics.summarize`; written to `metrics.json` with the versions of the packages added.
      title: the page's heading, any text.
      settings: shown as they are; nested mappings and lists of them become dotted names.
      history: one mapping per logged step with any of `step`, `epoch`, `train_loss`, `learning_rate`,
        `validation_loss`, `validation_accuracy`; without any of them the page has no curves.
    """
    content = {**metrics, "versions": run_lib.package_versions()}
    storage.write_json(storage.join(report_dir, METRICS_FILE), content)
    path = storage.join(report_dir, FILE)
    storage.write_text(path, render(content, title=title, settings=settings, history=history))
    return path


def render(
    metrics: Mapping[str, Any],
    *,
    title: str,
    settings: Mapping[str, Any],
    history: Sequence[Mapping[str, float | None]] = (),
) -> str:
    """The page as HTML text; arguments as in `write_report`."""
    classes, confusion = metrics["classes"], metrics["confusion"]
    missed = [
        name for name in classes if metrics["per_class"][name]["support"] and metrics["per_class"][name]["recall"] < 1
    ]
    support = [sum(row) for row in confusion]
    return (
        page.environment("trainer")
        .get_template("report.html")
        .render(
            title=title,
            metrics=metrics,
            correct=sum(row[i] for i, row in enumerate(confusion)),
            found={name: confusion[i][i] for i, name in enumerate(classes)},
            majority={"name": classes[int(np.argmax(support))], "share": max(support) / metrics["examples"]},
            weakest=sorted(missed, key=lambda name: metrics["per_class"][name]["recall"])[:_WEAKEST],
            pairs=metrics_lib.most_confused(confusion, classes, _PAIRS),
            as_table=len(classes) <= _TABLE_CLASSES,
            by_index=len(classes) > _NAMED_CLASSES,
            matrix=matrix_picture(confusion, classes),
            curves=curves_picture(history),
            settings=dict(page.flatten(settings)),
        )
    )


def matrix_picture(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> Picture:
    """`matrix_figure` with counts, for the page."""
    return _svg(matrix_figure(confusion, classes))


def matrix_figure(
    confusion: Sequence[Sequence[int]] | npt.NDArray[np.int64], classes: Sequence[str], *, percent: bool = False
) -> Figure:
    """The confusion matrix for 2 to 1,000 classes; colour is the share of the row, so rare classes are seen as well.

    Args:
      percent: the cells say that share too, instead of their count; two digits fit where a count doesn't.
    """
    counts = np.asarray(confusion, dtype=np.int64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side_inch = min(4.0 + 0.2 * len(classes), 12.0)
    figure = Figure(figsize=(side_inch + 1, side_inch), layout="constrained")
    axes = figure.subplots()
    # The square root lifts the few per cent of a typical confusion out of the white.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    bar = figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class's images")
    bar.set_ticks([0, 0.01, 0.1, 0.25, 0.5, 1], labels=["0", "1 %", "10 %", "25 %", "50 %", "100 %"])
    if len(classes) <= _NAMED_CLASSES:
        labels = [_label(name) for name in classes]
        upright = max(map(len, labels)) <= 3
        size = 9 if len(classes) <= 40 else 7
        axes.set_xticks(range(len(classes)), labels, rotation=0 if upright else 90, fontsize=size, parse_math=False)
        axes.set_yticks(range(len(classes)), labels, fontsize=size, parse_math=False)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
    else:
        axes.set_xlabel("predicted class (its number in the table of classes)")
        axes.set_ylabel("true class (its number in the table of classes)")
    if len(classes) <= (_PERCENT_CLASSES if percent else _COUNTED_CLASSES):
        _write_cells(axes, counts, shares, percent=percent)
    return figure


def _write_cells(axes: Axes, counts: npt.NDArray[np.int64], shares: npt.NDArray[np.float64], *, percent: bool) -> None:
    size = 8 if len(counts) <= _COUNTED_CLASSES else 6
    for (row, column), count in np.ndenumerate(counts):
        if count:
            share = shares[row, column]
            text = f"{count}" if not percent else "<1" if share < 0.005 else f"{100 * share:.0f}"
            colour = "white" if share > 0.3 else "#111111"
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)


def curves_picture(history: Sequence[Mapping[str, float | None]]) -> Picture | None:
    """One panel each for loss, validation accuracy and learning rate over steps; None where nothing can be drawn."""
    panels = [
        ("loss", {"training": "train_loss", "validation": "validation_loss"}),
        ("validation accuracy", {"": "validation_accuracy"}),
        ("learning rate", {"": "learning_rate"}),
    ]
    drawable = [
        (name, lines)
        for name, keys in panels
        if (lines := {label: line for label, key in keys.items() if (line := _line(history, key))})
    ]
    if not drawable:
        return None
    figure = Figure(figsize=(7, 2.2 * len(drawable) + 0.4), layout="constrained")
    column = figure.subplots(len(drawable), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, lines) in zip(column, drawable, strict=True):
        for label, points in lines.items():
            style = {"training": "-", "validation": "--"}.get(label, "-")
            marker = "o" if len(points) < 30 else None
            axes.plot(*zip(*points, strict=True), linestyle=style, marker=marker, markersize=3, label=label)
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        if any(lines):
            axes.legend()
    column[-1].set_xlabel("step")
    return _svg(figure)


def _line(history: Sequence[Mapping[str, float | None]], key: str) -> list[tuple[float, float]]:
    """(step, value) where both were logged and are finite."""
    points = [(row.get("step"), row.get(key)) for row in history]
    return [(x, y) for x, y in points if x is not None and y is not None and math.isfinite(y)]


def _label(name: str) -> str:
    """A class name that fits an axis; characters that XML forbids are replaced."""
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in name)
    return shown if len(shown) <= 24 else f"{shown[:12]}…{shown[-11:]}"


def _svg(figure: Figure) -> Picture:
    # Text stays text, so that the reader's own fonts show scripts that matplotlib's font lacks; it warns of those.
    # A fixed salt makes equal pictures equal bytes.
    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "shardline"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(stream, format="svg", dpi=200, metadata={"Date": None})
    width_inch, height_inch = figure.get_size_inches()
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(f"data:image/svg+xml;base64,{data}", round(96 * width_inch), round(96 * height_inch))
