"""A JPEG's bytes in, its orientation out, and an image turned upright; TensorFlow operations only, for exported graphs.

Finds what `pipeline.formats.Opened.orientation` finds by way of Pillow: CIPA DC-008 section 4.6.4, and where EXIF says
nothing of it, XMP.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_APP1, _FILL = 0xE1, 0xFF
_ENDS = (0xD9, 0xDA)  # end of image, start of scan, behind which are pixels
_WITHOUT_LENGTH = (0x00, 0x01, *range(0xD0, 0xD9))
_MAX_STEPS = 1000  # over segments and bytes between them: files have ten, and one that is made of junk ends here
_LITTLE, _BIG = 0x4949, 0x4D4D
_ORIENTATION = 0x0112
_ENTRY_BYTES = 12
_TYPE_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8)  # of one value, by its type; 0: there is no such type
_TYPES = {1: (6,), 2: (3, 8), 4: (4, 9, 13)}  # of integers, by their bytes
_IN_XMP = r'^\C*?tiff:Orientation(?:="|>)([0-9])\C*$'  # \C is any byte, also where the text is no UTF-8


def orientation(encoded: tf.Tensor) -> tf.Tensor:
    """A file's EXIF orientation, int32 from 1 to 8.

    Args:
      encoded: a scalar string. What is no JPEG, says nothing of it, or has metadata that can't be read, is upright: 1.
    """
    data = tf.io.decode_raw(encoded, tf.uint8)
    exif, xmp = _segments(data)
    by_exif = _in_tiff(data[exif[0] : exif[1]])
    nothing = tf.constant(0, tf.int64)
    by_xmp = tf.cond((by_exif < 0) & (xmp[1] > 0), lambda: _in_xmp(encoded, xmp), lambda: nothing)
    found = tf.where(by_exif < 0, by_xmp, by_exif)
    return tf.cast(tf.where((found >= 1) & (found <= 8), found, 1), tf.int32)


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Undoes an orientation: uint8 [height, width, 3] to the same, from 5 on with the sides exchanged."""
    turned = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    rows, columns = (_is_one_of(orientation, mirrored) for mirrored in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return tf.raw_ops.Reverse(tensor=turned, dims=tf.stack([rows, columns, tf.constant(False)]))


def _segments(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Begin and end, int64 [2], of what the first APP1 segment with EXIF and the last with XMP hold; [0, 0] for none.

    ITU-T T.81 section B.1.1: https://www.w3.org/Graphics/JPEG/itu-t81.pdf
    """
    size = tf.size(data, tf.int64)

    def goes_on(position: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor) -> tf.Tensor:
        marker = _number(data, position, 2)
        return (position + 4 <= size) & ~_is_one_of(marker, [_FILL * 256 + end for end in _ENDS])

    def step(position: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        begins, marker = data[position] == _FILL, data[position + 1]
        length = tf.maximum(_number(data, position + 2, 2), 2) * tf.cast(~_is_one_of(marker, _WITHOUT_LENGTH), tf.int64)
        end = position + 2 + length
        whole = begins & (marker == _APP1) & (length > 2) & (end <= size)
        holds_exif, holds_xmp = (whole & _holds(data, position + 4, kind) for kind in (_EXIF, _XMP))
        exif = tf.where(holds_exif & (exif[1] == 0), [position + 4 + len(_EXIF), end], exif)
        xmp = tf.where(holds_xmp, [position + 4 + len(_XMP), end], xmp)
        return tf.where(begins & (marker != _FILL), end, position + 1), exif, xmp

    nowhere = tf.zeros([2], tf.int64)
    start = tf.where(_holds(data, tf.constant(0, tf.int64), b"\xff\xd8\xff"), tf.constant(2, tf.int64), size)
    _, exif, xmp = tf.while_loop(goes_on, step, (start, nowhere, nowhere), maximum_iterations=_MAX_STEPS)
    return exif, xmp


def _in_tiff(data: tf.Tensor) -> tf.Tensor:
    """The number that the first directory has as its orientation, -1 where it has none. TIFF 6.0, section 2."""
    order, version = _number(data, 0, 2), _number(data, 2, 2)
    little = order == _LITTLE
    sound = (little | (order == _BIG)) & _is_one_of(version, (0x2A00, 0x002A))
    directory = data[_number(data, 4, 4, little) :]
    entries = tf.minimum(_number(directory, 0, 2, little), (tf.size(directory, tf.int64) - 2) // _ENTRY_BYTES)
    entries = tf.where(sound, tf.maximum(entries, 0), 0)
    table = tf.reshape(directory[2 : 2 + entries * _ENTRY_BYTES], [-1, _ENTRY_BYTES])
    tag, kind, count, offset = (
        _numbers(table[:, begin:end], little) for begin, end in ((0, 2), (2, 4), (4, 8), (8, 12))
    )
    unit = tf.gather(tf.constant(_TYPE_BYTES, tf.int64), tf.where(kind < len(_TYPE_BYTES), kind, 0))
    # Pillow reads no further than to a value that lies outside of the segment.
    outside = (count * unit > 4) & (offset + count * unit > tf.size(data, tf.int64))
    wanted = (tag == _ORIENTATION) & (unit > 0) & (count > 0) & (tf.cumsum(tf.cast(outside, tf.int32)) == 0)
    value = tf.zeros_like(tag)
    for size, kinds in _TYPES.items():
        value = tf.where((count == 1) & _is_one_of(kind, kinds), _numbers(table[:, 8 : 8 + size], little), value)
    return tf.concat([[tf.constant(-1, tf.int64)], tf.boolean_mask(value, wanted)], 0)[-1]


def _in_xmp(encoded: tf.Tensor, segment: tf.Tensor) -> tf.Tensor:
    text = tf.strings.substr(encoded, segment[0], segment[1] - segment[0])
    digit = tf.strings.regex_replace(text, _IN_XMP, r"\1")
    return tf.strings.to_number(tf.where(tf.strings.length(digit) == 1, digit, "0"), tf.int64)


def _holds(data: tf.Tensor, position: tf.Tensor, expected: bytes) -> tf.Tensor:
    part = data[position : position + len(expected)]
    return tf.reduce_all(tf.pad(part, [[0, len(expected) - tf.size(part)]]) == list(expected))


def _number(data: tf.Tensor, position: tf.Tensor | int, size: int, little: tf.Tensor | bool = False) -> tf.Tensor:
    """An unsigned integer of `size` bytes, int64; what lies behind the end counts as 0."""
    part = data[position : position + size]
    padded = tf.reshape(tf.pad(part, [[0, size - tf.size(part)]]), [1, size])
    return _numbers(padded, tf.convert_to_tensor(little))[0]


def _numbers(parts: tf.Tensor, little: tf.Tensor) -> tf.Tensor:
    """uint8 [n, bytes] to int64 [n]."""
    powers = [256**power for power in range(parts.shape[1])]
    weights = tf.where(little, tf.constant(powers, tf.int64), tf.constant(powers[::-1], tf.int64))
    return tf.reduce_sum(tf.cast(parts, tf.int64) * weights, axis=1)


def _is_one_of(value: tf.Tensor, choices: Sequence[int]) -> tf.Tensor:
    return tf.reduce_any(value[..., None] == tf.constant(list(choices), value.dtype), axis=-1)
