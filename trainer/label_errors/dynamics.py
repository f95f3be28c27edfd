"""A model in training and its training split in; a file per evaluation that says how each example stands out.

Area under the margin (https://arxiv.org/abs/2001.10528) and forgetting events (https://arxiv.org/abs/1812.05159) look
at a label in the course of training: a right one is agreed with early, by what the others teach, a wrong one is learned
by heart, late. Here the look is a pass over the training split as evaluation sees it, at every evaluation. The papers
take what the training step computes anyway; but that is of an augmented, maybe mixed image, under other weights for
each example, and of nothing where the head trains on features or examples are sampled. This compares all under the
same.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import manifest as manifest_lib
from pipeline import storage
from pipeline.errors import InputError
from trainer import predictions
from trainer.heartbeat import Beat
from trainer.strategies import Cluster

FOLDER = "dynamics"
_FILE = re.compile(r"step-(\d{8})\.npz")


class Look(NamedTuple):
    """How the n examples of the training split stand, in stored order, after one global step.

    Attributes:
      labels: int32 [n].
      losses: float32 [n], cross-entropy of the label, unsmoothed and unweighted, in nats.
      margins: float32 [n], the label's logit minus the largest other one: positive where the model agrees.
      others: int32 [n], the class that has the largest other logit.
    """

    labels: npt.NDArray[np.int32]
    losses: npt.NDArray[np.float32]
    margins: npt.NDArray[np.float32]
    others: npt.NDArray[np.int32]


class Dynamics(NamedTuple):
    """All looks of a run: `Look`'s fields, with an axis for the looks in front where they differ."""

    labels: npt.NDArray[np.int32]  # [n]
    losses: npt.NDArray[np.float32]  # [looks, n]
    margins: npt.NDArray[np.float32]
    others: npt.NDArray[np.int32]


def of_looks(looks: Sequence[Look]) -> Dynamics:
    """Of looks at the same examples, in the order of training."""
    return Dynamics(
        looks[0].labels,
        *(np.stack([getattr(look, name) for look in looks]) for name in ("losses", "margins", "others")),
    )


def measure(labels: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """The fields of `Look` for labels int64 [batch] and logits float32 [batch, classes]."""
    own = tf.one_hot(labels, logits.shape[-1], on_value=True, off_value=False, dtype=tf.bool)
    without = tf.where(own, tf.constant(-float("inf")), logits)
    margins = tf.gather(logits, labels, batch_dims=1) - tf.reduce_max(without, axis=-1)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.cast(labels, tf.int32), losses, margins, tf.argmax(without, axis=-1, output_type=tf.int32)


def make_recorder(
    data: str,
    manifest: manifest_lib.Manifest,
    *,
    workdir: str,
    settings: Mapping[str, Any],
    cluster: Cluster,
    net: keras.Model,
    beat: Beat,
    asked_to_end: Callable[[], bool],
) -> Callable[[int], None]:
    """Compiles a pass of `net` over the training split; called with a global step it writes what it finds there.

    All workers have to call it; the chief writes. A file that can't be written ends no training: it is warned of.

    Args:
      settings: of the run.
      beat, asked_to_end: see `predictions.make`.

    Raises:
      Interrupted: from a call, where `asked_to_end` says so.
    """
    look = predictions.make(
        data,
        manifest,
        split=settings["train_split"],
        config=settings,
        cluster=cluster,
        net=net,
        measure=measure,
        beat=beat,
        asked_to_end=asked_to_end,
    )

    def record(step: int) -> None:
        found = Look(*look())
        if cluster.is_chief:
            try:
                write(workdir, step, found, fingerprint=manifest.fingerprint)
            except OSError as error:
                logging.warning("%s can't be written (%s); training goes on", _path(workdir, step), error)

    return record


def write(workdir: str, step: int, found: Look, *, fingerprint: str) -> None:
    """Writes one look, in the place of an earlier one at the same step.

    Args:
      fingerprint: of the dataset, whose order of examples the arrays are in.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, fingerprint=np.array(fingerprint), **found._asdict())
    storage.write_bytes(_path(workdir, step), buffer.getvalue())


def forget_after(workdir: str, step: int) -> None:
    """Deletes what stands there of later steps: they will be taken again, or belong to another run."""
    for other in steps(workdir):
        if other > step:
            storage.remove_tree(_path(workdir, other))


def steps(workdir: str) -> list[int]:
    """The global steps of which there is a look, rising."""
    folder = storage.join(workdir, FOLDER)
    if not storage.exists(folder):
        return []
    found = [_FILE.fullmatch(name) for name, _ in storage.children(folder)]
    return sorted(int(match[1]) for match in found if match)


def read(workdir: str, *, fingerprint: str, examples: int) -> Dynamics:
    """All looks of a run.

    Args:
      fingerprint, examples: of the dataset, and of the split that was trained on.

    Raises:
      InputError: where there are none, or one is damaged or of another dataset.
    """
    found = steps(workdir)
    if not found:
        raise InputError(
            f"{workdir} has no {FOLDER}/: train with --config.logs.dynamics=true, or let the features say it, which "
            "--evidence=features does"
        )
    return of_looks([_read(_path(workdir, step), fingerprint, examples) for step in found])


def _read(path: str, fingerprint: str, examples: int) -> Look:
    try:
        with np.load(io.BytesIO(storage.read_bytes(path)), allow_pickle=False) as arrays:
            found, of = Look(*(arrays[name] for name in Look._fields)), str(arrays["fingerprint"])
    except Exception as error:  # zipfile, zlib and NumPy raise many types on damaged data
        raise InputError(f"{path} is damaged ({error}): delete it, the other steps say enough") from error
    if of != fingerprint or {len(values) for values in found} != {examples}:
        raise InputError(
            f"{path} is of another dataset ({of[:12]}) than this one ({fingerprint[:12]}): delete {FOLDER}/"
        )
    return found


def _path(workdir: str, step: int) -> str:
    return storage.join(workdir, FOLDER, f"step-{step:08d}.npz")
