"""A classifier in; a .keras file of Keras' own layers, and what it says of images, out."""

from __future__ import annotations

import json
import zipfile

import keras
import numpy as np
import numpy.typing as npt

from trainer import classifier
from trainer.export import about as about_lib
from trainer.export import networks
from trainer.export.about import About
from trainer.export.parity import Observed

_MEMBER = f"{about_lib.KEY}.json"  # of the archive, beside Keras' own


def write(path: str, model: classifier.Classifier, about: About) -> None:
    """Writes a file that Keras alone, with nothing of ours installed, reads in its safe mode.

    It is a model of uint8 [n, image_size, image_size, 3] -> `logits`, `probabilities`, float32 [n, classes].
    """
    with networks.plain(model.net):
        logits = keras.layers.Activation("linear", dtype="float32", name="logits")(model.net.output)
        scaled = keras.layers.Rescaling(1 / about.temperature, dtype="float32", name="temperature")(logits)
        probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(scaled)
        keras.Model(model.net.input, {"logits": logits, "probabilities": probabilities}).save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_MEMBER, json.dumps(about.to_json(), indent=1, sort_keys=True))


def observe(path: str, images: npt.NDArray[np.uint8], batch: int) -> Observed:
    """What the file says of images, uint8 [n, image_size, image_size, 3]."""
    loaded = keras.saving.load_model(path, safe_mode=True)
    with zipfile.ZipFile(path) as archive:
        classes = json.loads(archive.read(_MEMBER))["classes"]
    entry, parts = networks.entry(loaded), []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        parts.append({"scaling": entry(part, training=False), **loaded(part, training=False)})
    ways = {name: [np.concatenate([np.asarray(part[name], np.float32) for part in parts])] for name in parts[0]}
    return Observed(ways, order=classes)
