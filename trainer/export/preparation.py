"""An image file's bytes in, pixels as the model wants them out; TensorFlow operations only, for exported graphs.

Beside `trainer.classifier.prepare`, which is exact: this reads JPEG and PNG only, see `NOT_IN_THE_GRAPH`.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from pipeline import decode, formats, images
from trainer.export import exif

# Raised when the same bytes come to give other pixels.
VERSION = 1
NOT_IN_THE_GRAPH = (
    "formats other than JPEG and PNG: refused",
    "ICC profiles: colours count as sRGB",
    "the orientation of a PNG: taken as upright",
    "the scaling of preparation by Pillow, where an image is larger than `shorter_side`: nearly the same pixels",
)

_SIGNATURES = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
# Where a PNG has width and height, of four bytes each, bits per sample and kind: https://www.w3.org/TR/png-3/#11IHDR
_PNG_SIDES, _PNG_DEPTH, _PNG_KIND = 16, 24, 25
_PNG_GRAY = 0


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
        decoded = tf.cond(is_jpeg, lambda: decode.decode(encoded), lambda: _on_white(encoded))
    orientation = exif.orientation(encoded)
    upright = exif.upright(decoded, orientation)
    # Preparation keeps the bytes of what is upright and in colour.
    changed = is_jpeg & ((orientation > 1) | (channels < 3))
    stored = _as_stored(upright, storing, is_jpeg=is_jpeg, changed=changed)
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


def _as_stored(image: tf.Tensor, storing: images.Storing, *, is_jpeg: tf.Tensor, changed: tf.Tensor) -> tf.Tensor:
    """What training would see of an upright image: scaled down and compressed, where preparation would have done so."""
    scaled = tf.constant(False)
    if storing.shorter_side:
        shape = tf.shape(image)[:2]
        shorter = tf.reduce_min(shape)
        scaled = shorter > storing.shorter_side

        def scale() -> tf.Tensor:
            size = (shape * storing.shorter_side + shorter // 2) // shorter
            pixels = tf.image.resize(image, size, tf.image.ResizeMethod.BICUBIC, antialias=True)
            return tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8)

        image = tf.cond(scaled, scale, lambda: image)
    lossy = changed | (scaled & (is_jpeg | (not storing.lossless)))
    return tf.cond(lossy, lambda: _through_jpeg(image, storing), lambda: image)


def _through_jpeg(image: tf.Tensor, storing: images.Storing) -> tf.Tensor:
    encoded = tf.io.encode_jpeg(
        image, format="rgb", quality=storing.jpeg_quality, chroma_downsampling=storing.chroma == "4:2:0"
    )
    return decode.decode(encoded)


def _begins_with(encoded: tf.Tensor, signature: bytes) -> tf.Tensor:
    return tf.strings.substr(encoded, 0, tf.minimum(tf.strings.length(encoded), len(signature))) == signature
