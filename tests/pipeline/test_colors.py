"""What pixels of every kind become, against formulas written out here, TensorFlow and profiles made by hand."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline import colors, images
from tests.pipeline.pictures import UPRIGHT, Pixels, encode, kinds, pixels

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (24, 40, 3), np.uint8)
Floats = npt.NDArray[np.float64]

# IEC 61966-2-1, and the primaries of DCI-P3 on the same white (SMPTE EG 432-1): x and y of red, green, blue.
SRGB_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
P3_PRIMARIES = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
D65, D50 = (0.3127, 0.3290), (0.3457, 0.3585)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def xyz(x: float, y: float) -> Floats:
    return np.array([x / y, 1, (1 - x - y) / y])


def to_d50(primaries: Sequence[tuple[float, float]]) -> Floats:
    """Columns: what red, green and blue give in XYZ, adapted from D65 to the D50 of profiles (ICC.1, annex E)."""
    columns = np.stack([xyz(*primary) for primary in primaries], axis=1)
    columns = columns * np.linalg.solve(columns, xyz(*D65))
    scale = np.diag((BRADFORD @ xyz(*D50)) / (BRADFORD @ xyz(*D65)))
    return np.linalg.inv(BRADFORD) @ scale @ BRADFORD @ columns


def decoded(levels: Floats) -> Floats:
    """SRGB's levels 0..1 to linear light."""
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def encoded(light: Floats) -> Floats:
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def profile(space: bytes, tags: dict[bytes, bytes], pcs: bytes = b"XYZ ", kind: bytes = b"mntr") -> bytes:
    """An ICC profile, version 2.4 (ICC.1:2001-04, section 6)."""
    white = b"XYZ \0\0\0\0" + fixed(xyz(*D50))
    tags = {b"desc": b"desc\0\0\0\0\0\0\0\2A\0" + bytes(79), b"cprt": b"text\0\0\0\0none\0", b"wtpt": white, **tags}
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = 128 + len(table) + len(body)
    header = struct.pack(">I4xI4s4s4s12x4s28x", size, 0x02400000, kind, space, pcs, b"acsp")
    return header + fixed(xyz(*D50)) + bytes(48) + table + body


def fixed(values: npt.ArrayLike) -> bytes:
    return struct.pack(">3i", *(round(float(value) * 65536) for value in np.asarray(values)))


def rgb_profile(primaries: Sequence[tuple[float, float]], gamma: float | None = None) -> bytes:
    """With sRGB's curve as 1,024 points, or a plain exponent."""
    points = np.linspace(0, 1, 1024)
    curve = decoded(points) if gamma is None else points**gamma
    table = b"curv\0\0\0\0" + struct.pack(">I1024H", 1024, *np.round(curve * 65535).astype(int))
    columns = to_d50(primaries)
    tags = {name: b"XYZ \0\0\0\0" + fixed(columns[:, index]) for index, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return profile(b"RGB ", {**tags, b"rTRC": table, b"gTRC": table, b"bTRC": table})


def shown(primaries: Sequence[tuple[float, float]], picture: Pixels, gamma: float | None = None) -> Floats:
    """The picture's levels in sRGB, 0..255."""
    levels = picture / 255
    light = decoded(levels) if gamma is None else levels**gamma
    return 255 * encoded(light @ (np.linalg.inv(to_d50(SRGB_PRIMARIES)) @ to_d50(primaries)).T)


@pytest.mark.parametrize(("primaries", "gamma"), [(P3_PRIMARIES, None), (SRGB_PRIMARIES, 1.8), (P3_PRIMARIES, 2.2)])
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_colour_profiles_are_converted_to_srgb(
    format: str, primaries: Sequence[tuple[float, float]], gamma: float | None
) -> None:
    icc = rgb_profile(primaries, gamma)
    source = encode(Image.fromarray(NOISE), format, icc_profile=icc, **({"lossless": True} if format == "WEBP" else {}))
    result = images.standardize(source)
    assert not result.kept
    assert "icc_profile" not in Image.open(io.BytesIO(result.data)).info
    expected = shown(primaries, NOISE, gamma)
    assert np.abs(expected - NOISE).max() > 10
    assert np.abs(pixels(result.data) - expected).max() <= 1.5


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("icc", [rgb_profile(SRGB_PRIMARIES), b"no profile at all", rgb_profile(P3_PRIMARIES)[:300]])
def test_profiles_that_say_srgb_or_nothing_do_not_cost_the_bytes(format: str, icc: bytes) -> None:
    source = encode(Image.fromarray(UPRIGHT), format, icc_profile=icc)
    assert Image.open(io.BytesIO(source)).info["icc_profile"] == icc
    assert images.standardize(source).data == source


def test_a_jpeg_with_a_profile_is_converted() -> None:
    source = encode(Image.fromarray(UPRIGHT), "JPEG", quality=95, icc_profile=rgb_profile(P3_PRIMARIES))
    result = images.standardize(source)
    assert not result.kept
    assert np.abs(pixels(result.data) - shown(P3_PRIMARIES, UPRIGHT)).mean() < 2


def test_gray_goes_through_gray_and_coloured_profiles() -> None:
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, 256)  # gamma 1.0
    gray = np.ascontiguousarray(UPRIGHT[..., 0])
    linear = encode(Image.fromarray(gray), "PNG", icc_profile=profile(b"GRAY", {b"kTRC": curve}))
    expected = np.repeat(255 * encoded(gray / 255)[..., None], 3, axis=-1)
    assert np.abs(pixels(images.standardize(linear).data) - expected).max() <= 2
    coloured = encode(Image.fromarray(gray), "PNG", icc_profile=rgb_profile(SRGB_PRIMARIES, 1.8))
    expected = shown(SRGB_PRIMARIES, np.repeat(gray[..., None], 3, axis=-1), 1.8)
    assert np.abs(pixels(images.standardize(coloured).data) - expected).max() <= 2


