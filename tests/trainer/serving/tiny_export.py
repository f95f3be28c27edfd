"""An export with the signatures that serving expects, of a model that tells colours apart and is made in a second."""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline import decode
from trainer.serving import drift

CLASSES = ("blue", "green", "red")
SIDE = 32
TEMPERATURE = 1.5
_FEATURES = 6


class _Colours(tf.Module):
    """Logits are how much of each class's colour there is, times `sharpness`."""

    def __init__(self, sharpness: float) -> None:
        super().__init__()
        self.sharpness = tf.Variable(sharpness)

    @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], tf.uint8, name="images")])
    def pixels(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        values = tf.cast(images, tf.float32) / 255
        means = tf.reduce_mean(values, [1, 2])[:, ::-1]
        logits = self.sharpness * (means - tf.reduce_mean(means, 1, keepdims=True))
        return {
            "logits": logits,
            "probabilities": tf.nn.softmax(logits / TEMPERATURE),
            "embedding": tf.concat([means, tf.math.reduce_std(values, [1, 2])], 1),
        }

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, SIDE, SIDE, 3], tf.uint8, name="images"),
            tf.TensorSpec([None], tf.int64, name="class_index"),
        ]
    )
    def heatmap(self, images: tf.Tensor, class_index: tf.Tensor) -> dict[str, tf.Tensor]:
        channels = tf.transpose(images[..., ::-1], [0, 3, 1, 2])
        return {"heatmap": tf.cast(tf.gather(channels, class_index, batch_dims=1), tf.float32) / 255}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def prepare(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        def cut(source: tf.Tensor) -> tf.Tensor:
            return decode.central_crop_encoded(source, image_size=SIDE, crop_fraction=1.0)

        return {"images": tf.map_fn(cut, image_bytes, fn_output_signature=tf.uint8)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serving_default(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = self.pixels(self.prepare(image_bytes)["images"])["probabilities"]
        return {
            "probabilities": probabilities,
            "label": tf.gather(tf.constant(CLASSES), tf.argmax(probabilities, 1)),
            "confidence": tf.reduce_max(probabilities, 1),
        }


def write(workdir: pathlib.Path, version: int, *, sharpness: float = 20.0, **changed: Any) -> pathlib.Path:
    """Writes WORKDIR/exports/VERSION, its card last; `changed` replaces keys of the card."""
    folder = workdir / "exports" / str(version)
    model = _Colours(sharpness)
    signatures = {name: getattr(model, name) for name in ("serving_default", "pixels", "heatmap", "prepare")}
    tf.saved_model.save(model, str(folder), signatures=signatures)
    images = pictures(np.random.default_rng(0), 120)
    found = model.pixels(images)
    files = [path for path in folder.rglob("*") if path.is_file()]
    card = {
        "format": 1,
        "name": "colours",
        "version": version,
        "classes": CLASSES,
        "step": version,
        "fingerprint": "f" * 64,
        "temperature": TEMPERATURE,
        "preprocessing": {"version": 1, "image_size": SIDE, "crop_fraction": 1.0, "storing": {}},
        "files": {
            str(path.relative_to(folder)): {
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in files
        },
        "reference": drift.reference(images, found["probabilities"].numpy(), found["embedding"].numpy()),
        **changed,
    }
    (folder / "export.json").write_text(json.dumps(card))
    return folder


def pictures(random: np.random.Generator, count: int, shift: float = 0.0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 [count, SIDE, SIDE, 3]: a colour of its own each, `shift` brighter, with grain."""
    colours = random.uniform(40, 180, (count, 1, 1, 3)) + shift
    return np.clip(colours + random.normal(0, 20, (count, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
