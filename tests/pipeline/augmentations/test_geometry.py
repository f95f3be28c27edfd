"""Turned, sheared and moved images against Pillow, to the pixel, eagerly and inside `Dataset.map`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.augmentations import geometry

SHAPES = [(64, 48), (33, 57), (224, 224)]
GREY = (128, 128, 128)


def _noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, [height, width, 3], dtype=np.uint8)


def _pillow(image: np.ndarray, matrix: tuple[float, ...]) -> np.ndarray:
    picture = Image.fromarray(image)
    moved = picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=GREY)
    return np.asarray(moved)


def _check(change: Callable[[tf.Tensor], tf.Tensor], image: np.ndarray, expected: np.ndarray) -> None:
    found = change(tf.constant(image))
    assert found.dtype == tf.uint8
    np.testing.assert_array_equal(found, expected)
    dataset = tf.data.Dataset.from_tensors(image).map(change)
    assert dataset.element_spec.shape == image.shape
    np.testing.assert_array_equal(next(iter(dataset)), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("degrees", [27.0, -27.0, 135.0, 3.5, 0.0])
def test_rotate_is_pillows(shape: tuple[int, int], degrees: float) -> None:
    image = _noise(*shape)
    turned = Image.fromarray(image).rotate(degrees, Image.Resampling.NEAREST, fillcolor=GREY)
    _check(lambda pixels: geometry.rotate(pixels, degrees), image, np.asarray(turned))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factor", [0.27, -0.27, 0.99, -0.99])
def test_shears_are_pillows(shape: tuple[int, int], factor: float) -> None:
    image = _noise(*shape)
    _check(lambda pixels: geometry.shear_x(pixels, factor), image, _pillow(image, (1, factor, 0, 0, 1, 0)))
    _check(lambda pixels: geometry.shear_y(pixels, factor), image, _pillow(image, (1, 0, 0, factor, 1, 0)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pixels", [13, -13, 33, 0])
def test_translations_are_pillows(shape: tuple[int, int], pixels: int) -> None:
    image = _noise(*shape)
    _check(lambda image: geometry.translate_x(image, pixels), image, _pillow(image, (1, 0, pixels, 0, 1, 0)))
    _check(lambda image: geometry.translate_y(image, pixels), image, _pillow(image, (1, 0, 0, 0, 1, pixels)))


def test_an_image_beyond_the_fixed_point_is_refused() -> None:
    with pytest.raises(ValueError, match="4097"):
        geometry.rotate(tf.zeros([3, 4097, 3], tf.uint8), 10.0)
