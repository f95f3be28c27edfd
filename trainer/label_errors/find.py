"""The command: a run's working directory in; its labels from the most suspicious on, as a table and as a page, out."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from pipeline import evaluation, storage
from pipeline import manifest as manifest_lib
from pipeline.errors import InputError
from pipeline.manifest import Manifest
from trainer import checkpoints, classifier, prediction_output, predictions, strategies
from trainer import run as run_lib
from trainer.evaluation import splits
from trainer.label_errors import dynamics, out_of_fold, scores, sheet
from trainer.label_errors.dynamics import Dynamics, Look
from trainer.run import Run

FOLDER = "label_errors"
CSV_FILE, PAGE_FILE = "label_errors.csv", "label_errors.html"
EVIDENCE = ("auto", "dynamics", "features", "model")
_WORDS = {
    "dynamics": "by how they were learned, over {looks} looks in the course of training",
    "features": "by what logistic regression on the model's features says of those that it was not fitted to",
    "model": "by what the trained model, which has not seen them, says of them",
}


class Found(NamedTuple):
    """What is said of n examples, in stored order."""

    evidence: str
    looks: Dynamics
    suspicion: npt.NDArray[np.float64]
    suggestions: scores.Suggestions

    @property
    def order(self) -> npt.NDArray[np.int64]:
        """The most suspicious first."""
        return np.argsort(-self.suspicion, kind="stable")

    @property
    def disagreements(self) -> int:
        """Examples of which the model was surer of another class, on the average of all looks."""
        return int((scores.mean_margins(self.looks) < 0).sum())


def find(
    *, workdir: str, data: str | None, split: str | None, out: str | None, limit: int, evidence: str, checkpoint: str
) -> Found:
    """Ranks the labels of a split and writes `label_errors.csv` with all of them and a page with the first `limit`.

    Args:
      data: another dataset with the same classes; None is the one that was trained on.
      split: of the dataset; None is the one that was trained on.
      out: a folder; None is `workdir/label_errors`.
      evidence: of `EVIDENCE`; auto takes the dynamics where training recorded them, the features where it did not, as
        of a corrected or grown version, and the model where it has not trained on the split's images.
      checkpoint: see `checkpoints.load_weights`.

    Raises:
      InputError: where the run, the dataset, the split or a shard is missing, the classes differ, or there is no such
        evidence.
    """
    if limit < 1:
        raise InputError(f"--limit={limit}: expected at least 1")
    run = run_lib.load(workdir)
    data, split = data or run.data, split or run.config["train_split"]
    manifest = manifest_lib.load(data)
    run_lib.check_classes(run, manifest.classes, data)
    manifest_lib.verify(data, manifest, [split])
    identities = evaluation.identities(data, manifest, split=split, **_caching(run))
    trained = splits.used_for(run, manifest, split, identities.ids) == "training"
    recorded = (manifest.fingerprint, split) == (run.dataset_fingerprint, run.config["train_split"])
    evidence = _choose(evidence, workdir, split, trained=trained, recorded=recorded)
    if evidence == "dynamics":
        looks = dynamics.read(workdir, fingerprint=manifest.fingerprint, examples=manifest.split(split).examples)
    else:
        look = _look(run, workdir, data, manifest, split, identities.groups, evidence, checkpoint)
        looks = dynamics.of_looks([look])
    found = Found(evidence, looks, scores.suspicion(looks), scores.suggestions(looks))
    out = out or storage.join(workdir, FOLDER)
    storage.write_bytes(storage.join(out, CSV_FILE), table(found, identities, manifest.classes))
    shown = found.order[:limit].tolist()
    records = evaluation.records_at(data, manifest, split=split, positions=shown, **_caching(run))
    page = sheet.render(
        sheet.tiles(records, shown, found.suggestions, manifest.classes),
        classes=manifest.classes,
        title=f"{manifest.name} {manifest.version}: suspicious labels of {split}",
        words=_WORDS[evidence].format(looks=len(looks.losses)),
        examples=len(looks.labels),
        disagreements=found.disagreements,
    )
    storage.write_text(storage.join(out, PAGE_FILE), page)
    return found


def _choose(evidence: str, workdir: str, split: str, *, trained: bool, recorded: bool) -> str:
    """One of `EVIDENCE` but auto.

    Args:
      trained: on images of the split.
      recorded: whether dynamics, where there are any, are of these very examples.

    Raises:
      InputError: where there is no such evidence, or it would say nothing.
    """
    if evidence == "auto":
        if not trained:
            return "model"
        if recorded and dynamics.steps(workdir):
            return "dynamics"
        reason = "recorded no dynamics (logs.dynamics)" if recorded else "was on another version of this dataset"
        logging.warning("the training %s: its features say which labels are wrong", reason)
        return "features"
    if evidence == "model" and trained:
        others = "dynamics or features" if recorded else "features"
        raise InputError(f"--evidence=model: it was trained on these labels, and repeats them; use {others}")
    if evidence == "dynamics" and not recorded:
        other = "features" if trained else "model"
        raise InputError(f"--evidence=dynamics: this run was not trained on {split!r} of that dataset; use {other}")
    return evidence


def _caching(run: Run) -> dict[str, Any]:
    return {name: run.config["input"][name] for name in ("cache_dir", "cache_gib")}


def _look(
    run: Run,
    workdir: str,
    data: str,
    manifest: Manifest,
    split: str,
    groups: Sequence[str],
    evidence: str,
    checkpoint: str,
) -> Look:
    """How the examples stand with the weights of a checkpoint, by its logits or by its features."""
    cluster = strategies.connect("one")
    net = classifier.restore_model(run)
    checkpoints.load_weights(workdir, net, which=checkpoint)
    looks_at = keras.Model(net.input, net.get_layer("pool").output) if evidence == "features" else net
    look = predictions.make(
        data,
        manifest,
        split=split,
        config=run.config,
        cluster=cluster,
        net=looks_at,
        measure=predictions.as_they_are if evidence == "features" else dynamics.measure,
        show=True,
    )
    if evidence == "model":
        return Look(*look())
    labels, features = look()
    return out_of_fold.look(features, labels, groups, num_classes=len(manifest.classes))


def table(found: Found, identities: evaluation.Identities, classes: Sequence[str]) -> bytes:
    """A CSV in the order of the ranking; with one look nothing can be forgotten, and the column stays empty.

    Texts are quoted, and none begins as a formula does: see `prediction_output`.
    """
    losses, margins = scores.mean_losses(found.looks), scores.mean_margins(found.looks)
    events = scores.forgetting_events(found.looks)
    stream = io.StringIO()
    writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(
        ("rank", "score", "id", "file", "label", "suggested", "suggested_probability", "loss", "margin", "forgetting")
    )
    for rank, place in enumerate(found.order.tolist(), 1):
        suggested, probability = (values[place] for values in found.suggestions)
        writer.writerow(
            (
                rank,
                round(float(found.suspicion[place]), 4),
                identities.ids[place],
                prediction_output.file_no_formula(identities.files[place]),
                prediction_output.no_formula(classes[found.looks.labels[place]]),
                prediction_output.no_formula(classes[suggested]),
                round(float(probability), 4),
                round(float(losses[place]), 4),
                round(float(margins[place]), 4),
                events[place] if len(found.looks.losses) > 1 else "",
            )
        )
    return stream.getvalue().encode("utf-8", "surrogateescape")
