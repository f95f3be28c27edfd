"""uint8 images of the model's size in, the same with blur, noise, JPEG's losses or too much light out.

Benchmarking Neural Network Robustness to Common Corruptions and Perturbations (https://arxiv.org/abs/1903.12261): the
parameters are those of severities 1, 3 and 5 of ImageNet-C, whose images have 224 pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import scipy.ndimage  # type: ignore[import-untyped]
import tensorflow as tf

from pipeline import decode

SEVERITIES = (1, 3, 5)
_IMAGENET_C_PX = 224
_NOISE_DEVIATION = {1: 0.08, 3: 0.18, 5: 0.38}  # of pixels in 0..1
_BLUR_SIGMA_PX = {1: 1.0, 3: 3.0, 5: 6.0}
_JPEG_QUALITY = {1: 25, 3: 15, 5: 7}
_BRIGHTNESS_ADDED = {1: 0.1, 3: 0.3, 5: 0.5}  # to HSV's value in 0..1

Corrupt = Callable[[tf.Tensor], tf.Tensor]


def corruptions(image_size: int, seed: int = 0) -> dict[tuple[str, int], Corrupt]:
    """A function for each corruption and severity, uint8 [n, image_size, image_size, 3] to the same.

    What is drawn for an image follows from its pixels and `seed` alone, so neither the size of a batch nor the number
    of workers changes it.
    """
    makers: dict[str, Callable[[int], Corrupt]] = {
        "gaussian_noise": lambda severity: functools.partial(noise, deviation=_NOISE_DEVIATION[severity], seed=seed),
        # In the paper's share of the picture, as every picture is scaled to the model's size.
        "gaussian_blur": lambda severity: functools.partial(
            blur, sigma_px=_BLUR_SIGMA_PX[severity] * image_size / _IMAGENET_C_PX
        ),
        "jpeg_compression": lambda severity: functools.partial(jpeg, quality=_JPEG_QUALITY[severity]),
        "brightness": lambda severity: functools.partial(brighten, added=_BRIGHTNESS_ADDED[severity]),
    }
    return {(name, severity): make(severity) for name, make in makers.items() for severity in SEVERITIES}


def noise(images: tf.Tensor, *, deviation: float, seed: int) -> tf.Tensor:
    """Adds normal noise, of standard deviation `deviation` where pixels are in 0..1, to each channel of each pixel."""

    def of_one(image: tf.Tensor) -> tf.Tensor:
        drawn = tf.random.stateless_normal(tf.shape(image), [seed, _number_of(image)], stddev=255 * deviation)
        return _to_uint8(tf.cast(image, tf.float32) + drawn)

    return tf.map_fn(of_one, images)


def blur(images: tf.Tensor, *, sigma_px: float) -> tf.Tensor:
    """Convolves with a Gaussian, the border's pixels going on outside of it."""
    size = images.shape[1]
    # It is linear along each side, so SciPy's own filter of unit vectors gives its matrix.
    matrix = scipy.ndimage.gaussian_filter1d(np.eye(size), sigma_px, axis=0, mode="nearest").astype(np.float32)
    return _to_uint8(tf.einsum("ij,kl,njlc->nikc", matrix, matrix, tf.cast(images, tf.float32)))


def jpeg(images: tf.Tensor, *, quality: int) -> tf.Tensor:
    """Writes each image as a JPEG of that quality, with colour of half resolution, and reads it."""
    return tf.map_fn(lambda image: decode.decode(tf.io.encode_jpeg(image, quality=quality)), images)


def brighten(images: tf.Tensor, *, added: float) -> tf.Tensor:
    """Adds to the value of HSV, up to its limit of 1; hue and saturation stay."""
    hue, saturation, value = tf.unstack(tf.image.rgb_to_hsv(tf.cast(images, tf.float32) / 255), axis=-1)
    brighter = tf.stack([hue, saturation, tf.minimum(value + added, 1.0)], axis=-1)
    return _to_uint8(255 * tf.image.hsv_to_rgb(brighter))


def _number_of(image: tf.Tensor) -> tf.Tensor:
    """An int32 that follows from every pixel's value and place: a sum of products that may overflow."""
    pixels = tf.reshape(tf.cast(image, tf.int32), [-1])
    return tf.reduce_sum(pixels * (2 * tf.range(tf.size(pixels)) + 1) * 40_503)  # odd factors lose no bit


def _to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.round(tf.clip_by_value(pixels, 0.0, 255.0)), tf.uint8)
