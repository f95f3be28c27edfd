"""A model with weights by hand that finds red and blue squares, and images with such squares at known places."""

from __future__ import annotations

import keras
import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

SIZE = 32
CLASSES = ("blue", "red")
BLUE, RED = 0, 1
_COLOURS = {BLUE: (20, 20, 230), RED: (230, 20, 20)}


def image(*squares: tuple[int, int, int], side_px: int = 8) -> npt.NDArray[np.uint8]:
    """uint8 [32, 32, 3], grey, with a square for each (class, row, column) of its upper left corner."""
    pixels = np.full([SIZE, SIZE, 3], 110, np.uint8)
    for label, row, column in squares:
        pixels[row : row + side_px, column : column + side_px] = _COLOURS[label]
    return pixels


def net(*, nested: bool = True, policy: str = "float32") -> keras.Model:
    """uint8 images to two logits: how much blue, how much red; a map of 8x8 before the pooling."""
    scaled = keras.Input([SIZE, SIZE, 3])
    conv = keras.layers.Conv2D(2, 4, strides=4, activation="relu", name="colours", dtype=policy)
    images = keras.Input([SIZE, SIZE, 3], dtype="uint8")
    scale = keras.layers.Rescaling(1 / 255, dtype="float32", name="scale")
    if nested:
        features = keras.Model(scaled, conv(scaled), name="backbone")(scale(images))
    else:
        features = conv(scale(images))
    pooled = keras.layers.GlobalAveragePooling2D(name="pool", dtype=policy)(features)
    head = keras.layers.Dense(2, name="head", dtype="float32")
    model = keras.Model(images, head(keras.layers.Dropout(0.5)(pooled)))
    blue, red = (-0.5, -0.5, 1), (1, -0.5, -0.5)
    conv.set_weights([np.tile(np.stack([blue, red], -1) / 16, [4, 4, 1, 1]), np.zeros(2)])
    head.set_weights([np.array([[1.0, -0.5], [-0.5, 1.0]]), np.array([-0.01, -0.01])])
    return model


def rank_correlation(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Spearman's, as Sanity Checks for Saliency Maps compares maps (https://arxiv.org/abs/1810.03292)."""
    return float(spearmanr(one.ravel(), other.ravel()).statistic)
