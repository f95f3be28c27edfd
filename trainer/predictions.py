"""A model and a split in; the logits of every example, in stored order with its identity, out, and into one file."""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tqdm

from pipeline import evaluation, storage
from pipeline import manifest as manifest_lib
from pipeline.batches import Batches
from pipeline.errors import InputError
from trainer import strategies
from trainer.heartbeat import Beat, silent
from trainer.preemption import Interrupted


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says of n examples.

    Raises:
      ValueError: where lengths differ.
    """

    classes: tuple[str, ...]
    ids: tuple[str, ...]  # of `pipeline.records.Record`, as are files and groups
    files: tuple[str, ...]
    groups: tuple[str, ...]
    labels: npt.NDArray[np.int64]  # [n], the truth
    logits: npt.NDArray[np.float32]  # [n, classes], before the temperature

    def __post_init__(self) -> None:
        lengths = {len(value) for value in (self.ids, self.files, self.groups, self.labels, self.logits)}
        if len(lengths) > 1 or self.logits.shape[1:] != (len(self.classes),):
            raise ValueError(f"logits of shape {self.logits.shape}, lengths {lengths}, {len(self.classes)} classes")

    def probabilities(self, temperature: float = 1.0) -> npt.NDArray[np.float64]:
        """float64 [n, classes]; see `softmax`."""
        return softmax(self.logits, temperature)


def softmax(logits: npt.ArrayLike, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Probabilities of logits / temperature over the last axis, in float64, where many small ones add up to 1.

    On Calibration of Modern Neural Networks, section 4.2 (https://arxiv.org/abs/1706.04599): more than 1 makes a model
    less sure, and no temperature changes which class is the likeliest.
    """
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def as_they_are(labels: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """A `measure` of `make` that keeps both."""
    return labels, logits


def right(labels: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """A `measure` of `make`: 1 where the label has the largest logit."""
    return (tf.cast(tf.argmax(logits, axis=-1) == labels, tf.int32),)


def make(
    data: str,
    manifest: manifest_lib.Manifest,
    *,
    split: str,
    config: Mapping[str, Any],
    cluster: strategies.Cluster,
    net: keras.Model,
    measure: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]] = as_they_are,
    show: bool = False,
    corrupt: Callable[[tf.Tensor], tf.Tensor] | None = None,
    beat: Beat = silent,
    asked_to_end: Callable[[], bool] = lambda: False,
) -> Callable[[], tuple[npt.NDArray[Any], ...]]:
    """Compiles a pass of `net` over a split; each call takes its weights as they are then.

    Args:
      config: see `batches_of`.
      measure: what is kept of a replica's batch: (labels int64 [batch], logits float32 [batch, classes]) to tensors
        [batch, …] of numbers.
      show: a progress bar on a terminal.
      corrupt: what is done to images, uint8 [batch, size, size, 3] to the same, before the model sees them.
      beat: called after each batch.
      asked_to_end: what all workers call after the same batches; see `strategies.agree`.

    Returns:
      A call gives every worker all of what `measure` gave, [examples of the split, …] in stored order, and raises
      Interrupted where `asked_to_end` says so.

    Raises:
      InputError: where the split is empty or missing; from a call, naming the shard or image that can't be read.
    """
    batches = batches_of(data, manifest, split=split, config=config, cluster=cluster)
    return _pass(batches, cluster, net, measure, show, corrupt, beat, asked_to_end)


def collect(
    data: str,
    manifest: manifest_lib.Manifest,
    *,
    split: str,
    config: Mapping[str, Any],
    cluster: strategies.Cluster,
    net: keras.Model,
    show: bool = False,
) -> Predictions:
    """Runs `net` over a split, each worker over its part, and gives all of it to every worker; arguments as of `make`.

    Raises:
      InputError: where the split is empty or missing, or naming the shard or image that can't be read.
    """
    batches = batches_of(data, manifest, split=split, config=config, cluster=cluster)
    labels, logits = _pass(batches, cluster, net, as_they_are, show)()
    batches.close()
    caching = {name: config["input"][name] for name in ("cache_dir", "cache_gib")}
    identities = evaluation.identities(data, manifest, split=split, **caching)
    return Predictions(tuple(manifest.classes), *identities, labels=labels, logits=logits)


