"""A model and a split in; the logits of every example, in stored order with its identity, out, and into one file."""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tqdm

from pipeline import evaluation, storage
from pipeline import manifest as manifest_lib
from pipeline.errors import InputError
from trainer import strategies


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


def collect(
    data: str,
    manifest: manifest_lib.Manifest,
    *,
    split: str,
    config: Mapping[str, Any],
    cluster: strategies.Cluster,
    net: keras.Model,
    show: bool = False,
    corrupt: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> Predictions:
    """Runs `net` over a split, each worker over its part, and gives all of it to every worker.

    Args:
      config: of the run; batches are as large as in training where that divides among the replicas.
      show: a progress bar on a terminal.
      corrupt: what is done to images, uint8 [batch, size, size, 3] to the same, before the model sees them.

    Raises:
      InputError: where the split is empty or missing, or naming the shard or image that can't be read.
    """
    examples = manifest.split(split).examples
    if not examples:
        raise InputError(f"split {split!r} has no examples to evaluate: choose another split, or prepare it with more")
    per_replica = max(1, config["global_batch"] // cluster.strategy.num_replicas_in_sync)
    batch = per_replica * cluster.local_replicas
    caching = {name: config["input"][name] for name in ("cache_dir", "cache_gib")}
    batches = evaluation.batches(
        data,
        manifest,
        split=split,
        batch=batch,
        image_size=config["input"]["image_size"],
        crop_fraction=config["input"]["crop_fraction"],
        worker=cluster.worker,
        num_workers=cluster.num_workers,
        **caching,
    )
    total = evaluation.num_steps(examples, batch=batch, num_workers=cluster.num_workers)
    shown = tqdm.tqdm(batches, total=total, unit="batch", disable=not (show and sys.stderr.isatty()))
    labels, logits = _in_stored_order(_run(shown, cluster, net, corrupt), num_workers=cluster.num_workers)
    batches.close()
    identities = evaluation.identities(data, manifest, split=split, **caching)
    return Predictions(tuple(manifest.classes), *identities, labels=labels, logits=logits)


def _run(
    batches: Iterable[Sequence[tf.Tensor]],
    cluster: strategies.Cluster,
    net: keras.Model,
    corrupt: Callable[[tf.Tensor], tf.Tensor] | None,
) -> list[tuple[npt.NDArray[Any], ...]]:
    """(labels, mask, logits) of each global batch, workers one behind the other."""
    strategy = cluster.strategy

    def replica_step(images: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, ...]:
        logits = net(images if corrupt is None else corrupt(images), training=False)
        return labels, tf.cast(mask, tf.int32), tf.cast(logits, tf.float32)  # NCCL gathers no booleans

    @tf.function(autograph=False)
    def step(batch: Sequence[tf.Tensor]) -> tuple[Any, ...]:
        values = strategy.run(replica_step, args=tuple(batch))
        return tuple(strategy.gather(value, axis=0) for value in values)

    deal = strategies.distributor(cluster)
    return [tuple(value.numpy() for value in step(deal(batch))) for batch in batches]


def _in_stored_order(
    gathered: Sequence[tuple[npt.NDArray[Any], ...]], *, num_workers: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Every worker evaluates a range of the stored order, so all batches of one come before those of the next."""

    def joined(values: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        of_worker = zip(*(np.split(value, num_workers) for value in values), strict=True)
        return np.concatenate([part for parts in of_worker for part in parts])

    labels, mask, logits = map(joined, zip(*gathered, strict=True))
    counted = mask.astype(bool)
    return labels[counted], logits[counted]


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
