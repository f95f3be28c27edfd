"""The classic set: a uint8 image in; the same turned, moved, sheared, zoomed and in another light, out.

What Keras' ImageDataGenerator did to a decade of small datasets, with its usual settings. There is no vertical flip: a
photograph has an up. Mirroring left and right belongs to the crop (`input.flip`).
"""

from __future__ import annotations

import math

import tensorflow as tf

ROTATION_DEGREES = 20.0  # this and the next four: uniform between minus and plus
SHIFT = 0.1  # of the side, in each direction
# Radians, as the first Keras had it and the number meant. Later ones read degrees, where 0.1 moves no pixel by one.
SHEAR = 0.1
ZOOM = 0.1  # around 1, for each axis by itself
CHANNEL_SHIFT = 25.5  # levels, the same for all channels as in Keras; a tenth of the range, like the others
BRIGHTNESS = (0.8, 1.2)


def classic(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Applies all of the set to one image: a single resampling by one matrix, then a single change of levels.

    Args:
      image: uint8 [S, S, 3].
      seed: int64 [2]; the same seed gives the same image.

    Returns:
      uint8 [S, S, 3].
    """
    drawn = tf.random.stateless_uniform([8], seed)
    spread = 2 * drawn - 1
    size = image.shape[0]
    image = warp(
        image,
        matrix(
            theta=spread[0] * math.radians(ROTATION_DEGREES),
            shift=spread[1:3] * SHIFT * size,
            shear=spread[3] * SHEAR,
            zoom=1 + spread[4:6] * ZOOM,
            size=size,
        ),
    )
    brightness = BRIGHTNESS[0] + (BRIGHTNESS[1] - BRIGHTNESS[0]) * drawn[7]
    return relight(image, channel_shift=spread[6] * CHANNEL_SHIFT, brightness=brightness)


def matrix(*, theta: tf.Tensor, shift: tf.Tensor, shear: tf.Tensor, zoom: tf.Tensor, size: int) -> tf.Tensor:
    """float32 [2, 3]: times (x, y, 1) of a pixel it gives the point (x, y) that the pixel comes from.

    Rotation, shift, shear and zoom around the centre, multiplied in ImageDataGenerator's order.

    Args:
      theta, shear: radians.
      shift: float32 [2], pixels along x and y.
      zoom: float32 [2], how many pixels of the source one pixel along x and y spans.
    """
    cos, sin = tf.cos(theta), tf.sin(theta)
    rotate = tf.reshape(tf.stack([cos, -sin, sin, cos]), [2, 2])
    shear_zoom = tf.reshape(tf.stack([1.0, -tf.sin(shear), 0.0, tf.cos(shear)]), [2, 2]) * zoom
    linear = rotate @ shear_zoom
    center = tf.fill([2], (size - 1) / 2)
    offset = center + tf.linalg.matvec(rotate, shift) - tf.linalg.matvec(linear, center)
    return tf.concat([linear, offset[:, None]], axis=1)


def warp(image: tf.Tensor, transform: tf.Tensor) -> tf.Tensor:
    """uint8 [S, S, 3], each pixel the nearest to where `matrix` says that it comes from, or to that of the border.

    Nearest, because half a pixel at most is not worth the time: measured in one run at 224 pixels, 0.35 ms an image
    this way, 1.0 by ImageProjectiveTransformV3 on packed channels, 2.2 by its bilinear form.
    """
    size = image.shape[0]
    along = tf.range(size, dtype=tf.float32)
    # Half a pixel, so that the cast, which cuts off, rounds.
    from_x, from_y = (
        (row[0] * along + (row[2] + 0.5))[None, :] + (row[1] * along)[:, None] for row in tf.unstack(transform)
    )
    column, row = (tf.clip_by_value(tf.cast(point, tf.int32), 0, size - 1) for point in (from_x, from_y))
    return tf.gather_nd(tf.reshape(image, [-1, 3]), (row * size + column)[..., None])


def relight(image: tf.Tensor, *, channel_shift: tf.Tensor, brightness: tf.Tensor) -> tf.Tensor:
    """Gives brightness * clip(image + channel_shift, its darkest, its lightest), in one multiplication and sum.

    Args:
      image: uint8 [S, S, 3].
      channel_shift: levels added.
      brightness: factor, above 0.

    Returns:
      uint8 [S, S, 3].
    """
    darkest, lightest = (tf.cast(edge, tf.float32) for edge in (tf.reduce_min(image), tf.reduce_max(image)))
    changed = tf.cast(image, tf.float32) * brightness + (channel_shift * brightness + 0.5)  # half, as the cast cuts off
    low, high = darkest * brightness + 0.5, tf.minimum(lightest * brightness + 0.5, 255)
    return tf.cast(tf.clip_by_value(changed, tf.minimum(low, high), high), tf.uint8)
