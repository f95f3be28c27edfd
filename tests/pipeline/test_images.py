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
from pipeline.errors import InputError
from pipeline.images import Storing
from tests.pipeline.pictures import UPRIGHT, encode, kinds, photo, pixels

RNG = np.random.default_rng(0)
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
    facts = images.inspect(source)
    assert (facts.width, facts.height, facts.kept) == (48, 32, True)


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


SEEDS = [*kinds().values()]


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


@pytest.mark.parametrize(
    "given", [{"shorter_side": -1}, {"jpeg_quality": 0}, {"jpeg_quality": 101}, {"chroma": "4:2:2"}]
)
def test_settings_check_themselves(given: dict[str, Any]) -> None:
    name, value = next(iter(given.items()))
    with pytest.raises(InputError, match=f"{name} is {value!r}: expected"):
        Storing(**given)


@pytest.mark.parametrize("side", [0, 20, 32, 500])
@pytest.mark.parametrize("kind", kinds())
def test_inspection_says_what_storing_does(kind: str, side: int) -> None:
    source, storing = kinds()[kind], Storing(shorter_side=side)
    if kind in ("tiff, float", "text", "svg", "nothing"):
        errors = []
        for function in (images.standardize, images.inspect):
            with pytest.raises(images.ImageError) as caught:
                function(source, storing)
            errors.append(str(caught.value))
        assert errors[0] == errors[1]
        return
    stored = images.standardize(source, storing)
    facts = images.inspect(source, storing)
    assert facts.kept == stored.kept == (stored.data == source)
    assert (facts.width, facts.height) == ((32, 48) if "turned" in kind else (48, 32))
    assert facts.preview.shape == (facts.height, facts.width, 3)
    assert facts.preview.dtype == np.uint8
    shorter = side if 0 < side < 32 else 32
    assert sorted((stored.width, stored.height)) == [shorter, shorter * 3 // 2]
    shown = pixels(stored.data)
    assert shown.shape == (stored.height, stored.width, 3)
    resized = np.asarray(Image.fromarray(facts.preview).resize((stored.width, stored.height), Image.Resampling.BICUBIC))
    assert np.abs(resized.astype(int) - shown).mean() < 8  # the same picture, apart from JPEG's loss


@pytest.mark.parametrize(
    ("kind", "storing", "signature"),
    [
        ("jpeg, turned", Storing(), b"\xff\xd8"),
        ("webp", Storing(), b"\xff\xd8"),
        ("heic", Storing(), b"\xff\xd8"),
        ("avif", Storing(), b"\xff\xd8"),
        ("tiff, jpeg", Storing(), b"\xff\xd8"),
        ("webp", Storing(20, lossless=True), b"\xff\xd8"),
        ("webp, lossless with alpha", Storing(), b"\x89PNG"),
        ("png, alpha", Storing(), b"\x89PNG"),
        ("png, alpha", Storing(100), b"\x89PNG"),
        ("png", Storing(20), b"\xff\xd8"),
        ("png", Storing(20, lossless=True), b"\x89PNG"),
        ("gif", Storing(20), b"\xff\xd8"),
        ("gif", Storing(20, lossless=True), b"\x89PNG"),
    ],
)
def test_what_is_stored_as_jpeg_and_what_as_png(kind: str, storing: Storing, signature: bytes) -> None:
    result = images.standardize(kinds()[kind], storing)
    assert result.data.startswith(signature)
    assert not result.kept


def test_quality_and_chroma_reach_the_file() -> None:
    def stored(storing: Storing) -> Any:
        return Image.open(io.BytesIO(images.standardize(photo(), storing).data))

    usual, small = stored(Storing(100)), stored(Storing(100, jpeg_quality=50, chroma="4:2:0"))
    assert [layer[1:3] for layer in usual.layer] == [(1, 1)] * 3
    assert [layer[1:3] for layer in small.layer] == [(2, 2), (1, 1), (1, 1)]
    # The quantisation table of ITU-T T.81, annex K.1 is that of quality 50; libjpeg halves its steps ten times by 95.
    assert small.quantization[0][:4] == [16, 11, 10, 16]
    assert usual.quantization[0][:4] == [2, 1, 1, 2]


@pytest.mark.parametrize("name", ["china", "flower"])
@pytest.mark.parametrize("side", [50, 99, 106, 200, 256])
def test_decoding_at_a_smaller_scale_loses_nothing_that_shows(name: str, side: int) -> None:
    result = images.standardize(photo(name), Storing(side, jpeg_quality=100))
    size = round(640 * side / 427), side
    assert (result.width, result.height) == size
    full = Image.open(io.BytesIO(photo(name))).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    stored = Image.open(io.BytesIO(result.data))
    error = np.square(np.asarray(stored).astype(float) - np.asarray(full)).mean()
    assert error < 255**2 / 10**4.2  # 42 dB: bilinear instead of bicubic would differ by more


def test_long_strips_keep_at_least_one_pixel() -> None:
    strip = encode(Image.new("RGB", (30_000, 1), "red"), "PNG")
    assert images.standardize(strip, Storing(256)).kept
    assert images.inspect(strip).preview.shape == (1, 7500, 3)
    wide = images.standardize(encode(Image.new("L", (80_000, 4)), "PNG"), Storing(3))
    assert (wide.width, wide.height, wide.data[:4]) == (60_000, 3, b"\xff\xd8\xff\xe0")
    wider = images.standardize(encode(Image.new("L", (80_000, 2)), "PNG"), Storing(1))
    assert (wider.width, wider.height) == (40_000, 1)
    too_wide = images.standardize(encode(Image.new("L", (80_000, 10)), "PNG"), Storing(9))
    assert (too_wide.width, too_wide.data[:4]) == (72_000, b"\x89PNG")  # JPEG ends at 65,500


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize(("width", "height"), [(640, 427), (64, 1000), (63, 90), (1100, 1300)])
def test_the_preview_is_small_and_shows_the_picture(format: str, width: int, height: int) -> None:
    image = Image.open(io.BytesIO(photo())).resize((width, height))
    preview = images.inspect(encode(image, format, **({"quality": 95} if format == "JPEG" else {}))).preview
    shown_height, shown_width, _ = preview.shape
    assert min(shown_height, shown_width) in (range(64, 128) if min(width, height) >= 64 else [63])
    assert shown_width / shown_height == pytest.approx(width / height, rel=0.02)
    box = round(width / shown_width)  # each pixel is the mean of this many squared
    rows, columns = height // box, width // box
    expected = np.asarray(image)[: rows * box, : columns * box].reshape(rows, box, columns, box, 3).mean((1, 3))
    assert np.abs(preview[:rows, :columns] - expected).mean() < (4 if format == "JPEG" else 0.6)


@pytest.mark.parametrize("options", [None, {"progressive": True}, {"subsampling": 0, "restart_marker_blocks": 7}])
def test_inspection_finds_the_damage_that_a_full_decode_finds(options: dict[str, Any] | None) -> None:
    """Truncated at 24 offsets and with bits flipped in 60 ways, against Pillow's own full decode."""
    whole = photo() if options is None else encode(Image.open(io.BytesIO(photo())), "JPEG", **options)
    damaged = [whole[: len(whole) * cut // 25] for cut in range(1, 25)]
    damaged += [whole[:-2], whole[:-1], whole]
    for _ in range(60):
        flipped = bytearray(whole)
        for position in RNG.integers(2, len(whole), 3):
            flipped[position] ^= 1 << RNG.integers(8)
        damaged.append(bytes(flipped))
    verdicts = []
    for source in damaged:
        try:
            Image.open(io.BytesIO(source), formats=["JPEG"]).load()
            fine = True
        except Exception:  # noqa: BLE001
            fine = False
        try:
            images.inspect(source)
            found = True
        except images.ImageError as error:
            assert error.code in ("cannot_decode", "not_an_image", "too_many_pixels")  # noqa: PT017
            found = False
        assert found == fine
        verdicts.append(fine)
    assert not any(verdicts[:24])
    assert verdicts[26]


def test_a_thumbnail_shows_what_is_left_of_a_file() -> None:
    whole = Image.open(io.BytesIO(photo()))
    for source in (photo(), encode(whole, "JPEG", progressive=True), encode(whole, "PNG"), encode(whole, "BMP")):
        expected = np.asarray(whole.resize((96, 64))).astype(int)
        for share in (1.0, 0.6):
            small = images.thumbnail(source[: int(len(source) * share)], 96)
            assert small is not None
            shown = np.asarray(Image.open(io.BytesIO(small))).astype(int)
            assert shown.shape == (64, 96, 3)
            upper = slice(0, 20) if source[:2] != b"BM" else slice(44, 64)  # BMP begins at the bottom
            assert np.abs(shown - expected)[upper].mean() < 12
    tall = images.thumbnail(kinds()["jpeg, turned"], 24)
    assert tall is not None
    assert Image.open(io.BytesIO(tall)).size == (16, 24)
    for kind in ("text", "nothing", "tiff, float"):
        assert images.thumbnail(kinds()[kind], 24) is None
    assert images.thumbnail(encode(Image.new("1", (20_000, 20_000)), "PNG"), 24) is None
