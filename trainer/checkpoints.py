"""Model, optimizer, random state and global step in; the newest checkpoint of a working directory out."""

from __future__ import annotations

import keras
import tensorflow as tf

from pipeline import storage
from pipeline.errors import InputError
from trainer import model as model_lib

_FOLDER = "checkpoints"
_KEEP = 2  # the newest, and the one before it in case a disk fills up or a copy is cut off


class Checkpoints:
    """`tf.train.CheckpointManager` under our own step numbers; a save is complete or not there at all.

    TensorFlow writes data and index first and renames the `checkpoint` file that names them last, so a process that is
    killed while it saves leaves the previous one in force.
    """

    def __init__(self, workdir: str, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False, name="global_step")
        self._model = model
        # Keras leaves dropout's random state out of what it tracks; without it a resumed run drops other units.
        random = [variable for variable in model.variables if variable.path.endswith("seed_generator_state")]
        content = tf.train.Checkpoint(model=model, optimizer=optimizer, step=self._step, random=random)
        folder = storage.join(workdir, _FOLDER)
        self._manager = tf.train.CheckpointManager(content, folder, max_to_keep=_KEEP, checkpoint_name="step")

    def restore(self) -> int:
        """Loads the newest checkpoint where there is one, and returns the global steps already taken."""
        newest = self._manager.latest_checkpoint
        if newest:
            self._manager.checkpoint.restore(newest).assert_consumed()
            model_lib.refresh(self._model)
        return int(self._step.numpy())

    def save(self, step: int) -> None:
        self._step.assign(step)
        self._manager.save(checkpoint_number=step)


def load_weights(workdir: str, model: keras.Model) -> int:
    """Loads the newest checkpoint's weights alone, for evaluation and prediction, and returns its global step.

    Raises:
      InputError: where there is no checkpoint yet.
    """
    newest = tf.train.latest_checkpoint(storage.join(workdir, _FOLDER))
    if newest is None:
        raise InputError(f"{workdir} has no checkpoint yet: let `python -m trainer train` reach its first one")
    step = tf.Variable(0, dtype=tf.int64)
    status = tf.train.Checkpoint(model=model, step=step).restore(newest)
    status.assert_existing_objects_matched().expect_partial()  # the optimizer's slots stay behind
    model_lib.refresh(model)
    return int(step.numpy())
