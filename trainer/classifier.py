"""A run's working directory in; its model with all that turns an image file into probabilities out."""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import decode, images, storage
from trainer import checkpoints, model, predictions
from trainer import run as run_lib

CALIBRATION_FILE = "calibration.json"


@dataclasses.dataclass(frozen=True)
class Classifier:
    run: run_lib.Run
    net: keras.Model  # uint8 [n, image_size, image_size, 3] -> logits, float32 [n, classes]
    step: int
    fingerprint: str
    temperature: float  # of the softmax; see `predictions.softmax`

    def prepare(self, source: bytes) -> tf.Tensor:
        """A file's bytes as the model wants them: uint8 [image_size, image_size, 3]; see `prepare`."""
        settings = self.run.config["input"]
        return prepare(
            source,
            storing=images.Storing(**self.run.storing),
            image_size=settings["image_size"],
            crop_fraction=settings["crop_fraction"],
        )

    def logits(self, pixels: tf.Tensor) -> npt.NDArray[np.float32]:
        """float32 [n, classes] for uint8 [n, image_size, image_size, 3]."""
        return np.asarray(self.net(pixels, training=False), np.float32)

    def probabilities(self, pixels: tf.Tensor) -> npt.NDArray[np.float64]:
        """The same after the temperature: float64 [n, classes], each row adding up to 1."""
        return predictions.softmax(self.logits(pixels), self.temperature)


def prepare(source: bytes, *, storing: images.Storing, image_size: int, crop_fraction: float) -> tf.Tensor:
    """A file's bytes as a model wants them, by the same steps as a stored example that is evaluated.

    Args:
      storing: how the dataset's images are stored, which comes first here as it did there.
      image_size, crop_fraction: see `decode.central_crop`.

    Returns:
      uint8 [image_size, image_size, 3].

    Raises:
      ImageError: where the bytes are no sound image.
    """
    stored = tf.constant(images.standardize(source, storing).data)
    return _crop(image_size, crop_fraction)(stored)


@functools.cache
def _crop(image_size: int, crop_fraction: float) -> Any:
    """As one graph: operation by operation from Python it took 2.5 ms of CPU a photo, this way 0.9."""
    return tf.function(
        lambda stored: decode.central_crop_encoded(stored, image_size=image_size, crop_fraction=crop_fraction),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )


def load(workdir: str, *, checkpoint: str = "best") -> Classifier:
    """Loads a checkpoint's weights, and the temperature that was fitted to them.

    Args:
      checkpoint: see `checkpoints.load_weights`.

    Raises:
      InputError: where the run is missing or has no sound checkpoint.
    """
    run = run_lib.load(workdir)
    net = restore_model(run)
    step, fingerprint = checkpoints.load_weights(workdir, net, which=checkpoint)
    return Classifier(run, net, step, fingerprint, temperature_of(workdir, step=step, fingerprint=fingerprint))


def restore_model(run: run_lib.Run) -> keras.Model:
    """The run's model, ready for the checkpoint's weights."""
    keras.mixed_precision.set_global_policy(run.config["precision"])
    return model.build(
        num_classes=len(run.classes),
        image_size=run.config["input"]["image_size"],
        load_weights=False,
        **run.config["model"],
    )


def temperature_of(workdir: str, *, step: int, fingerprint: str) -> float:
    """What `python -m trainer evaluate` fitted to these weights on the validation split; else 1, which changes nothing.

    The file says `temperature`, and of which `step` and `fingerprint`; what was fitted to other weights is not taken.
    """
    path = storage.join(workdir, CALIBRATION_FILE)
    if not storage.exists(path):
        return 1.0
    fitted: dict[str, Any] = storage.read_json(path)
    if (fitted["step"], fitted["fingerprint"]) != (step, fingerprint):
        logging.warning(
            "%s was fitted to the weights of step %s, these are of step %d: confidences are not calibrated; run "
            "`python -m trainer evaluate`",
            path,
            fitted["step"],
            step,
        )
        return 1.0
    return float(fitted["temperature"])
