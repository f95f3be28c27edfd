"""Policies over a whole batch, for the training step: images and places in; each image with its own operations, out.

The same draws and the same arithmetic as `policies` has for one image. A layer does to every image all that any might
need, with settings that leave it as it is where they don't apply: a resampling, a table of levels, and a blend with
something duller. There is no branch and no loop over images, and shapes are static, so that XLA can compile it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from pipeline.augmentations import color, draws, geometry, policies

Of = Callable[[Callable[..., tf.Tensor]], tf.Tensor]  # a function of `color` to bool [b]: which images get it


def rand_augment(images: tf.Tensor, places: tf.Tensor, *, seed: int, num_ops: int, magnitude: float) -> tf.Tensor:
    """What `policies.rand_augment` gives for each image alone with the seed [seed, place].

    Args:
      images: uint8 [b, S, S, 3].
      places: int64 [b].
      num_ops, magnitude: see `policies.rand_augment`.

    Returns:
      uint8 [b, S, S, 3].
    """
    operations = policies.rand_augment_operations(magnitude, *images.shape[1:3])
    return _draw_and_apply(images, draws.seeds(seed, places), num_ops, operations)


def trivial_augment(images: tf.Tensor, places: tf.Tensor, *, seed: int) -> tf.Tensor:
    """What `policies.trivial_augment` gives for each image alone with the seed [seed, place].

    Args and Returns: as `rand_augment`.
    """
    return _draw_and_apply(
        images, draws.seeds(seed, places), 1, policies.trivial_augment_operations(*images.shape[1:3])
    )


def _draw_and_apply(
    images: tf.Tensor, seeds: tf.Tensor, num_ops: int, operations: Sequence[policies.Operation]
) -> tf.Tensor:
    # As int32, which is what one image draws.
    words = tf.bitcast(tf.cast(draws.bits(seeds, 2 * num_ops), tf.uint32), tf.int32)
    amounts = tf.constant([len(operation.amounts) or 1 for operation in operations])
    for layer in range(num_ops):
        which = words[:, 2 * layer] % len(operations)
        images = apply(
            images, operations, which, words[:, 2 * layer + 1] % policies.AMOUNTS_DRAWN % tf.gather(amounts, which)
        )
    return images


def apply(
    images: tf.Tensor, operations: Sequence[policies.Operation], which: tf.Tensor, amount: tf.Tensor
) -> tf.Tensor:
    """One operation for each image.

    Args:
      images: uint8 [b, S, S, 3].
      operations: those of a policy.
      which: int32 [b], an index into operations.
      amount: int32 [b], an index into its amounts; 0 where it has none.

    Returns:
      uint8 [b, S, S, 3], each image as its operation gives it.
    """

    def of(function: Callable[..., tf.Tensor]) -> tf.Tensor:
        return tf.equal(which, [operation.apply for operation in operations].index(function))

    most = max(len(operation.amounts) for operation in operations)
    flat = which * most + amount
    amounts = tf.gather(tf.constant(_amounts(operations, most), tf.float32), flat)
    images = _take(images, tf.gather(tf.constant(_matrices(operations, most, *images.shape[1:3])), flat))
    images = _look_up(images, _tables(images, of, amounts))
    return _blend(images, of, amounts)


def _amounts(operations: Sequence[policies.Operation], most: int) -> np.ndarray:
    """[operations * most], filled up with zeros that no draw can reach."""
    filled = [[*operation.amounts, *[0] * (most - len(operation.amounts))] for operation in operations]
    return np.asarray(filled, np.float64).reshape(-1)


def _matrices(operations: Sequence[policies.Operation], most: int, height: int, width: int) -> np.ndarray:
    """int32 [operations * most, 6]: `geometry.fixed` of each amount; the identity for what stays in place."""

    def matrix(operation: policies.Operation, amount: float) -> geometry.Matrix:
        if operation.matrix is not None:
            return operation.matrix(amount, height, width)
        along_x, along_y = (amount * (operation.apply is move) for move in (geometry.translate_x, geometry.translate_y))
        return 1, 0, along_x, 0, 1, along_y

    amounts = _amounts(operations, most).reshape(len(operations), most)
    rows = [matrix(operation, amount) for operation, row in zip(operations, amounts, strict=True) for amount in row]
    return geometry.fixed(rows)


def _take(images: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """The pixels of each image that its matrix, int32 [b, 6], asks for, and `geometry.FILL` where there are none."""
    size = images.shape[1]
    pixels = tf.range(size)
    across, down = pixels[None, None, :], pixels[None, :, None]
    a, b, c, d, e, f = (value[:, None, None] for value in tf.unstack(matrices, axis=1))
    x = tf.bitwise.right_shift(a * across + (b * down + c), 16)
    y = tf.bitwise.right_shift(d * across + (e * down + f), 16)
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    index = tf.reshape(tf.where(inside, y * size + x, 0), [-1, size * size])
    taken = tf.gather(tf.reshape(images, [-1, size * size, 3]), index, batch_dims=1)
    return tf.where(inside[..., None], tf.reshape(taken, tf.shape(images)), tf.constant(geometry.FILL, tf.uint8))


def _tables(images: tf.Tensor, of: Of, amounts: tf.Tensor) -> tf.Tensor:
    """int32 [b, 3, 256]: what each level of each channel becomes."""
    levels = tf.range(256)[None, None, :]
    exact = tf.cast(levels, tf.float32)
    amount = amounts[:, None, None]
    histograms = _histograms(images)
    dropped = 8 - tf.clip_by_value(tf.cast(tf.round(amount), tf.int32), 0, 8)
    tables = {
        color.solarize: tf.where(exact < amount, levels, 255 - levels),
        color.posterize: tf.bitwise.bitwise_and(levels, 256 - tf.bitwise.left_shift(tf.ones_like(dropped), dropped)),
        color.brightness: _scaled(exact, amount, tf.zeros_like(amount)),
        color.contrast: _scaled(exact, amount, _mean_grey(images)[:, None, None] * (1 - _exact(amount))),
        color.auto_contrast: _stretched(histograms, levels),
        color.equalize: _equalized(histograms),
    }
    found = tf.broadcast_to(levels, tf.shape(histograms))
    for function, table in tables.items():
        found = tf.where(of(function)[:, None, None], table, found)
    return found


def _look_up(images: tf.Tensor, tables: tf.Tensor) -> tf.Tensor:
    size = images.shape[1]
    index = tf.cast(images, tf.int32) + tf.range(3) * 256
    flat = tf.reshape(index, [-1, size * size * 3])
    found = tf.gather(tf.reshape(tables, [-1, 3 * 256]), flat, batch_dims=1)
    return tf.cast(tf.reshape(found, tf.shape(images)), tf.uint8)


def _blend(images: tf.Tensor, of: Of, amounts: tf.Tensor) -> tf.Tensor:
    """Colour and sharpness, which no table can give: between the image without it (0) and the image (1), or beyond."""
    own = tf.cast(images, tf.float32)
    dull = tf.where(of(color.sharpness)[:, None, None, None], _smooth(images), _grey(own)[..., None])
    amount = tf.where(of(color.sharpness) | of(color.color), amounts, 1.0)
    return tf.cast(_between(dull, own, amount[:, None, None, None]), tf.uint8)


def _scaled(levels: tf.Tensor, amount: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """int32, what `color.brightness` and `color.contrast` make of levels, which they clip before and not after."""
    factor = _exact(amount)
    some, step = tf.maximum(factor, 1 / color.FACTOR_STEPS), 1 / color.FACTOR_STEPS
    lowest = tf.clip_by_value(tf.math.ceil(-offset / some), 0, 255)
    highest = tf.clip_by_value(tf.floor((256 - step - offset) / some), 0, 255)
    return tf.cast(tf.minimum(tf.maximum(levels, lowest), highest) * factor + offset + step / 2, tf.int32)


def _exact(amount: tf.Tensor) -> tf.Tensor:
    return tf.round(amount * color.FACTOR_STEPS) / color.FACTOR_STEPS


def _between(dull: tf.Tensor, own: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
    """int32, cut off to whole levels like Pillow's blend."""
    return tf.cast(tf.clip_by_value(dull + _exact(amount) * (own - dull), 0, 255), tf.int32)