def batches_of(
    data: str, manifest: manifest_lib.Manifest, *, split: str, config: Mapping[str, Any], cluster: strategies.Cluster
) -> Batches:
    """This worker's part of a split, as `evaluation.batches` gives it to all of its replicas.

    Args:
      config: of the run; batches are as large as in training where that divides among the replicas, and padding makes
        any number of replicas right.

    Raises:
      InputError: where the split is empty or missing.
    """
    if not manifest.split(split).examples:
        raise InputError(f"split {split!r} has no examples to evaluate: choose another split, or prepare it with more")
    per_replica = max(1, config["global_batch"] // cluster.strategy.num_replicas_in_sync)
    return evaluation.batches(
        data,
        manifest,
        split=split,
        batch=per_replica * cluster.local_replicas,
        worker=cluster.worker,
        num_workers=cluster.num_workers,
        **{name: config["input"][name] for name in ("image_size", "crop_fraction", "cache_dir", "cache_gib")},
    )


def _pass(
    batches: Batches,
    cluster: strategies.Cluster,
    net: keras.Model,
    measure: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]],
    show: bool,
    corrupt: Callable[[tf.Tensor], tf.Tensor] | None = None,
    beat: Beat = silent,
    asked_to_end: Callable[[], bool] = lambda: False,
) -> Callable[[], tuple[npt.NDArray[Any], ...]]:
    strategy = cluster.strategy

    def replica_step(images: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, ...]:
        logits = net(images if corrupt is None else corrupt(images), training=False)
        # NCCL gathers no booleans.
        return tf.cast(mask, tf.int32), *measure(labels, tf.cast(logits, tf.float32))

    @tf.function(autograph=False)
    def step(batch: Sequence[tf.Tensor]) -> tuple[Any, ...]:
        values = strategy.run(replica_step, args=tuple(batch))
        if cluster.num_workers == 1:  # all of it is here, which takes no collective operation
            return tuple(tf.concat(strategy.experimental_local_results(value), axis=0) for value in values)
        return tuple(strategy.gather(value, axis=0) for value in values)

    deal = strategies.distributor(cluster)
    total = int(batches.dataset.cardinality())
    every_batches = strategies.asks_every_batches(cluster)

    def run() -> tuple[npt.NDArray[Any], ...]:
        gathered = []
        shown = tqdm.tqdm(batches, total=total, unit="batch", disable=not (show and sys.stderr.isatty()))
        for number, batch in enumerate(shown, 1):
            gathered.append(tuple(value.numpy() for value in step(deal(batch))))
            beat()
            if number % every_batches == 0 and asked_to_end():
                raise Interrupted
        return _in_stored_order(gathered, num_workers=cluster.num_workers)

    return run


def _in_stored_order(
    gathered: Sequence[tuple[npt.NDArray[Any], ...]], *, num_workers: int
) -> tuple[npt.NDArray[Any], ...]:
    """(mask, values, …) of each global batch, workers one behind the other, to the values of all that is unmasked.

    Every worker evaluates a range of the stored order, so all batches of one come before those of the next.
    """

    def joined(values: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        of_worker = zip(*(np.split(value, num_workers) for value in values), strict=True)
        return np.concatenate([part for parts in of_worker for part in parts])

    mask, *values = map(joined, zip(*gathered, strict=True))
    return tuple(value[mask.astype(bool)] for value in values)


def write(path: str, found: Predictions) -> None:
    """Writes a compressed .npz, which `numpy.load` opens without pickle: texts are bytes of UTF-8."""
    texts = {
        name: np.array([text.encode("utf-8", "surrogateescape") for text in getattr(found, name)], np.bytes_)
        for name in _TEXTS
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, labels=found.labels, logits=found.logits, **texts)
    storage.write_bytes(path, buffer.getvalue())


def read(path: str) -> Predictions:
    """Raises InputError where there is no such file or it is damaged."""
    if not storage.exists(path):
        raise InputError(f"{path} does not exist: run `python -m trainer evaluate` on that split first")
    try:
        with np.load(io.BytesIO(storage.read_bytes(path)), allow_pickle=False) as arrays:
            texts = {
                name: tuple(text.decode("utf-8", "surrogateescape") for text in arrays[name].tolist())
                for name in _TEXTS
            }
            return Predictions(**texts, labels=arrays["labels"], logits=arrays["logits"])
    except Exception as error:  # zipfile, zlib and NumPy raise many types on damaged data
        raise InputError(f"{path} is damaged ({error}): evaluate that split again") from error


_TEXTS = ("classes", "ids", "files", "groups")