def test_cmyk_goes_through_its_profile() -> None:
    """Inks that mix evenly from paper (L* 100) to L* 60, a* -40, b* -50 for cyan and L* 0 for black."""
    lab = np.zeros((2, 2, 2, 2, 3))
    for c, m, y, k in np.ndindex(2, 2, 2, 2):
        lab[c, m, y, k] = (0, 0, 0) if k or m or y else ((60, -40, -50) if c else (100, 0, 0))
    table = np.round(lab * [2.55, 1, 1] + [0, 128, 128]).astype(np.uint8).tobytes()
    same = bytes(range(256))
    identity = b"".join(fixed(row) for row in np.eye(3))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + same * 4 + table + same * 3  # ICC.1:2001-04, 6.5.6
    icc = profile(b"CMYK", {b"A2B0": lut}, pcs=b"Lab ", kind=b"prtr")
    cyan = np.zeros((8, 16, 4), np.uint8)
    cyan[:, 8:, 0] = 255
    for source in (
        encode(Image.fromarray(cyan, "CMYK"), "TIFF", icc_profile=icc),
        encode(Image.fromarray(cyan, "CMYK"), "JPEG", quality=100, icc_profile=icc),
    ):
        result = pixels(images.standardize(source).data).astype(int)
        # CIE 15: L*a*b* to XYZ, then to linear sRGB.
        f = (60 + 16) / 116
        light = np.array([f - 40 / 500, f, f + 50 / 200]) ** 3 * xyz(*D50)
        ink = 255 * encoded(np.linalg.inv(to_d50(SRGB_PRIMARIES)) @ light)
        assert np.abs(result[4, 3] - 255).max() <= 2
        assert np.abs(result[4, 12] - ink).max() <= 4


@pytest.mark.parametrize("transform", [0, 2])
def test_cmyk_and_ycck_jpeg_without_profile_are_as_tensorflow_reads_them(transform: int) -> None:
    source = encode(Image.fromarray(UPRIGHT).convert("CMYK"), "JPEG", quality=95)
    adobe = source.index(b"Adobe") + 11  # APP14: name, version, two flags, then the transform
    assert source[adobe] == 0
    source = source[:adobe] + bytes([transform]) + source[adobe + 1 :]
    result = images.standardize(source, images.Storing(jpeg_quality=100))
    assert result.data[:2] == b"\xff\xd8"
    assert np.abs(pixels(result.data).astype(int) - pixels(source)).mean() < 2


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_opaque_modes_become_the_rgb_that_pillow_shows(mode: str) -> None:
    image = Image.fromarray(NOISE).convert(mode)
    result = images.standardize(encode(image, "PNG"))
    assert not result.kept
    np.testing.assert_array_equal(pixels(result.data), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "BMP"])
def test_transparent_parts_are_laid_on_white(format: str) -> None:
    alpha = RNG.integers(0, 256, (24, 40, 1), np.uint8)
    alpha[:4] = 0  # whatever colour hides here may not show
    alpha[4:8] = 255
    image = Image.fromarray(np.concatenate([NOISE, alpha], axis=-1))
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    result = pixels(images.standardize(encode(image, format, **options)).data)
    expected = 255 - (255 - NOISE.astype(float)) * alpha / 255
    if format == "BMP":
        expected = NOISE  # a plain 32-bit BMP's fourth byte has no meaning
    assert np.abs(result - expected).max() <= 1


