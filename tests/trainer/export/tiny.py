"""A classifier that is built in a moment, with all parts that exporting one knows of, and photos for it."""

from __future__ import annotations

import hashlib
import io

import keras
import numpy as np
from PIL import Image

from pipeline import records
from tests.pipeline import pictures
from trainer import backbones, batch_norm, dropout
from trainer import run as run_lib
from trainer.classifier import Classifier

CLASSES = ("ant", "bée", "cat")
IMAGE_SIZE = 32
CROP_FRACTION = 0.75
STORING = {"shorter_side": 48, "jpeg_quality": 90, "chroma": "4:2:0", "lossless": False}
TEMPERATURE = 1.7


def classifier(*, scalings: int = 1, seed: int = 0) -> Classifier:
    """Two convolutions with what surrounds them in a real one; more than one scaling is a fault."""
    keras.utils.set_random_seed(seed)
    inside = keras.Input([IMAGE_SIZE, IMAGE_SIZE, 3])
    x = keras.layers.ZeroPadding2D(1, name="pad")(inside)
    x = keras.layers.Conv2D(8, 3, strides=2, name="first")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU(max_value=6.0, name="relu")(x)
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="last")(x)
    backbone = keras.Model(inside, x, name="backbone")
    batch_norm.fuse(backbone)
    pooled = keras.Input([16], name="pooled")
    dropped = keras.layers.Dropout(0.5, name="dropout")(pooled)
    logits = keras.layers.Dense(
        len(CLASSES), kernel_initializer=keras.initializers.RandomNormal(stddev=5.0), name="logits"
    )
    head = keras.Model(pooled, logits(dropped), name="head")
    images = keras.Input([IMAGE_SIZE, IMAGE_SIZE, 3], dtype="uint8", name="images")
    scaled = images
    for number in range(scalings):
        scaled = backbones.scale("mobilenetv2", scaled) if not number else keras.layers.Rescaling(1 / 127.5, -1)(scaled)
    net = keras.Model(images, head(keras.layers.GlobalAveragePooling2D(name="pool")(backbone(scaled))))
    dropout.place(net)
    draws = np.random.default_rng(seed)
    for variable in backbone.get_layer("norm").variables:
        variable.assign(draws.uniform(0.5, 1.5, variable.shape))
    run = run_lib.Run(
        data="data",
        dataset_fingerprint="d" * 64,
        classes=CLASSES,
        config={
            "input": {"image_size": IMAGE_SIZE, "crop_fraction": CROP_FRACTION},
            "model": {"backbone": "mobilenetv2"},
            "precision": "float32",
        },
        code="test",
        packages={},
        storing=STORING,
    )
    return Classifier(run, net, 7, "f" * 64, TEMPERATURE)


def photos(count: int = 12) -> list[records.Record]:
    """Pieces of two real photos, as they would be stored: of several sizes, none with a shorter side above 48."""
    made = []
    for number in range(count):
        with Image.open(io.BytesIO(pictures.photo(("china", "flower")[number % 2]))) as opened:
            left, top = 40 * (number % 6), 30 * (number // 6)
            piece = opened.crop((left, top, left + 200 + 20 * (number % 3), top + 200))
            piece = piece.resize((piece.width * 48 // 200, 48), Image.Resampling.BICUBIC)
        data = pictures.encode(
            piece, "PNG" if number % 5 == 4 else "JPEG", **({} if number % 5 == 4 else {"quality": 90})
        )
        identity = hashlib.sha256(data).hexdigest()
        made.append(records.Record(data, number % len(CLASSES), identity, f"{number}.jpg", ""))
    return made
