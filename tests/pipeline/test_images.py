"""Images against numpy's own turning, TensorFlow's decoder and damage of every kind."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import images

RNG = np.random.default_rng(0)
# Smooth enough for JPEG to keep, different in every corner.
RED, BLUE = np.meshgrid(np.linspace(0, 255, 48), np.linspace(0, 255, 32))
UPRIGHT = np.stack([RED, np.full_like(RED, 60), BLUE], axis=-1).astype(np.uint8)
# How a camera stores the upright image for each value: where row 0 and column 0 are, CIPA DC-008 section 4.6.4.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: UPRIGHT.transpose(1, 0, 2)[::-1],
    7: UPRIGHT.transpose(1, 0, 2)[::-1, ::-1],
    8: UPRIGHT.transpose(1, 0, 2)[:, ::-1],
}


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    """What the decoder of training sees."""
    tf = pytest.importorskip("tensorflow")
    decoded: np.ndarray[Any, Any] = tf.io.decode_image(data, channels=3, expand_animations=False).numpy()
    return decoded


def oriented(orientation: int, format: str, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(Image.fromarray(np.ascontiguousarray(STORED[orientation])), format, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("format", "options"), [("JPEG", {"quality": 95}), ("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})]
)
def test_every_orientation_gives_the_upright_image(orientation: int, format: str, options: dict[str, Any]) -> None:
    source = oriented(orientation, format, **options)
    result = images.standardize(source)
    assert (result.width, result.height) == (48, 32)
    assert result.kept == (orientation == 1 and format in ("JPEG", "PNG"))
    difference = np.abs(pixels(result.data).astype(int) - UPRIGHT)
    assert difference.mean() < 2 if format == "JPEG" else difference.max() == 0
    again = images.standardize(result.data)  # a second turn would undo the first
    assert again.kept
    assert again.data == result.data


@pytest.mark.parametrize("orientation", [0, 9, 999])
def test_an_orientation_outside_exif_changes_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = encode(Image.fromarray(UPRIGHT), "JPEG", exif=exif)
    assert images.standardize(source).data == source


def test_metadata_that_cannot_be_parsed_does_not_cost_the_image() -> None:
    source = encode(Image.fromarray(UPRIGHT), "JPEG", exif=b"Exif\0\0this is no TIFF header")
    assert images.standardize(source).data == source


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30, "subsampling": 2}])
def test_plain_jpeg_is_kept_byte_for_byte(options: dict[str, Any]) -> None:
    source = encode(Image.fromarray(UPRIGHT), "JPEG", **options)
    result = images.standardize(source)
    assert result == images.StandardImage(source, 48, 32, kept=True)
    assert images.standardize(source, encode=False) == result


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_other_modes_become_the_rgb_that_pillow_shows(mode: str) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (9, 7, 3), np.uint8)).convert(mode)
    result = images.standardize(encode(image, "PNG"))
    assert not result.kept
    np.testing.assert_array_equal(pixels(result.data), np.asarray(image.convert("RGB")))
    facts = images.standardize(encode(image, "PNG"), encode=False)
    assert (facts.data, facts.width, facts.height, facts.kept) == (b"", 7, 9, False)


def test_cmyk_jpeg_stays_jpeg_and_becomes_rgb() -> None:
    source = encode(Image.fromarray(UPRIGHT).convert("CMYK"), "JPEG", quality=95)
    result = images.standardize(source)
    assert result.data[:2] == b"\xff\xd8"
    assert np.abs(pixels(result.data).astype(int) - UPRIGHT).mean() < 3


@pytest.mark.parametrize("format", ["GIF", "BMP", "WEBP", "TIFF"])
def test_other_formats_become_png_without_loss(format: str) -> None:
    image = Image.fromarray(UPRIGHT).quantize(64).convert("RGB")
    source = encode(image, format, **({"lossless": True} if format == "WEBP" else {}))
    result = images.standardize(source)
    assert result.data[:4] == b"\x89PNG"
    np.testing.assert_array_equal(pixels(result.data), np.asarray(Image.open(io.BytesIO(source)).convert("RGB")))


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (5, 4), color) for color in ("red", "blue")]
    result = images.standardize(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (pixels(result.data) == [255, 0, 0]).all()


def test_mpo_is_read_as_its_first_picture() -> None:
    first, second = (Image.new("RGB", (16, 8), color) for color in ("red", "blue"))
    source = encode(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(source)).format == "MPO"
    result = images.standardize(source)
    assert result.kept
    assert np.abs(pixels(result.data).astype(int) - [255, 0, 0]).max() < 6


def png_that_declares(width: int, height: int) -> bytes:
    return encode(Image.new("1", (width, height)), "PNG")


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (b"", "empty_file"),
        (b"this is a text file named .jpg", "not_an_image"),
        (b"\xff\xd8\xff", "not_an_image"),
        (png_that_declares(20000, 20000), "too_many_pixels"),
        (png_that_declares(10000, 9000), "too_many_pixels"),  # beyond our limit, below the one at which Pillow raises
        (encode(Image.fromarray(RNG.integers(0, 60000, (4, 4), np.uint16)), "PNG"), "unsupported_depth"),
        (encode(Image.fromarray(RNG.random((4, 4), np.float32)), "TIFF"), "unsupported_depth"),
        (encode(Image.fromarray(RNG.integers(0, 256, (32, 48, 3), np.uint8)), "JPEG")[:-300], "cannot_decode"),
        (encode(Image.fromarray(UPRIGHT), "PNG")[:-60], "cannot_decode"),
    ],
)
def test_what_cannot_be_used_is_refused_by_code(source: bytes, code: str) -> None:
    assert len(source) < 60_000
    with pytest.raises(images.ImageError) as caught:
        images.standardize(source, encode=False)
    assert caught.value.code == code
    assert code in images.REASONS


def test_sixteen_bit_colour_is_refused_though_pillow_would_reduce_it() -> None:
    import tensorflow as tf  # Pillow writes no such file

    source = tf.io.encode_png(tf.constant(RNG.integers(0, 60000, (4, 4, 3), np.uint16))).numpy()
    with pytest.raises(images.ImageError, match="unsupported_depth: 16 bits"):
        images.standardize(source, encode=False)


def test_a_png_with_a_wrong_checksum_is_damaged() -> None:
    source = bytearray(encode(Image.fromarray(UPRIGHT), "PNG"))
    source[-13] ^= 1  # the last byte of the pixels' checksum; Pillow decodes it, TensorFlow would not
    with pytest.raises(images.ImageError) as caught:
        images.standardize(bytes(source))
    assert caught.value.code == "cannot_decode"


@pytest.mark.parametrize(("format", "tail"), [("JPEG", bytes(64)), ("PNG", b"")])
def test_an_image_without_its_end_marker_is_encoded_again(format: str, tail: bytes) -> None:
    source = encode(Image.fromarray(UPRIGHT), format)[:-2] + tail  # all pixels are there; TensorFlow would not take it
    result = images.standardize(source)
    assert not result.kept
    assert np.abs(pixels(result.data).astype(int) - UPRIGHT).mean() < 3


SEEDS = [
    encode(Image.fromarray(UPRIGHT), "JPEG"),
    encode(Image.fromarray(UPRIGHT), "JPEG", progressive=True),
    encode(Image.fromarray(UPRIGHT), "PNG"),
    encode(Image.fromarray(UPRIGHT), "PNG", compress_level=0),
    encode(Image.fromarray(UPRIGHT).convert("L"), "JPEG"),
    encode(Image.fromarray(UPRIGHT), "WEBP"),
    oriented(6, "JPEG"),
]


@settings(max_examples=300, deadline=None)
@given(
    source=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(-900, 900), st.binary(max_size=6)), max_size=4),
    length=st.integers(0, 10_000),
)
def test_whatever_is_accepted_trains(source: bytes, edits: list[tuple[int, bytes]], length: int) -> None:
    """Damaged anywhere, a file is refused with a reason, or what is stored decodes with TensorFlow at the same size."""
    damaged = bytearray(source)
    for position, replacement in edits:
        damaged[position : position + len(replacement)] = replacement
    try:
        result = images.standardize(bytes(damaged[:length]))
    except images.ImageError:
        return
    assert pixels(result.data).shape == (result.height, result.width, 3)
