"""One uint8 image in, the same image with other colours out, by Pillow's definitions (ImageOps, ImageEnhance).

Every machine gets the same pixels, whatever it fuses or reorders: a float32 here is either exact, of at most 24 bits,
or half a step away from where it would be cut to another integer. For that, factors are rounded to 1/256.

What takes many passes over the image is compiled by XLA, which makes few of them and costs 35 microseconds a call; what
TensorFlow's own kernels do in a few passes is faster without.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from pipeline.augmentations.compiled import compiled

FACTOR_STEPS = 256
_HALF_STEP = 0.5 / FACTOR_STEPS
# ITU-R 601-2 luma in 65536ths, as Pillow converts RGB to L.
LUMA = (19595, 38470, 7471)
# round(sum / 13) is floor(sum * 5041 / 65536 + 0.5) for every sum of thirteen bytes.
_THIRTEENTH = 5041 / 65536


@compiled
def auto_contrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches each channel from its own least and largest value to 0..255. uint8 [H, W, 3] to the same shape."""
    rows = _rows(image)
    low, high = _per_channel(tf.reduce_min, rows), _per_channel(tf.reduce_max, rows)
    low, span = tf.cast(low, tf.float32), tf.cast(high - low, tf.float32)
    # One 65536th above 255 / span: the product's integer part is then the exact one.
    scale = tf.where(span > 0, (tf.floor(255 * 65536 / tf.maximum(span, 1)) + 1) / 65536, 1.0)
    low = tf.where(span > 0, low, 0.0)
    width = image.shape[1]
    return _bytes((tf.cast(rows, tf.float32) - tf.tile(low, [width])) * tf.tile(scale, [width]), image.shape)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Spreads each channel's values so that all are about equally frequent. uint8 [H, W, 3] to the same shape."""
    height, width = image.shape[:2]
    index = tf.cast(_rows(image), tf.int32) + tf.tile(tf.constant(_TABLE_STARTS), [width])
    counts = tf.raw_ops.Bincount(arr=index, size=3 * 256, weights=tf.constant([], tf.int32))
    pixels = height * width
    below = tf.cumsum(tf.reshape(counts, [3, 256]), axis=1, exclusive=True)
    # All pixels but those of the largest value, shared out to 255 steps.
    step = tf.reduce_max(tf.where(below < pixels, below, 0), axis=1, keepdims=True) // 255
    spread = tf.minimum((below + step // 2) // tf.maximum(step, 1), 255)
    table = tf.where(step > 0, spread, tf.range(256))
    return _look_up(image, tf.reshape(tf.cast(table, tf.uint8), [-1]))


def solarize(image: tf.Tensor, threshold: tf.Tensor | int) -> tf.Tensor:
    """Inverts values from `threshold` on, 0 (all) to 256 (none), int32. uint8 [H, W, 3] to the same shape."""
    # By bits, for tf.where on bytes takes ten times as long. 255 flips all bits of a byte, 0 none.
    flips = tf.where(tf.less(threshold, 256), 255, 0)
    above = _words(tf.cast(image >= tf.cast(tf.minimum(threshold, 255), tf.uint8), tf.uint8))
    flipped = tf.bitwise.bitwise_xor(_words(image), above * tf.cast(flips, above.dtype))
    return tf.reshape(tf.bitcast(flipped, tf.uint8), image.shape)


def posterize(image: tf.Tensor, bits: tf.Tensor | int) -> tf.Tensor:
    """Keeps the `bits` highest bits, 0 to 8, int32. uint8 [H, W, 3] to the same shape."""
    return tf.bitwise.bitwise_and(image, tf.cast(256 - tf.bitwise.left_shift(1, 8 - bits), tf.uint8))


def color(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """Saturation: 0 is grey, 1 the image, above more colour. uint8 [H, W, 3] to the same shape."""
    return _color(image, _exact(factor))


def contrast(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """Away from the mean grey: 0 is that grey, 1 the image. uint8 [H, W, 3] to the same shape."""
    sums = tf.cast(_per_channel(tf.reduce_sum, tf.cast(_rows(image), tf.float32)), tf.float64)
    grey = tf.floor(tf.reduce_sum(sums * LUMA) / (65536 * image.shape[0] * image.shape[1]) + 0.5)
    exact = _exact(factor)
    return _scale(image, exact, tf.cast(grey, tf.float32) * (1 - exact))


def brightness(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """Times `factor`: 0 is black, 1 the image. uint8 [H, W, 3] to the same shape."""
    return _scale(image, _exact(factor), 0.0)


def sharpness(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """0 is smoothed by 3x3 (the centre five times, its neighbours once), 1 the image, above sharper; the border stays.

    uint8 [H, W, 3] with sides of 3 at least, to the same shape.
    """
    return _sharpness(image, _exact(factor))


@compiled
def _color(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    values = tf.cast(image, tf.float32)
    red, green, blue = tf.unstack(values, axis=-1)
    grey = tf.floor((red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]) / 65536 + 0.5)[..., tf.newaxis]
    return _bytes(grey + (values - grey) * factor, image.shape)


@compiled
def _sharpness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    rows = _rows(image)
    values = tf.cast(rows, tf.uint16)
    across = values[:, :-6] + values[:, 3:-3] + values[:, 6:]
    centre = values[1:-1, 3:-3]
    sums = across[:-2] + across[1:-1] + across[2:] + centre * 4
    smooth = tf.floor(tf.cast(sums, tf.float32) * _THIRTEENTH + 0.5)
    inner = _bytes(smooth + (tf.cast(centre, tf.float32) - smooth) * factor, centre.shape)
    middle = tf.concat([rows[1:-1, :3], inner, rows[1:-1, -3:]], axis=1)
    return tf.reshape(tf.concat([rows[:1], middle, rows[-1:]], axis=0), image.shape)


_TABLE_STARTS = (0, 256, 512)  # of the three channels, in a table of all


@compiled
def _look_up(image: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    index = tf.cast(tf.reshape(image, [-1, 3]), tf.int32) + tf.constant(_TABLE_STARTS)
    return tf.reshape(tf.gather(table, index), image.shape)


def _scale(image: tf.Tensor, factor: tf.Tensor, offset: tf.Tensor | float) -> tf.Tensor:
    """`factor` times the image plus `offset`, multiples of 1/256, clipped; at the ends it may be one short of 0 or 255.

    Clipping bytes first is six times as fast as clipping floats later, and Dequantize converts, multiplies and adds in
    one pass.
    """
    some = tf.maximum(factor, 1 / FACTOR_STEPS)
    lowest = tf.clip_by_value(tf.math.ceil(-offset / some), 0, 255)
    highest = tf.clip_by_value(tf.floor((256 - 1 / FACTOR_STEPS - offset) / some), 0, 255)
    clipped = tf.raw_ops.ClipByValue(
        t=image, clip_value_min=tf.cast(lowest, tf.uint8), clip_value_max=tf.cast(highest, tf.uint8)
    )
    start = offset + _HALF_STEP
    values = tf.raw_ops.Dequantize(
        input=tf.bitcast(clipped, tf.quint8), min_range=start, max_range=255 * factor + start, mode="MIN_COMBINED"
    )
    return tf.cast(values, tf.uint8)


def _exact(factor: tf.Tensor | float) -> tf.Tensor:
    return tf.round(tf.cast(factor, tf.float32) * FACTOR_STEPS) / FACTOR_STEPS


def _bytes(values: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor:
    # Through int32: XLA's own conversion of float32 to uint8 looks for what was clipped before.
    return tf.reshape(tf.cast(tf.cast(tf.clip_by_value(values, 0, 255), tf.int32), tf.uint8), shape)


def _words(image: tf.Tensor) -> tf.Tensor:
    """The bytes as int64 [n] where they fill whole ones, for what needs no carry between them.

    TensorFlow works on bytes one by one as soon as an operation writes over its own input.
    """
    return tf.bitcast(tf.reshape(image, [-1, 8]), tf.int64) if image.shape.num_elements() % 8 == 0 else image


def _rows(image: tf.Tensor) -> tf.Tensor:
    """[H, W * 3]: long inner loops, where loops over three channels could not be vectorised."""
    return tf.reshape(image, [image.shape[0], image.shape[1] * 3])


def _per_channel(reduce: Callable[..., tf.Tensor], rows: tf.Tensor) -> tf.Tensor:
    return reduce(tf.reshape(reduce(rows, axis=0), [-1, 3]), axis=0)
