"""Colours against Pillow and KerasCV, eagerly and inside `Dataset.map`."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from pipeline.augmentations import color

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

_RNG = np.random.default_rng(0)
_Y, _X = np.mgrid[0:120, 0:90]


def _picture(low: int, high: int) -> np.ndarray:
    """Gradients that leave part of the range unused, with a little noise."""
    smooth = np.stack([_Y / 119, _X / 89, 0.5 + 0.5 * np.sin((_X + _Y) / 15)], axis=-1)
    noisy = low + (high - low) * smooth**2 + _RNG.normal(0, 3, smooth.shape)
    return noisy.clip(low, high).round().astype(np.uint8)


IMAGES = {
    "photo-like": _picture(20, 200),
    "dark": _picture(0, 40),
    "bright": _picture(215, 255),
    "noise": _RNG.integers(0, 256, [61, 45, 3], dtype=np.uint8),
    "two values": np.where(_RNG.random([50, 40, 3]) < 0.1, 7, 250).astype(np.uint8),
    "one colour": np.full([20, 30, 3], (0, 77, 255), np.uint8),
}
FACTORS = [0.01, 0.19, 0.7, 1.0, 1.3, 1.81, 1.99]
ENHANCERS = {
    color.color: ImageEnhance.Color,
    color.contrast: ImageEnhance.Contrast,
    color.brightness: ImageEnhance.Brightness,
    color.sharpness: ImageEnhance.Sharpness,
}


def _check(change: Callable[[tf.Tensor], tf.Tensor], image: np.ndarray, expected: np.ndarray, levels: int = 0) -> None:
    found = change(tf.constant(image))
    assert found.dtype == tf.uint8
    assert found.shape == image.shape
    assert np.abs(found.numpy().astype(int) - expected).max() <= levels
    dataset = tf.data.Dataset.from_tensors(image).map(change)
    assert dataset.element_spec.shape == image.shape
    np.testing.assert_array_equal(next(iter(dataset)), found)


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
def test_auto_contrast_and_equalize_are_pillows(image: np.ndarray) -> None:
    _check(color.auto_contrast, image, np.asarray(ImageOps.autocontrast(Image.fromarray(image)), int), levels=1)
    _check(color.equalize, image, np.asarray(ImageOps.equalize(Image.fromarray(image))))


def test_auto_contrast_is_exact_where_pillow_rounds() -> None:
    """Pillow computes x * scale + offset in floats, which falls just short of some whole numbers; these do not."""
    for low, high in [(0, 127), (0, 85), (5, 90), (100, 101), (0, 254), (13, 255), (77, 220)]:
        values = np.resize(np.arange(low, high + 1), [8, 64])[..., np.newaxis].repeat(3, axis=2)
        found = color.auto_contrast(tf.constant(values, tf.uint8)).numpy()
        np.testing.assert_array_equal(found, (values - low) * 255 // (high - low))
        pillow = np.asarray(ImageOps.autocontrast(Image.fromarray(values.astype(np.uint8))), int)
        assert np.abs(found - pillow).max() <= 1


@pytest.mark.parametrize("threshold", [0, 1, 26, 128, 255, 256])
def test_solarize_is_pillows(threshold: int) -> None:
    image = IMAGES["noise"]
    expected = np.asarray(ImageOps.solarize(Image.fromarray(image), threshold))
    _check(lambda pixels: color.solarize(pixels, threshold), image, expected)


@pytest.mark.parametrize("bits", range(9))
def test_posterize_is_pillows(bits: int) -> None:
    image = IMAGES["noise"]
    # Pillow refuses 0 bits, which leave nothing.
    expected = np.asarray(ImageOps.posterize(Image.fromarray(image), bits)) if bits else np.zeros_like(image)
    _check(lambda pixels: color.posterize(pixels, bits), image, expected)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(("change", "enhancer"), ENHANCERS.items(), ids=lambda item: item.__name__)
@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
def test_enhancements_are_pillows(image: np.ndarray, change: Callable, enhancer: type, factor: float) -> None:
    """Within one level: factors are rounded to 1/256, which moves 255 levels by half a level at most."""
    expected = np.asarray(enhancer(Image.fromarray(image)).enhance(factor), int)
    found = change(tf.constant(image), factor).numpy()
    assert np.abs(found - expected).max() <= 1
    if factor == 1:
        np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize(("change", "enhancer"), ENHANCERS.items(), ids=lambda item: item.__name__)
def test_enhancements_inside_a_dataset(change: Callable, enhancer: type) -> None:
    image = IMAGES["photo-like"]
    expected = np.asarray(enhancer(Image.fromarray(image)).enhance(1.7), int)
    _check(lambda pixels: change(pixels, 1.7), image, expected, levels=1)


@pytest.mark.parametrize("name", ["photo-like", "dark", "noise"])
def test_what_keras_cv_defines_likewise_agrees(name: str) -> None:
    layers = pytest.importorskip("keras_cv").layers
    image = tf.constant(IMAGES[name])

    def reference(layer: Callable) -> np.ndarray:
        return np.asarray(layer(tf.cast(image, tf.float32)), int)

    if name == "noise":  # elsewhere it leaves out the rarest value's pixels, where Pillow leaves out the largest's
        np.testing.assert_array_equal(color.equalize(image), reference(layers.Equalization(value_range=(0, 255))))
    solarization = layers.Solarization(value_range=(0, 255), threshold_factor=(100, 100))
    np.testing.assert_array_equal(color.solarize(image, 100), reference(solarization))
    assert np.abs(color.auto_contrast(image).numpy() - reference(layers.AutoContrast(value_range=(0, 255)))).max() <= 1
    np.testing.assert_array_equal(
        color.posterize(image, 3), reference(layers.Posterization(value_range=(0, 255), bits=3))
    )
    saturation = layers.RandomColorDegeneration(factor=(0.6, 0.6))  # 0.6 of the way to grey: our factor 0.4
    assert np.abs(color.color(image, 0.4).numpy() - reference(saturation)).max() <= 2
