"""Every format as Pillow alone would show it, files that lie about themselves, and damage of any kind."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import formats, headers, images
from tests.pipeline.pictures import UPRIGHT, encode, kinds, pixels

MIB = 2**20


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("jpeg", "JPEG"),
        ("mpo", "JPEG"),
        ("png", "PNG"),
        ("gif", "GIF"),
        ("bmp", "BMP"),
        ("webp", "WEBP"),
        ("tiff", "TIFF"),
        ("heic", "HEIF"),
        ("avif", "AVIF"),
        ("text", None),
        ("svg", None),
        ("nothing", None),
    ],
)
def test_formats_are_told_by_their_signature(kind: str, expected: str | None) -> None:
    assert headers.format_of(kinds()[kind]) == expected


def test_a_brand_that_two_formats_share_is_told_by_the_others() -> None:
    for kind, expected in (("heic", "HEIF"), ("avif", "AVIF")):
        source = kinds()[kind]
        shared = source[:8] + b"mif1" + source[12:]
        assert headers.format_of(shared) == expected
        assert np.abs(pixels(images.standardize(shared).data).astype(int) - UPRIGHT).mean() < 4


def test_nothing_is_registered_for_the_rest_of_the_process() -> None:
    assert "HEIF" not in Image.OPEN
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(io.BytesIO(kinds()["heic"]))


@pytest.mark.parametrize(
    ("kind", "mean", "largest"),
    [
        ("gif, animated", 3, 60),  # its first frame has 256 colours of its own
        ("bmp", 0, 0),
        ("webp", 6, 60),
        ("webp, animated", 6, 60),
        ("tiff", 0, 0),
        ("tiff, deflate", 0, 0),
        ("tiff, jpeg", 2, 30),
        ("heic", 2, 20),
        ("avif", 2, 20),
        ("mpo", 2, 30),
    ],
)
def test_what_is_shown_is_the_picture(kind: str, mean: float, largest: float) -> None:
    difference = np.abs(pixels(images.standardize(kinds()[kind]).data).astype(int) - UPRIGHT)
    assert difference.mean() <= mean
    assert difference.max() <= largest


def test_tiled_tiff_and_bigtiff() -> None:
    tiled = Image.new("RGB", (48, 32))
    tiled.paste(Image.fromarray(UPRIGHT))
    for options in ({"tiffinfo": {322: 16, 323: 16}}, {"big_tiff": True}, {"compression": "packbits"}):
        source = encode(tiled, "TIFF", **options)
        np.testing.assert_array_equal(pixels(images.standardize(source).data), UPRIGHT)


@pytest.mark.parametrize("rotation", [90, 270])
def test_heic_and_avif_come_upright(rotation: int) -> None:
    """They say in a property of their own (ISO/IEC 23008-12, irot) how to turn; EXIF must not turn them again."""
    exif = Image.Exif()
    exif[0x0112] = {90: 6, 270: 8}[rotation]
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(UPRIGHT, rotation // 90)))
    for name in ("HEIF", "AVIF"):
        source = encode(stored, name, exif=exif.tobytes(), quality=90)
        result = images.standardize(source)
        assert (result.width, result.height) == (48, 32)
        assert np.abs(pixels(result.data).astype(int) - UPRIGHT).mean() < 4


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *before: bytes, after: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress((b"\0" + bytes(3 * 4)) * 4))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + data + after + chunk(b"IEND", b"")


def tiff(width: int, height: int, data: bytes, **tags: int) -> bytes:
    """8-bit gray, deflated; `tags` are added by number."""
    values = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1}
    values |= {int(name[1:]): value for name, value in tags.items()}
    start = 8 + len(data) + len(data) % 2
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(values.items()))
    body = data + bytes(len(data) % 2) + struct.pack("<H", len(values)) + entries + bytes(4)
    return struct.pack("<2sHI", b"II", 42, start) + body


def gif(screen: int, frame: int) -> bytes:
    header = b"GIF89a" + struct.pack("<HHBBB", screen, screen, 0x80, 0, 0) + bytes(6)
    return header + b"," + struct.pack("<HHHHB", 0, 0, frame, frame, 0) + b"\x02\x02\x4c\x01\x00;"


def declared(kind: str, width: int, height: int) -> bytes:
    """A HEIC or AVIF whose image spatial extents (ISO/IEC 23008-12, ispe) are replaced."""
    before, extents, after = kinds()[kind].partition(b"ispe\0\0\0\0")
    return before + extents + struct.pack(">II", width, height) + after[8:]


ZEROS = zlib.compress(bytes(64 * MIB), 9)
WEBP = kinds()["webp, animated"]
BOMBS: dict[str, tuple[bytes, str]] = {
    "png": (encode(Image.new("1", (20_000, 20_000)), "PNG"), "too_many_pixels"),
    "png, beyond our limit and not Pillow's": (png(9_000, 9_000), "too_many_pixels"),
    "png, text": (png(4, 4, chunk(b"zTXt", b"k\0\0" + ZEROS)), "cannot_decode"),
    "png, text behind the pixels": (png(4, 4, after=chunk(b"zTXt", b"k\0\0" + ZEROS)), "cannot_decode"),
    "png, many texts": (png(4, 4, *[chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**6)))] * 100), "cannot_decode"),
    "png, profile": (png(4, 4, chunk(b"iCCP", b"k\0\0" + ZEROS)), "cannot_decode"),
    "gif, screen": (gif(65_535, 1), "too_many_pixels"),
    "gif, frame": (gif(1, 65_535), "too_many_pixels"),
    "gif, frame below Pillow's limit": (gif(1, 9_000), "too_many_pixels"),
    "bmp": (
        struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 100, 0, 0, 54, 40, 60_000, 60_000, 1, 24, *[0] * 6) + bytes(100),
        "too_many_pixels",
    ),
    "webp, canvas": (WEBP[:24] + b"\xff\x3f\0\xff\x3f\0" + WEBP[30:], "too_many_pixels"),
    "jpeg": (
        kinds()["jpeg"].replace(struct.pack(">HH", 32, 48), struct.pack(">HH", 65_000, 65_000)),
        "too_many_pixels",
    ),
    "jpeg, coefficients": (
        kinds()["jpeg, progressive"].replace(struct.pack(">HH", 32, 48), struct.pack(">HH", 7_500, 7_500)),
        "too_many_pixels",
    ),
    "tiff": (tiff(20_000, 20_000, ZEROS, t273=8, t278=20_000, t279=len(ZEROS)), "too_many_pixels"),
    "tiff, tile": (tiff(9, 9, ZEROS, t322=20_000, t323=20_000, t324=8, t325=len(ZEROS)), "too_many_pixels"),
    "heic": (declared("heic", 20_000, 20_000), "too_many_pixels"),
    "avif": (declared("avif", 16_000, 16_000), "too_many_pixels"),
}
MEASURE = """
import pickle, resource, sys
from pipeline import images
sources = pickle.load(sys.stdin.buffer)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
# Nor may it be promised any: a WebP's canvas is allocated, if not touched, when the file is opened.
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30,) * 2)
codes = []
for source in sources:
    for function in (images.inspect, images.standardize, lambda source: images.thumbnail(source, 64)):
        try:
            function(source)
        except images.ImageError as error:
            codes.append(error.code)
