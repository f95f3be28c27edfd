"""Corruptions against Pillow, SciPy and the standard library; what is drawn follows from the image alone."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from PIL import Image

from trainer.evaluation import robustness

IMAGES = np.random.default_rng(0).integers(256, size=[3, 24, 24, 3], dtype=np.uint8)
SMOOTH = np.stack([scipy.ndimage.zoom(image[:4, :4], (6, 6, 1), order=1) for image in IMAGES])


def test_blur_is_scipy_s() -> None:
    found = robustness.blur(tf.constant(SMOOTH), sigma_px=2.0).numpy()
    expected = [scipy.ndimage.gaussian_filter(one.astype(float), (2, 2, 0), mode="nearest") for one in SMOOTH]
    np.testing.assert_allclose(found, expected, atol=0.51)


def test_jpeg_is_pillow_s() -> None:
    found = robustness.jpeg(tf.constant(SMOOTH), quality=15).numpy()
    for image, decoded in zip(SMOOTH, found, strict=True):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=15, subsampling="4:2:0")
        np.testing.assert_allclose(decoded.astype(int), np.asarray(Image.open(stream)).astype(int), atol=2)


def test_brightness_is_added_to_hsv_s_value() -> None:
    found = robustness.brighten(tf.constant(IMAGES), added=0.3).numpy()
    for pixel, brighter in zip(IMAGES.reshape(-1, 3)[::29], found.reshape(-1, 3)[::29], strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        expected = 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + 0.3)))
        np.testing.assert_allclose(brighter, expected, atol=0.51)


def test_noise_has_its_deviation_and_follows_from_the_image() -> None:
    grey = tf.fill([2, 64, 64, 3], tf.constant(128, tf.uint8))
    deviations = robustness.noise(grey, deviation=0.08, seed=0).numpy().astype(float) - 128
    assert deviations.std() == pytest.approx(0.08 * 255, rel=0.02)
    assert deviations.mean() == pytest.approx(0, abs=0.5)
    together = robustness.noise(tf.constant(IMAGES), deviation=0.1, seed=0).numpy()
    alone = [robustness.noise(tf.constant(IMAGES[i : i + 1]), deviation=0.1, seed=0).numpy()[0] for i in range(3)]
    np.testing.assert_array_equal(together, alone)
    drawn = together.astype(int) - IMAGES
    assert (drawn[0] != drawn[1]).mean() > 0.5
    assert (robustness.noise(tf.constant(IMAGES), deviation=0.1, seed=1).numpy() != together).mean() > 0.5


def test_each_severity_is_worse_and_keeps_shape_and_type() -> None:
    smooth = np.stack([scipy.ndimage.zoom(image[:8, :8], (12, 12, 1), order=1) for image in IMAGES])
    found = robustness.corruptions(96)
    assert {name for name, _ in found} == {"gaussian_noise", "gaussian_blur", "jpeg_compression", "brightness"}
    before = dict.fromkeys((name for name, _ in found), 0.0)
    for (name, severity), corrupt in found.items():
        changed = tf.function(corrupt)(tf.constant(smooth))
        assert (changed.shape, changed.dtype) == (smooth.shape, tf.uint8)
        distance = np.abs(changed.numpy().astype(int) - smooth).mean()
        assert distance > before[name], (name, severity)
        before[name] = distance
