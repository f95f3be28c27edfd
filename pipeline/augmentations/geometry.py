"""One uint8 image in, the same image turned, sheared or moved out, with mid grey where it has no pixels.

Pixels are taken, not interpolated: the released code of RandAugment's authors does so, and a second interpolation after
the resize would blur. Coordinates are fixed point with 16 fractional bits, as in Pillow's `Image.transform`, so every
machine takes the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from pipeline.augmentations.compiled import compiled

# Mid grey, as in the authors' released code. Black, the default elsewhere, is far from a normalised image's mean.
FILL = 128
MAX_SIDE = 4096  # pixels; beyond, coordinates no longer fit int32

# (a, b, c, d, e, f): output pixel (x, y) shows input pixel (a*x + b*y + c, d*x + e*y + f), as in Pillow.
Matrix = tuple[float, float, float, float, float, float]


def rotate(image: tf.Tensor, degrees: float) -> tf.Tensor:
    """Turns counter-clockwise about the centre. uint8 [H, W, 3] with static H and W to the same shape."""
    return transform(image, rotation(degrees, *image.shape[:2]))


def shear_x(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Row y shows what stood `factor * y` pixels further right. uint8 [H, W, 3], static, to the same shape."""
    return transform(image, shearing_x(factor, *image.shape[:2]))


def shear_y(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Column x shows what stood `factor * x` pixels further down. uint8 [H, W, 3], static, to the same shape."""
    return transform(image, shearing_y(factor, *image.shape[:2]))


def translate_x(image: tf.Tensor, pixels: tf.Tensor | int) -> tf.Tensor:
    """Shows what stood `pixels` further right, an int32 scalar up to W. uint8 [H, W, 3], static, to the same shape."""
    height, width = image.shape[:2]
    kept = width - tf.abs(pixels)
    rows = tf.reshape(image, [height, width * 3])
    begin, before = 3 * tf.maximum(pixels, 0), 3 * tf.maximum(-pixels, 0)
    grey = tf.constant(FILL, tf.uint8)
    middle = tf.slice(rows, tf.stack([0, begin]), tf.stack([height, 3 * kept]))
    parts = [tf.fill(tf.stack([height, before]), grey), middle, tf.fill(tf.stack([height, begin]), grey)]
    return tf.reshape(tf.concat(parts, axis=1), image.shape)


def translate_y(image: tf.Tensor, pixels: tf.Tensor | int) -> tf.Tensor:
    """Shows what stood `pixels` further down, an int32 scalar up to H. uint8 [H, W, 3], static, to the same shape."""
    height, width = image.shape[:2]
    kept = height - tf.abs(pixels)
    begin, before = tf.maximum(pixels, 0), tf.maximum(-pixels, 0)
    grey = tf.constant(FILL, tf.uint8)
    middle = tf.slice(image, tf.stack([begin, 0, 0]), tf.stack([kept, width, 3]))
    parts = [tf.fill(tf.stack([before, width, 3]), grey), middle, tf.fill(tf.stack([begin, width, 3]), grey)]
    return tf.ensure_shape(tf.concat(parts, axis=0), image.shape)


def rotation(degrees: float, height: int, width: int) -> Matrix:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


def shearing_x(factor: float, height: int, width: int) -> Matrix:
    return 1, factor, 0, 0, 1, 0


def shearing_y(factor: float, height: int, width: int) -> Matrix:
    return 1, 0, 0, factor, 1, 0


def transform(image: tf.Tensor, matrix: Matrix) -> tf.Tensor:
    """`take` by one matrix. uint8 [H, W, 3], static, to the same shape."""
    height, width = image.shape[:2]
    return take(image, sources(tf.constant(fixed([matrix])[0]), height, width))


def fixed(matrices: Sequence[Matrix]) -> np.ndarray:
    """int32 [n, 6]: the matrices for pixel centres in 65536ths."""
    a, b, c, d, e, f = np.asarray(matrices, np.float64).T
    exact = np.stack([a, b, c + (a + b) / 2, d, e, f + (d + e) / 2], axis=1)
    return np.floor(exact * 65536 + 0.5).astype(np.int32)


def sources(matrix: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """int32 [6] from `fixed` to int32 [H, W]: which pixel of the flat image each shows; H * W where none."""
    if max(height, width) > MAX_SIDE:
        raise ValueError(f"image of {height}x{width}: expected sides up to {MAX_SIDE}")
    return _sources(matrix, height, width)


@compiled
def _sources(matrix: tf.Tensor, height: int, width: int) -> tf.Tensor:
    across, down = tf.range(width)[tf.newaxis, :], tf.range(height)[:, tf.newaxis]
    x = tf.bitwise.right_shift(matrix[0] * across + (matrix[1] * down + matrix[2]), 16)
    y = tf.bitwise.right_shift(matrix[3] * across + (matrix[4] * down + matrix[5]), 16)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return tf.where(inside, y * width + x, height * width)


@compiled
def take(image: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """The pixels of uint8 [H, W, 3] that `sources` names, int32 [H, W], to uint8 [H, W, 3].

    Compiled apart from it: XLA would compute the index once for every byte.
    """
    pixels = tf.reshape(image, [-1, 3])
    grey = tf.fill([1, 3], tf.constant(FILL, tf.uint8))
    return tf.gather(tf.concat([pixels, grey], axis=0), index)
