"""A model and a split in, sums over every example exactly once out; and the command that reports on a finished run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tqdm

from pipeline import evaluation, storage
from pipeline import manifest as manifest_lib
from trainer import checkpoints, metrics, model, progress, report, strategies
from trainer import run as run_lib
from trainer import step as step_lib


class Sums(NamedTuple):
    confusion: npt.NDArray[np.int64]  # [classes, classes], truth in rows
    top_k_correct: int
    loss_sum: float

    def means(self) -> dict[str, Any]:
        """What a training curve shows: loss and accuracy over the examples."""
        examples = int(self.confusion.sum())
        return {
            "examples": examples,
            "loss": self.loss_sum / examples,
            "accuracy": int(self.confusion.trace()) / examples,
        }


def top_k(num_classes: int) -> int:
    """5 as ImageNet reports it, less where five of few classes would be no achievement."""
    return min(5, max(1, num_classes // 2))


def accumulate(
    step: Callable[[Sequence[tf.Tensor]], tuple[tf.Tensor, tf.Tensor, tf.Tensor]],
    batches: Iterable[Sequence[tf.Tensor]],
    num_classes: int,
) -> Sums:
    """Adds up `step.make_evaluate_step`'s results over `batches`."""
    confusion = np.zeros([num_classes, num_classes], np.int64)
    correct, loss_sum = 0, 0.0
    for batch in batches:
        batch_confusion, batch_correct, batch_loss = step(batch)
        confusion += batch_confusion.numpy()
        correct += int(batch_correct)
        loss_sum += float(batch_loss)
    return Sums(confusion, correct, loss_sum)


def evaluate(*, workdir: str, split: str, data: str | None, strategy: str) -> dict[str, Any]:
    """Evaluates the newest checkpoint in `workdir` and writes `workdir/report/`.

    Args:
      split: of the dataset.
      data: another dataset with the same classes; None is the one that was trained on.
      strategy: see `strategies.connect`.

    Returns:
      The metrics as they stand in `metrics.json`, without the package versions.

    Raises:
      InputError: where the run, the dataset, the split or a shard is missing, or the classes differ.
    """
    run = run_lib.load(workdir)
    data = data or run.data
    manifest = manifest_lib.load(data)
    run_lib.check_classes(run, manifest.classes, data)
    manifest_lib.verify(data, manifest, [split])
    cluster = strategies.connect(strategy)
    num_classes = len(run.classes)
    with cluster.strategy.scope():
        trained = restore_model(run)
        step, fingerprint = checkpoints.load_weights(workdir, trained)
        evaluate_step = step_lib.make_evaluate_step(
            cluster.strategy, trained, num_classes=num_classes, top_k=top_k(num_classes)
        )
    # As much per replica as in training, where that divided; padding makes any number of replicas right.
    per_replica = max(1, run.config["global_batch"] // cluster.strategy.num_replicas_in_sync)
    batch = per_replica * cluster.local_replicas
    steps = evaluation.num_steps(manifest.split(split).examples, batch=batch, num_workers=cluster.num_workers)
    batches = evaluation.batches(
        data,
        manifest,
        split=split,
        batch=batch,
        image_size=run.config["input"]["image_size"],
        crop_fraction=run.config["input"]["crop_fraction"],
        cache_dir=run.config["input"].get("cache_dir"),
        cache_gib=run.config["input"].get("cache_gib"),
        worker=cluster.worker,
        num_workers=cluster.num_workers,
    )
    shown = tqdm.tqdm(batches, total=steps, unit="batch", disable=not (cluster.is_chief and sys.stderr.isatty()))
    sums = accumulate(evaluate_step, map(strategies.distributor(cluster), shown), num_classes)
    summary = metrics.summarize(
        sums.confusion,
        sums.top_k_correct,
        top_k(num_classes),
        sums.loss_sum,
        run.classes,
        split=split,
        step=step,
        data=data,
        dataset_fingerprint=manifest.fingerprint,
        fingerprint=fingerprint,
    )
    if cluster.is_chief:
        settings = {"data": data, "code": run.code, "config": run.config}
        title = f"{manifest.name} {manifest.version}: {split}"
        history = progress.read_history(workdir)
        report.write_report(storage.join(workdir, "report"), summary, title=title, settings=settings, history=history)
    return summary


def restore_model(run: run_lib.Run) -> keras.Model:
    """The run's model, ready for the checkpoint's weights."""
    keras.mixed_precision.set_global_policy(run.config["precision"])
    return model.build(
        num_classes=len(run.classes),
        image_size=run.config["input"]["image_size"],
        load_weights=False,
        **run.config["model"],
    )