print(peak() - before, *codes)
"""


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(name: str) -> None:
    source, code = BOMBS[name]
    assert len(source) < 200_000
    for function in (images.inspect, images.standardize):
        with pytest.raises(images.ImageError) as caught:
            function(source)
        assert caught.value.code == code
    assert images.thumbnail(source, 64) is None or code == "cannot_decode"


def test_no_bomb_takes_memory() -> None:
    # These are let through, since what they promise beyond their header is never decoded.
    harmless = [
        tiff(9, 9, ZEROS, t273=8, t278=9, t279=len(ZEROS)),
        tiff(9, 9, ZEROS, t273=8, t278=2**31 - 1, t279=len(ZEROS)),
        tiff(9, 9, ZEROS, t273=8, t278=9, t279=2**31 - 1),
    ]
    sources = pickle.dumps([*(source for source, _ in BOMBS.values()), *harmless])
    ran = subprocess.run([sys.executable, "-c", MEASURE], input=sources, capture_output=True, check=True)
    grown, *codes = ran.stdout.decode().split()
    assert codes[: 2 * len(BOMBS)] == [code for _, code in BOMBS.values() for _ in range(2)]
    # Linux counts in KiB. One GIF's frame, 9,000 square, is allocated before its size can be seen.
    assert int(grown) * 1024 < 150 * MIB


def test_a_heic_that_is_larger_than_it_says_is_refused() -> None:
    large = encode(Image.new("RGB", (1024, 1024)), "HEIF", quality=10)
    source = large.replace(struct.pack(">II", 1024, 1024), struct.pack(">II", 64, 64))
    assert source != large
    with pytest.raises(images.ImageError, match=r"cannot_decode.*[Ll]imit"):
        images.standardize(source)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (b"", "empty_file"),
        (b"this is a text file named .jpg", "not_an_image"),
        (kinds()["svg"], "not_an_image"),
        (b"\xff\xd8\xff", "cannot_decode"),
        (kinds()["jpeg"][:-300], "cannot_decode"),
        (kinds()["png"][:-60], "cannot_decode"),
        (kinds()["png"][:20], "cannot_decode"),
        (kinds()["heic"][:200], "cannot_decode"),
        (kinds()["avif"][:-20], "cannot_decode"),
        (kinds()["webp"][:-20], "cannot_decode"),
        (b"RIFF\x20\0\0\0WEBPabcd" + bytes(30), "cannot_decode"),
        (kinds()["tiff, float"], "unsupported_depth"),
    ],
)
def test_what_cannot_be_used_is_refused_by_code(source: bytes, code: str) -> None:
    for function in (images.inspect, images.standardize):
        with pytest.raises(images.ImageError) as caught:
            function(source)
        assert caught.value.code == code
    assert code in images.REASONS


def test_a_png_chunk_that_few_decoders_know_costs_the_bytes_and_not_the_image() -> None:
    for kind, kept in ((b"teSt", True), (b"TeSt", False)):  # an upper-case first letter: must be understood
        source = png(4, 4, chunk(kind, b"x"))
        assert images.standardize(source).kept is kept
        assert images.inspect(source).kept is kept


def outcome(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except images.ImageError as error:
        return images.REASONS[error.code] + str(error)


@pytest.mark.parametrize("kind", kinds())
def test_damage_ends_as_an_image_error_or_as_an_image(kind: str) -> None:
    """Bits flipped, bytes replaced, parts cut out or doubled; both functions say the same of each."""
    rng = np.random.default_rng(list(kind.encode()))
    for _ in range(40):
        damaged = bytearray(kinds()[kind])
        for _ in range(int(rng.integers(1, 6))):
            position = int(rng.integers(0, max(1, min(len(damaged), rng.choice([64, 10**6])))))
            length = int(rng.integers(0, 9))
            edit = rng.integers(4)
            if edit == 0:
                damaged[position : position + 1] = bytes([int(rng.integers(256))])
            elif edit == 1:
                damaged[position : position + length] = rng.bytes(length)
            elif edit == 2:
                del damaged[position : position + length]
            else:
                damaged[position:position] = damaged[position : position + length]
        source = bytes(damaged)
        small = images.Storing(20)
        for storing in (images.Storing(), small):
            facts, stored = outcome(images.inspect, source, storing), outcome(images.standardize, source, storing)
            if isinstance(facts, str) or isinstance(stored, str):
                assert facts == stored
            else:
                assert facts.kept == stored.kept
                if storing is not small:
                    assert (facts.width, facts.height) == (stored.width, stored.height)
        shown = images.thumbnail(source, 16)
        assert shown is None or max(Image.open(io.BytesIO(shown)).size) <= 16


def test_the_limit_is_what_the_largest_camera_formats_need() -> None:
    assert formats.MAX_PIXELS == 600 * MIB // 8
    images.inspect(png(4, 4))
    with pytest.raises(images.ImageError, match="too_many_pixels: 8869x8868 png"):
        images.inspect(png(8869, 8868))  # 78,650,292 pixels; the limit is 78,643,200
    with pytest.raises(images.ImageError, match="cannot_decode"):
        images.inspect(png(8868, 8868))  # passes the limit; this one has only 4x4 pixels in it
