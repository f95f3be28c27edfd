"""Model, optimizer, random state and global step in; the newest sound checkpoint of a working directory out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from pipeline import storage
from pipeline.errors import InputError
from trainer import model as model_lib

_FOLDER = "checkpoints"
_KEEP = 2  # the newest, and the one before it in case a disk fills up or a copy is cut off


class _Fingerprint(tf.train.experimental.PythonState):  # type: ignore[misc]  # TensorFlow ships no types
    """Says inside the checkpoint which dataset, config and code its weights came from."""

    def __init__(self, value: str = "") -> None:
        self.value = value

    def serialize(self) -> bytes:
        return self.value.encode()

    def deserialize(self, data: Any) -> None:
        self.value = tf.compat.as_text(data)


class Checkpoints:
    """`tf.train.CheckpointManager` under our own step numbers; a save is complete or not there at all.

    TensorFlow writes data and index first and renames the `checkpoint` file that names them last, so a process that is
    killed while it saves leaves the previous one in force.
    """

    def __init__(
        self, workdir: str, model: keras.Model, optimizer: keras.optimizers.Optimizer, *, fingerprint: str
    ) -> None:
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False, name="global_step")
        self._model = model
        self._fingerprint = _Fingerprint(fingerprint)
        # Keras leaves dropout's random state out of what it tracks; without it a resumed run drops other units.
        random = [variable for variable in model.variables if variable.path.endswith("seed_generator_state")]
        content = tf.train.Checkpoint(
            model=model, optimizer=optimizer, step=self._step, random=random, fingerprint=self._fingerprint
        )
        folder = storage.join(workdir, _FOLDER)
        self._manager = tf.train.CheckpointManager(content, folder, max_to_keep=_KEEP, checkpoint_name="step")

    def restore(self) -> int:
        """Loads the newest sound checkpoint where there is one, and returns the global steps already taken.

        Raises:
          InputError: where there are checkpoints and none can be read.
        """
        if not self._manager.checkpoints:
            return 0
        now = self._fingerprint.value
        _newest_sound(self._manager.checkpoints, lambda path: self._manager.checkpoint.restore(path).assert_consumed())
        self._fingerprint.value = now  # later saves are this code's work
        model_lib.refresh(self._model)
        return int(self._step.numpy())

    def save(self, step: int) -> None:
        self._step.assign(step)
        self._manager.save(checkpoint_number=step)


def exist(workdir: str) -> bool:
    return bool(_paths(workdir))


def load_weights(workdir: str, model: keras.Model) -> tuple[int, str]:
    """Loads the newest sound checkpoint's weights alone, for evaluation and prediction.

    Returns:
      Its global step and its fingerprint (see `run.Run.fingerprint`).

    Raises:
      InputError: where there is no checkpoint yet, or none can be read.
    """
    if not exist(workdir):
        raise InputError(f"{workdir} has no checkpoint yet: let `python -m trainer train` reach its first one")
    step = tf.Variable(0, dtype=tf.int64)
    fingerprint = _Fingerprint()
    content = tf.train.Checkpoint(model=model, step=step, fingerprint=fingerprint)

    def load(path: str) -> None:
        # The optimizer's slots and the random state stay behind.
        content.restore(path).expect_partial().assert_existing_objects_matched()

    _newest_sound(_paths(workdir), load)
    model_lib.refresh(model)
    return int(step.numpy()), fingerprint.value


def _paths(workdir: str) -> list[str]:
    """Oldest first."""
    state = tf.train.get_checkpoint_state(storage.join(workdir, _FOLDER))
    return list(state.all_model_checkpoint_paths) if state else []


def _newest_sound(paths: Sequence[str], load: Callable[[str], Any]) -> None:
    for path in reversed(paths):
        try:
            load(path)
        except Exception as error:  # noqa: BLE001  # TensorFlow reports damage in many types, IndexError among them
            logging.warning("checkpoint %s is damaged (%s); trying the one before", path, str(error).splitlines()[0])
        else:
            return
    raise InputError(f"none of the checkpoints can be read ({', '.join(paths)}): train again in another --workdir")
