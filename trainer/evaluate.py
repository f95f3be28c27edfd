"""A model and a split in, sums over every example exactly once out; and the command that reports on a finished run."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tqdm

from pipeline import manifest as manifest_lib
from pipeline import storage
from pipeline.errors import InputError
from trainer import checkpoints, classifier, history, metrics, predictions, rendezvous, report, strategies
from trainer import run as run_lib
from trainer import step as step_lib
from trainer.cluster import Worker
from trainer.evaluation import calibration, ledger, slices, splits, summary
from trainer.evaluation import robustness as robustness_lib
from trainer.explanation import gallery
from trainer.heartbeat import Beat, silent
from trainer.preemption import Interrupted

PREDICTIONS_FILE = "predictions.npz"  # in the report's folder, of the split that it is about


class Sums(NamedTuple):
    confusion: npt.NDArray[np.int64]  # [classes, classes], truth in rows
    top_k_correct: int
    loss_sum: float

    def measures(self) -> dict[str, Any]:
        """See `metrics.measures`."""
        return metrics.measures(self.confusion, self.top_k_correct, self.loss_sum)


def top_k(num_classes: int) -> int:
    """5 as ImageNet reports it, less where five of few classes would be no achievement."""
    return min(5, max(1, num_classes // 2))


def accumulate(
    step: Callable[[Sequence[tf.Tensor]], tuple[tf.Tensor, tf.Tensor, tf.Tensor]],
    batches: Iterable[Sequence[tf.Tensor]],
    num_classes: int,
    *,
    beat: Beat = silent,
    asked_to_end: Callable[[], bool] = lambda: False,
    every_batches: int = 1,
) -> Sums:
    """Adds up `step.make_evaluate_step`'s results over `batches`.

    Args:
      beat: called after each batch.
      asked_to_end: called after every so many.

    Raises:
      Interrupted: where it says so.
    """
    confusion = np.zeros([num_classes, num_classes], np.int64)
    correct, loss_sum = 0, 0.0
    for number, batch in enumerate(batches, 1):
        batch_confusion, batch_correct, batch_loss = step(batch)
        confusion += batch_confusion.numpy()
        correct += int(batch_correct)
        loss_sum += float(batch_loss)
        beat()
        if number % every_batches == 0 and asked_to_end():
            raise Interrupted
    return Sums(confusion, correct, loss_sum)


def make(
    data: str,
    manifest: manifest_lib.Manifest,
    *,
    split: str,
    config: Mapping[str, Any],
    cluster: strategies.Cluster,
    net: keras.Model,
    show: bool = False,
    beat: Beat = silent,
    asked_to_end: Callable[[], bool] = lambda: False,
) -> Callable[[], Sums]:
    """Compiles the evaluation of `net` on a split; each call takes its weights as they are then.

    Args:
      config: see `predictions.batches_of`.
      show: a progress bar on a terminal.
      beat: called after each batch.
      asked_to_end: what all workers call after the same batches; see `strategies.agree`.

    Raises:
      Interrupted: from a call, where `asked_to_end` says so.
    """
    num_classes = len(manifest.classes)
    with cluster.strategy.scope():
        step = step_lib.make_evaluate_step(cluster.strategy, net, num_classes=num_classes, top_k=top_k(num_classes))
    batches = predictions.batches_of(data, manifest, split=split, config=config, cluster=cluster)
    total, every = int(batches.dataset.cardinality()), strategies.asks_every_batches(cluster)
    deal = strategies.distributor(cluster)

    def evaluate() -> Sums:
        shown = tqdm.tqdm(batches, total=total, unit="batch", disable=not (show and sys.stderr.isatty()))
        return accumulate(
            step, map(deal, shown), num_classes, beat=beat, asked_to_end=asked_to_end, every_batches=every
        )

    return evaluate


def evaluate(
    *,
    workdir: str,
    split: str,
    data: str | None,
    strategy: str,
    checkpoint: str,
    columns: Sequence[str] = (),
    robustness: bool = False,
    worker: Worker | None = None,
    start_timeout_s: float = rendezvous.START_TIMEOUT_S,
) -> dict[str, Any]:
    """Evaluates a checkpoint in `workdir`, fits its temperature, and writes `calibration.json` and `report/` there.

    Several workers run a part of the split each.

    Args:
      split: of the dataset.
      data: another dataset with the same classes; None is the one that was trained on.
      strategy, worker, start_timeout_s: see `strategies.connect`.
      checkpoint: see `checkpoints.load_weights`.
      columns: of the dataset's ledger, to slice by; see `slices.choose`.
      robustness: also runs the split with each of `robustness.corruptions`.

    Returns:
      The metrics as they stand in `metrics.json`, without the package versions.

    Raises:
      InputError: where the run, the dataset, the split, a column or a shard is missing, or the classes differ.
      TimeoutError: where not all workers came.
    """
    run = run_lib.load(workdir)
    data = data or run.data
    manifest = manifest_lib.load(data)
    run_lib.check_classes(run, manifest.classes, data)
    manifest_lib.verify(data, manifest, [split])
    sliced = slices.choose(columns, ledger.columns(data), data)
    if robustness and strategy == "tpu":
        raise InputError("--robustness writes JPEGs, which TPUs can't: use --strategy=one")
    validation = splits.validation(run, data, manifest)

    cluster = strategies.connect(strategy, worker=worker, start_timeout_s=start_timeout_s)
    with cluster.strategy.scope():
        net = classifier.restore_model(run)
        step, fingerprint = checkpoints.load_weights(workdir, net, which=checkpoint)
    strategies.check_agreement(cluster, (step, int(validation is None)))
    collect = functools.partial(predictions.collect, config=run.config, cluster=cluster, net=net, show=cluster.is_chief)

    found = summary.checked(collect(data, manifest, split=split))
    if validation is None:
        temperature = classifier.temperature_of(workdir, step=step, fingerprint=fingerprint)
        fitted = None if temperature == 1 else run.config["validation_split"]
    else:
        source, of_source, fitted = validation
        same = (source, fitted) == (data, split)
        known = found if same else summary.checked(collect(source, of_source, split=fitted))
        temperature = calibration.fit_temperature(known.logits, known.labels)
    content = summary.summarize(
        found,
        k=top_k(len(run.classes)),
        temperature=temperature,
        fitted_on=fitted,
        split=split,
        step=step,
        data=data,
        dataset_fingerprint=manifest.fingerprint,
        fingerprint=fingerprint,
    )
    content["slices"] = slices.summarize(
        sliced,
        ledger.read(data, split, sliced) if sliced else {},
        found.ids,
        summary.right_of(found),
        found.groups,
        keep_single=bool(columns),
    )
    if robustness:
        content["robustness"] = _robustness(data, manifest, split=split, config=run.config, cluster=cluster, net=net)

    if cluster.is_chief:
        looked_at = classifier.Classifier(run, net, step, fingerprint, temperature)
        examples = gallery.build(looked_at, data, manifest, split=split, found=found)
        report_dir = storage.join(workdir, "report")
        predictions.write(storage.join(report_dir, PREDICTIONS_FILE), found)
        if validation is not None:
            about = {"temperature": temperature, "split": fitted, "examples": len(known.labels)}
            storage.write_json(
                storage.join(workdir, classifier.CALIBRATION_FILE), {**about, "step": step, "fingerprint": fingerprint}
            )
        settings = {"data": data, "code": run.code, "config": run.config}
        report.write_report(
            report_dir,
            content,
            title=f"{manifest.name} {manifest.version}: {split}",
            settings=settings,
            history=history.read(workdir),
            gallery=examples,
            used_for=splits.used_for(run, manifest, split, found.ids),
        )
    strategies.wait_for_all(cluster)  # whoever leaves first ends the others, the chief in the middle of the report
    return content


def _robustness(
    data: str,
    manifest: manifest_lib.Manifest,
    *,
    split: str,
    config: Mapping[str, Any],
    cluster: strategies.Cluster,
    net: keras.Model,
) -> list[dict[str, Any]]:
    """The accuracy under each of `robustness.corruptions`."""
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # which warns of a new graph for each pass
    found = []
    for (name, severity), corrupt in robustness_lib.corruptions(config["input"]["image_size"]).items():
        run = predictions.make(
            data,
            manifest,
            split=split,
            config=config,
            cluster=cluster,
            net=net,
            measure=predictions.right,
            show=cluster.is_chief,
            corrupt=corrupt,
        )
        accuracy = float(np.mean(run()[0]))
        found.append({"corruption": name, "severity": severity, "accuracy": accuracy})
        logging.info("%s of severity %d: accuracy %.2f%%", name, severity, 100 * accuracy)
    return found
