"""Orientation as Pillow reads it, from sound and from damaged files."""

from __future__ import annotations

import io
import random
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from pipeline import formats
from tests.pipeline import pictures
from trainer.export import exif

PICTURE = Image.fromarray(pictures.UPRIGHT)
_find = tf.function(exif.orientation, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
_upright = tf.function(
    exif.upright,
    input_signature=[tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([], tf.int32)],
    autograph=False,
)


def metadata(orientation: int, order: str, kind: int = 3) -> bytes:
    """EXIF with a text, the orientation and a fraction; values of more than four bytes lie behind the directory."""
    value = struct.pack(order + "HH", orientation, 0) if kind == 3 else struct.pack(order + "I", orientation)
    entries = [
        struct.pack(order + "HHI", 0x010F, 2, 4) + b"abc\0",
        struct.pack(order + "HHI", 0x0112, kind, 1) + value,
        struct.pack(order + "HHII", 0x011A, 5, 1, 60),
    ]
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    return b"Exif\0\0" + start + b"".join(entries) + bytes(40)


def jpeg(**options: object) -> bytes:
    return pictures.encode(PICTURE, "JPEG", **options)


def by_pillow(file: bytes) -> int:
    return formats.open_image(file).orientation()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
def test_all_orientations_in_both_orders_of_bytes(order: str, kind: int) -> None:
    for orientation in range(10):  # 0 and 9 are none
        file = jpeg(exif=metadata(orientation, order, kind))
        expected = orientation if 1 <= orientation <= 8 else 1
        assert _find(file).numpy() == expected == by_pillow(file)


def test_what_says_nothing_is_upright() -> None:
    xmp = b'<x:xmpmeta tiff:Orientation="6"/>'
    files = {
        "no metadata": (jpeg(), 1),
        "XMP": (jpeg(xmp=xmp), 6),
        "EXIF before XMP": (jpeg(exif=metadata(3, "<"), xmp=xmp), 3),
        "PNG": (pictures.encode(PICTURE, "PNG", exif=metadata(6, "<")), 1),
        "nothing": (b"", 1),
        "no image": (b"\xff\xd8\xff", 1),
    }
    for name, (file, expected) in files.items():
        assert _find(file).numpy() == expected, name
    behind = jpeg(exif=metadata(8, ">"))
    behind = behind[:2] + b"\xff\xe0\x00\x04ab\xff\xff\xed\x00\x03c" + behind[2:]  # other segments and fill bytes first
    assert _find(behind).numpy() == 8 == by_pillow(behind)


def test_damaged_metadata_counts_as_pillow_counts_it() -> None:
    draws = random.Random(0)
    seeds = [jpeg(exif=metadata(orientation, order)) for orientation in (3, 6, 8) for order in "<>"]
    seeds.append(jpeg(xmp=b'<x:xmpmeta tiff:Orientation="6"/>'))
    turned = 0
    for _ in range(400):
        file = bytearray(draws.choice(seeds))
        for _ in range(draws.randint(1, 3)):
            file[draws.randrange(4, 120)] = draws.choice([0, 1, 2, 3, 6, 8, 0xFF, 0xE1, 0xDA, draws.randrange(256)])
        found = _find(bytes(file)).numpy()
        try:
            expected = by_pillow(bytes(file))
        except Exception:  # noqa: BLE001  # Pillow raises many types where more than the metadata is damaged
            continue
        assert found == expected, bytes(file[:130])
        turned += found > 1
    assert turned > 100  # the damage left enough to be read


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_what_pillow_makes_of_it(orientation: int) -> None:
    file = pictures.encode(PICTURE, "PNG", exif=metadata(orientation, "<"))
    with Image.open(io.BytesIO(file)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    np.testing.assert_array_equal(_upright(pictures.UPRIGHT, orientation), expected)