def test_transparency_of_gray_of_palettes_and_of_one_colour() -> None:
    gray = NOISE[..., 0]
    levels = NOISE[..., 1].astype(float)
    image = Image.merge("LA", [Image.fromarray(gray), Image.fromarray(NOISE[..., 1])])
    expected = 255 - (255 - gray.astype(float)) * levels / 255
    assert np.abs(pixels(images.standardize(encode(image, "PNG")).data)[..., 2] - expected).max() <= 1

    palette = Image.fromarray(gray).convert("P")
    alphas = bytes(range(255, -1, -1))
    rgb = np.asarray(palette.convert("RGB")).astype(float)
    index = np.asarray(palette)
    expected = 255 - (255 - rgb) * np.frombuffer(alphas, np.uint8)[index][..., None] / 255
    assert np.abs(pixels(images.standardize(encode(palette, "PNG", transparency=alphas)).data) - expected).max() <= 1

    two = NOISE.copy()
    two[:, ::2] = (10, 20, 30)
    result = pixels(images.standardize(encode(Image.fromarray(two), "PNG", transparency=(10, 20, 30))).data)
    two[:, ::2] = 255
    np.testing.assert_array_equal(result, two)


def test_a_band_at_a_time_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {kind: pixels(images.standardize(source).data) for kind, source in kinds().items() if kind in BANDED}
    monkeypatch.setattr(colors, "_BAND_PIXELS", 100)
    for kind, expected in whole.items():
        np.testing.assert_array_equal(pixels(images.standardize(kinds()[kind]).data), expected)


BANDED = ("png, alpha", "png, palette with alpha", "png, gray and alpha", "png, 16 bit", "png, one colour transparent")


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_gray_is_scaled_by_257(format: str) -> None:
    values = np.array([[0, 128, 129, 257, 32767, 32768, 65406, 65407, 65535]], np.uint16)
    result = pixels(images.standardize(encode(Image.fromarray(values), format)).data)
    assert result[0, :, 0].tolist() == [0, 0, 1, 1, 127, 128, 254, 255, 255]


def test_sixteen_bit_gray_that_is_inverted_or_big_endian() -> None:
    values = UPRIGHT[..., 0].astype(np.uint16) * 257
    source = encode(Image.fromarray(values), "TIFF")
    black_is_zero = struct.pack("<HHIH", 262, 3, 1, 1)
    assert black_is_zero in source
    inverted = source.replace(black_is_zero, struct.pack("<HHIH", 262, 3, 1, 0))
    np.testing.assert_array_equal(pixels(images.standardize(inverted).data)[..., 0], 255 - UPRIGHT[..., 0])
    big = encode(Image.frombytes("I;16B", (48, 32), values.astype(">u2").tobytes()), "TIFF")
    assert big[:2] == b"MM"
    np.testing.assert_array_equal(pixels(images.standardize(big).data)[..., 0], UPRIGHT[..., 0])


def test_sixteen_bit_colour_is_scaled() -> None:
    import tensorflow as tf  # Pillow writes no such file

    values = RNG.integers(0, 65536, (24, 40, 3), np.uint16)
    result = images.standardize(tf.io.encode_png(tf.constant(values)).numpy())
    assert not result.kept
    assert np.abs(pixels(result.data) - values / 257).max() <= 1


def test_one_transparent_colour_of_sixteen_bits() -> None:
    import tensorflow as tf

    values = np.full((4, 4, 3), 5000, np.uint16)
    values[:, 2:] = (40_000, 50_000, 60_000)
    source = tf.io.encode_png(tf.constant(values)).numpy()
    key = b"tRNS" + struct.pack(">3H", 40_000, 50_000, 60_000)
    header = 33  # signature and first chunk
    source = source[:header] + struct.pack(">I", 6) + key + struct.pack(">I", zlib.crc32(key)) + source[header:]
    result = pixels(images.standardize(source).data)
    assert (result[:, :2] == 5000 // 257).all()
    assert (result[:, 2:] == 255).all()


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_an_agreed_range_are_refused(mode: str) -> None:
    source = encode(Image.fromarray(UPRIGHT[..., 0]).convert(mode), "TIFF")
    for function in (images.standardize, images.inspect):
        with pytest.raises(images.ImageError, match=f"unsupported_depth: pixels of mode {mode}"):
            function(source)
