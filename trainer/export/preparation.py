"""An image file's bytes in, pixels as the model wants them out; TensorFlow operations only, for exported graphs.

Beside `trainer.classifier.prepare`, which is exact: this reads JPEG and PNG only, see `NOT_IN_THE_GRAPH`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from pipeline import decode, formats, images
from trainer.export import exif

# Raised when the same bytes come to give other pixels.
VERSION = 2
NOT_IN_THE_GRAPH = (
    "formats other than JPEG and PNG: refused",
    "ICC profiles: colours count as sRGB",
    "the orientation of a PNG: taken as upright",
    "the scaling of preparation by Pillow, where an image is larger than `shorter_side`: the same up to rounding, save "
    "for a PNG of more than six times that, which Pillow averages down first",
)

_SIGNATURES = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
# Where a PNG has width and height, of four bytes each, bits per sample and kind: https://www.w3.org/TR/png-3/#11IHDR
_PNG_SIDES, _PNG_DEPTH, _PNG_KIND = 16, 24, 25
_PNG_GRAY = 0
_JPEG_RATIOS = (1, 2, 4, 8)  # by which libjpeg and all that use it decode to fewer pixels


class Prepared(NamedTuple):
    """One image, stage by stage, all of uint8."""

    decoded: tf.Tensor  # [height, width, 3], as it lies in the file
    upright: tf.Tensor  # [height, width, 3]
    images: tf.Tensor  # [image_size, image_size, 3]


def prepare(encoded: tf.Tensor, *, storing: images.Storing, image_size: int, crop_fraction: float) -> Prepared:
    """As a stored example is evaluated: what `images.standardize` does, and `decode.central_crop`.

    An image that preparation would keep as it is gives the very pixels that it gives there.

    Args:
      encoded: a scalar string, the bytes of a file.
      storing: of the dataset that the model was trained on.
      image_size, crop_fraction: see `decode.central_crop`.

    Raises:
      tf.errors.InvalidArgumentError: where the bytes are no sound JPEG or PNG, or hold more pixels than
        `formats.MAX_PIXELS`.
    """
    is_jpeg, is_png = (_begins_with(encoded, _SIGNATURES[kind]) for kind in ("jpeg", "png"))
    known = tf.debugging.Assert(
        is_jpeg | is_png,
        ["image_bytes is no JPEG or PNG; bytes:", tf.strings.length(encoded)],
    )
    with tf.control_dependencies([known]):
        shape = tf.cond(is_jpeg, lambda: tf.io.extract_jpeg_shape(encoded), lambda: _png_shape(encoded))
        height, width, channels = tf.unstack(shape, num=3)
        small = tf.debugging.Assert(
            tf.cast(height, tf.int64) * tf.cast(width, tf.int64) <= formats.MAX_PIXELS,
            ["image_bytes has too many pixels; height and width:", height, width],
        )
    with tf.control_dependencies([small]):
        encoded = tf.identity(encoded)

    def whole() -> tf.Tensor:
        return tf.cond(is_jpeg, lambda: decode.decode(encoded), lambda: _on_white(encoded))

    decoded, orientation = whole(), exif.orientation(encoded)
    upright = stored = exif.upright(decoded, orientation)
    # Preparation keeps the bytes of what is upright and in colour.
    lossy = is_jpeg & ((orientation > 1) | (channels < 3))
    if storing.shorter_side:
        scaled = tf.minimum(height, width) > storing.shorter_side
        smaller = [functools.partial(decode.decode, encoded, ratio=ratio) for ratio in _JPEG_RATIOS[1:]]

        def scale() -> tf.Tensor:
            shape = tf.stack([height, width])
            pixels = _scaled([whole, *smaller], shape, storing.shorter_side, by_libjpeg=is_jpeg)
            return exif.upright(pixels, orientation)

        stored = tf.cond(scaled, scale, lambda: exif.upright(whole(), orientation))
        lossy |= scaled & (is_jpeg | (not storing.lossless))
    stored = tf.cond(lossy, lambda: _through_jpeg(stored, storing), lambda: stored)
    return Prepared(decoded, upright, decode.central_crop(stored, image_size=image_size, crop_fraction=crop_fraction))


def _png_shape(encoded: tf.Tensor) -> tf.Tensor:
    """Signed, so that an impossible size is negative; the decoder refuses it."""
    sides = tf.io.decode_raw(encoded, tf.uint8)[_PNG_SIDES : _PNG_SIDES + 8]
    sides = tf.reshape(tf.pad(sides, [[0, 8 - tf.size(sides)]]), [2, 4])
    height_last = tf.reverse(tf.bitcast(tf.reverse(sides, [1]), tf.int32), [0])
    return tf.concat([height_last, [3]], 0)


def _on_white(encoded: tf.Tensor) -> tf.Tensor:
    """A PNG with its transparent parts laid on white, as preparation does and viewers do."""

    def laid_on_white() -> tf.Tensor:
        pixels = tf.cast(tf.io.decode_png(encoded, channels=4), tf.int32)
        color, alpha = pixels[..., :3], pixels[..., 3:]
        return tf.cast((color * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)

    header = tf.io.decode_raw(encoded, tf.uint8)[: _PNG_KIND + 1]
    header = tf.pad(header, [[0, _PNG_KIND + 1 - tf.size(header)]])
    # Of gray with fewer than 8 bits TensorFlow's decoder gives a wrong alpha.
    no_alpha = (header[_PNG_KIND] == _PNG_GRAY) & (header[_PNG_DEPTH] < 8)
    return tf.cond(no_alpha, lambda: decode.decode(encoded), laid_on_white)


def _scaled(
    by_ratio: list[Callable[[], tf.Tensor]], shape: tf.Tensor, shorter_side: int, *, by_libjpeg: tf.Tensor
) -> tf.Tensor:
    """An image as `images.standardize` scales it, before it is turned: by Pillow's steps, each rounded as there.

    Left out, the rounding between the two directions alone changes half of the values.

    Args:
      by_ratio: its pixels, decoded to so many times fewer on each side as `_JPEG_RATIOS` has it.
      shape: int32 [2], height and width in the file, the shorter of them longer than `shorter_side`.
      by_libjpeg: whether there are others than the first.
    """
    shorter = tf.reduce_min(shape)
    size = (shape * shorter_side + shorter // 2) // shorter
    reached = shorter // (images.DECODING_GAP * shorter_side) >= tf.constant(_JPEG_RATIOS)
    index = tf.where(by_libjpeg, tf.maximum(tf.reduce_sum(tf.cast(reached, tf.int32)) - 1, 0), 0)
    pixels = tf.switch_case(index, by_ratio)
    # What the ratio does not divide leaves a fraction of a pixel over at the end.
    covered = tf.cast(shape, tf.float32) / tf.cast(tf.gather(_JPEG_RATIOS, index), tf.float32)
    factors = tf.cast(size, tf.float32) / covered
    across = _resampled(pixels, tf.stack([tf.shape(pixels)[0], size[1]]), tf.stack([1.0, factors[1]]))
    return _resampled(across, size, tf.stack([factors[0], 1.0]))


def _resampled(pixels: tf.Tensor, size: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """uint8 to uint8, by Pillow's bicubic kernel (Keys, a = -0.5), which widens with what it shrinks."""
    resampled = tf.raw_ops.ScaleAndTranslate(
        images=pixels[None], size=size, scale=factors, translation=tf.zeros([2]), kernel_type="keyscubic"
    )
    return tf.cast(tf.clip_by_value(tf.floor(resampled[0] + 0.5), 0, 255), tf.uint8)


def _through_jpeg(image: tf.Tensor, storing: images.Storing) -> tf.Tensor:
    encoded = tf.io.encode_jpeg(
        image, format="rgb", quality=storing.jpeg_quality, chroma_downsampling=storing.chroma == "4:2:0"
    )
    return decode.decode(encoded)


def _begins_with(encoded: tf.Tensor, signature: bytes) -> tf.Tensor:
    return tf.strings.substr(encoded, 0, tf.minimum(tf.strings.length(encoded), len(signature))) == signature