def _grey(pixels: tf.Tensor) -> tf.Tensor:
    """float32 [b, S, S], whole levels."""
    return tf.floor(tf.reduce_sum(pixels * tf.constant(color.LUMA, tf.float32), axis=-1) * (1 / 65536) + 0.5)


def _mean_grey(images: tf.Tensor) -> tf.Tensor:
    """float32 [b], whole levels."""
    sums = tf.cast(tf.reduce_sum(tf.cast(images, tf.int32), axis=[1, 2]), tf.int64)
    weighted = tf.reduce_sum(sums * tf.constant(color.LUMA, tf.int64), axis=-1)
    pixels = 65536 * images.shape[1] ** 2
    return tf.cast((2 * weighted + pixels) // (2 * pixels), tf.float32)


def _smooth(images: tf.Tensor) -> tf.Tensor:
    """float32 [b, S, S, 3], whole levels: the mean of 3 x 3 with the middle five times; the border stays."""
    exact = tf.cast(images, tf.int32)
    across = exact[:, :, :-2] + exact[:, :, 1:-1] + exact[:, :, 2:]
    total = across[:, :-2] + across[:, 1:-1] + across[:, 2:] + 4 * exact[:, 1:-1, 1:-1]
    inner = tf.pad((2 * total + 13) // 26, [[0, 0], [1, 1], [1, 1], [0, 0]])
    pixels = tf.range(images.shape[1])
    edge = (pixels == 0) | (pixels == images.shape[1] - 1)
    return tf.cast(tf.where((edge[:, None] | edge[None, :])[..., None], exact, inner), tf.float32)


def _histograms(images: tf.Tensor) -> tf.Tensor:
    """int32 [b, 3, 256]."""
    batch = images.shape[0]
    channels = tf.reshape(tf.range(3 * batch) * 256, [batch, 1, 1, 3])
    index = tf.reshape(channels + tf.cast(images, tf.int32), [-1])
    return tf.reshape(tf.math.unsorted_segment_sum(tf.ones_like(index), index, 3 * batch * 256), [batch, 3, 256])


def _stretched(histograms: tf.Tensor, levels: tf.Tensor) -> tf.Tensor:
    """From the darkest and the lightest level of each channel to 0 and 255."""
    used = histograms > 0
    low = tf.reduce_min(tf.where(used, levels, 255), axis=-1, keepdims=True)
    high = tf.reduce_max(tf.where(used, levels, 0), axis=-1, keepdims=True)
    span = tf.maximum(high - low, 1)
    return tf.where(high > low, tf.clip_by_value((levels - low) * 255 // span, 0, 255), levels)


def _equalized(histograms: tf.Tensor) -> tf.Tensor:
    """Pillow's equalize: as near to equally many pixels at every level as a table can bring them."""
    levels = tf.broadcast_to(tf.range(256), tf.shape(histograms))
    highest = tf.reduce_max(tf.where(histograms > 0, levels, 0), axis=-1, keepdims=True)
    last = tf.reduce_sum(tf.where(levels == highest, histograms, 0), axis=-1, keepdims=True)
    step = (tf.reduce_sum(histograms, axis=-1, keepdims=True) - last) // 255
    below = tf.cumsum(histograms, axis=-1, exclusive=True)
    table = tf.clip_by_value((step // 2 + below) // tf.maximum(step, 1), 0, 255)
    return tf.where(step > 0, table, levels)
