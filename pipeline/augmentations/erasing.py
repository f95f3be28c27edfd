"""Random erasing: a uint8 image in; the same with a rectangle of noise in it, or as it was, out."""

from __future__ import annotations

import math

import tensorflow as tf

# Of the image's area, and height over width: the paper's, in the form that torchvision and timm share.
AREA = (0.02, 1 / 3)
ASPECT = (0.3, 1 / 0.3)
_ATTEMPTS = 10  # as in torchvision and timm; an image that none of them fits stays whole


def erase(image: tf.Tensor, seed: tf.Tensor, *, probability: float) -> tf.Tensor:
    """Fills a random rectangle with noise.

    Random Erasing Data Augmentation, Algorithm 1 (https://arxiv.org/abs/1708.04896). Noise and not the mean, because
    the paper fills so: a network can't learn the colour of what was erased, and no statistics of a dataset are needed.

    Args:
      image: uint8 [height, width, 3].
      seed: int64 [2]; the same seed erases the same.
      probability: of erasing at all, in (0, 1].

    Returns:
      uint8 [height, width, 3].
    """
    draw_seed, noise_seed = tf.unstack(tf.random.split(seed, 2))
    drawn = tf.random.stateless_uniform([3 + 2 * _ATTEMPTS], draw_seed)
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    area = tf.reduce_prod(shape) * (AREA[0] + (AREA[1] - AREA[0]) * drawn[3 : 3 + _ATTEMPTS])
    log_aspect = tuple(math.log(aspect) for aspect in ASPECT)
    aspect = tf.exp(log_aspect[0] + (log_aspect[1] - log_aspect[0]) * drawn[3 + _ATTEMPTS :])
    sides = tf.round(tf.sqrt(tf.stack([area * aspect, area / aspect], axis=1)))
    fits = tf.reduce_all(sides < shape, axis=1)
    side = sides[tf.argmax(fits)]
    # A rectangle of no size instead of a branch: nothing is drawn or copied twice, and the graph stays one piece.
    side = tf.where(tf.reduce_any(fits) & (drawn[0] < probability), side, 0)
    corner = tf.floor(drawn[1:3] * (shape - side + 1))
    (top, left), (height, width) = tf.unstack(tf.cast(corner, tf.int32)), tf.unstack(tf.cast(side, tf.int32))

    noise = _noise(height * width * 3, noise_seed)
    rows = image[top : top + height]
    rows = tf.concat([rows[:, :left], tf.reshape(noise, [height, width, 3]), rows[:, left + width :]], axis=1)
    return tf.ensure_shape(tf.concat([image[:top], rows, image[top + height :]], axis=0), image.shape)


def _noise(count: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """uint8 [count]; four from each 32-bit number, which is what drawing costs."""
    words = tf.random.stateless_uniform([(count + 3) // 4], seed, minval=None, maxval=None, dtype=tf.uint32)
    return tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:count]
