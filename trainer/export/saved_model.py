"""A classifier in; a SavedModel that turns files' bytes into labels, and what one says stage by stage, out."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import images as images_lib
from pipeline import storage
from trainer import classifier
from trainer.explanation import grad_cam
from trainer.export import networks, parity, preparation
from trainer.export.about import About
from trainer.export.parity import Observed

ABOUT_FILE = "about.json"  # among the SavedModel's assets


@dataclasses.dataclass(frozen=True, eq=False)
class _Functions:
    """What the signatures compute. No tf.Module: of Keras' model the variables alone are to be saved."""

    model: classifier.Classifier
    about: About
    entry: keras.Model
    embedding: keras.Model

    def prepared(self, image_bytes: tf.Tensor) -> preparation.Prepared:
        settings = self.model.run.config["input"]
        return preparation.prepare(
            image_bytes,
            storing=images_lib.Storing(**self.model.run.storing),
            image_size=settings["image_size"],
            crop_fraction=settings["crop_fraction"],
        )

    def prepare(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        signature = tf.TensorSpec(self.model.net.input_shape[1:], tf.uint8)
        images = tf.map_fn(lambda one: self.prepared(one).images, image_bytes, fn_output_signature=signature)
        return {"images": images}

    def pixels(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        found = self.embedding(images, training=False)
        answers = networks.answers(found["logits"], self.about.temperature)
        return {**answers, "embedding": tf.cast(found["embedding"], tf.float32)}

    def serving_default(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = self.pixels(self.prepare(image_bytes)["images"])["probabilities"]
        return {
            "probabilities": probabilities,
            "label": self._label(probabilities),
            "confidence": tf.reduce_max(probabilities, axis=-1),
        }

    def heatmap(self, images: tf.Tensor, class_index: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"heatmap": grad_cam.grad_cam(self.model.net, images, class_index)}

    def stages(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Of one file, by the functions above: `parity.STAGES`, and the label."""
        one = self.prepared(image_bytes)
        found = self.pixels(one.images[None])
        return {
            "decode": one.decoded,
            "orientation": one.upright,
            "crop": one.images,
            "scaling": tf.cast(self.entry(one.images[None], training=False), tf.float32)[0],
            "logits": found["logits"][0],
            "probabilities": found["probabilities"][0],
            "label": self._label(found["probabilities"])[0],
        }

    def _label(self, probabilities: tf.Tensor) -> tf.Tensor:
        names = tf.constant([name.encode("utf-8", "surrogateescape") for name in self.about.classes])
        return tf.gather(names, tf.argmax(probabilities, axis=-1))


def write(folder: str, model: classifier.Classifier, about: About) -> None:
    """Writes a SavedModel into a local folder.

    Its signatures, all for any number of images n:
      serving_default: `image_bytes` string [n], of JPEG or PNG files -> `probabilities` float32 [n, classes], `label`
        string [n], `confidence` float32 [n]. One file that is damaged fails the request.
      pixels: `images` uint8 [n, image_size, image_size, 3] -> `logits`, `probabilities`, `embedding`, float32.
      heatmap: `images`, `class_index` int64 [n] -> `heatmap` float32 [n, h, w]; see `explanation.grad_cam`.
      prepare: `image_bytes` -> `images`.
    """
    functions = _Functions(model, about, networks.entry(model.net), networks.with_embedding(model.net))
    encoded = tf.TensorSpec([None], tf.string, "image_bytes")
    images = tf.TensorSpec([None, *model.net.input_shape[1:]], tf.uint8, "images")
    signatures = {
        "serving_default": _function(functions.serving_default, encoded),
        "pixels": _function(functions.pixels, images),
        "heatmap": _function(functions.heatmap, images, tf.TensorSpec([None], tf.int64, "class_index")),
        "prepare": _function(functions.prepare, encoded),
    }
    module = tf.Module()
    module.weights = [variable.value for variable in model.net.variables]
    module.stages = _function(functions.stages, tf.TensorSpec([], tf.string, "image_bytes"))
    with tempfile.TemporaryDirectory() as scratch:
        about_path = os.path.join(scratch, ABOUT_FILE)
        storage.write_json(about_path, about.to_json())
        module.about = tf.saved_model.Asset(about_path)
        tf.saved_model.save(module, folder, signatures=signatures)


def observe(folder: str, files: Sequence[bytes], batch: int) -> Observed:
    """What the SavedModel in a local folder makes of files, by every way it offers."""
    loaded = tf.saved_model.load(folder)
    signatures = loaded.signatures
    found: dict[str, list[Any]] = {}
    for file in files:
        for name, value in loaded.stages(tf.constant(file)).items():
            found.setdefault(name, []).append(value.numpy())
    images = _in_batches(signatures["prepare"], batch, image_bytes=files)["images"]
    pixels = _in_batches(signatures["pixels"], batch, images=images)
    served = _in_batches(signatures["serving_default"], batch, image_bytes=files)
    ways: dict[str, list[parity.Values]] = {
        **{stage: [found[stage]] for stage in ("decode", "orientation", "scaling")},
        "crop": [found["crop"], images],
        "logits": [found["logits"], pixels["logits"]],
        "probabilities": [found["probabilities"], served["probabilities"], pixels["probabilities"]],
    }
    labels = [list(map(_text, names)) for names in (found["label"], served["label"])]
    return Observed(ways, labels, order=storage.read_json(loaded.about.asset_path.numpy().decode())["classes"])


def answers(folder: str, images: npt.NDArray[np.uint8], batch: int) -> dict[str, npt.NDArray[Any]]:
    """`logits`, `probabilities` and `embedding` of uint8 [n, s, s, 3], by the signature `pixels`."""
    return _in_batches(tf.saved_model.load(folder).signatures["pixels"], batch, images=images)


def _in_batches(signature: Any, batch: int, **given: Any) -> dict[str, npt.NDArray[Any]]:
    ((name, values),) = given.items()
    parts = [signature(**{name: tf.constant(values[start : start + batch])}) for start in range(0, len(values), batch)]
    return {output: np.concatenate([part[output].numpy() for part in parts]) for output in parts[0]}


def _function(function: Any, *signature: tf.TensorSpec) -> Any:
    return tf.function(function, input_signature=signature, autograph=False)


def _text(label: bytes) -> str:
    return label.decode("utf-8", "surrogateescape")
