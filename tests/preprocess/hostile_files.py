"""Contents of files as hostile as people and disks make them: a kind and a random generator in, bytes out."""

from __future__ import annotations

import io
import pathlib
import pickle
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

USABLE = "usable"  # written, or the duplicate of another
REJECTED = "rejected"  # quarantined
EITHER = "either"
# Kinds of which a few are enough, because each is large or slow.
RARE = ("png_bomb", "large_png", "text_bomb", "icc_bomb", "thin")

Random = np.random.Generator
Maker = Callable[[Random], bytes]
Kinds = dict[str, tuple[str, str, Maker]]  # kind -> verdict, extension, maker


def _image(random: Random, mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Soft patches, so that lossy formats keep them and no two are near-duplicates."""
    patches = random.integers(0, 256, (6, 8, 4), np.uint8)
    return Image.fromarray(patches, "RGBA").resize(size, Image.Resampling.BICUBIC).convert(mode)


def _encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def jpeg(random: Random, mode: str = "RGB", **options: object) -> bytes:
    return _encode(_image(random, mode), "JPEG", **options)


def _png(random: Random, mode: str = "RGB") -> bytes:
    return _encode(_image(random, mode), "PNG")


def _frames(random: Random, format: str, **options: object) -> bytes:
    first, *others = (_image(random) for _ in range(3))
    return _encode(first, format, save_all=True, append_images=others, **options)


def _ycck(random: Random) -> bytes:
    """A CMYK JPEG whose Adobe marker says that the components are YCCK (Adobe Technical Note 5116, page 23)."""
    data = bytearray(jpeg(random, "CMYK"))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def _palette_alpha(random: Random) -> bytes:
    image = _image(random).quantize(16)
    return _encode(image, "PNG", transparency=bytes(range(0, 256, 16)))


def _deep(random: Random, format: str) -> bytes:
    return _encode(Image.fromarray(random.integers(0, 65536, (20, 30), np.uint16)), format)


def _turned(random: Random) -> bytes:
    image = _image(random)
    exif = image.getexif()
    exif[0x0112] = int(random.integers(2, 9))
    return _encode(image, "JPEG", exif=exif)


def _broken_exif(random: Random) -> bytes:
    return jpeg(random, exif=b"Exif\0\0II*\0" + random.bytes(60))


# Damage.


def _truncated(make: Maker, low: float, high: float) -> Maker:
    def cut(random: Random) -> bytes:
        data = make(random)
        return data[: 1 + int(len(data) * random.uniform(low, high))]

    return cut


def _last_bytes_missing(random: Random) -> bytes:
    data = jpeg(random) if random.integers(2) else _png(random)
    return data[: -int(random.integers(1, 5))]


def _flipped_jpeg(random: Random) -> bytes:
    data = bytearray(jpeg(random))
    for position in random.integers(2, len(data), 5):
        data[position] ^= 1 << int(random.integers(8))
    return bytes(data)


def _flipped_png(random: Random) -> bytes:
    data = bytearray(_png(random))
    start = data.index(b"IDAT") + 4
    data[int(random.integers(start, len(data) - 16))] ^= 0x10
    return bytes(data)


# Headers that promise too much.


def _patched(make: Maker, place: Callable[[bytes], int], value: bytes) -> Maker:
    def patch(random: Random) -> bytes:
        data = bytearray(make(random))
        start = place(bytes(data))
        data[start : start + len(value)] = value
        return bytes(data)

    return patch


def _png_of(width: int, height: int, depth: int, compressed: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", compressed), (b"IEND", b"")]
    written = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def _rows_of_bits(width: int, height: int, random: Random) -> bytes:
    packer = zlib.compressobj(9)
    row = b"\0" + bytes([int(random.integers(256))]) * (width // 8)
    return b"".join(packer.compress(row) for _ in range(height)) + packer.flush()


def _png_bomb(random: Random) -> bytes:
    return _png_of(20000, 20000, 1, _rows_of_bits(20000, 20000, random))


def _large_png(random: Random) -> bytes:
    """81 million pixels, which is allowed, in about 10 KB."""
    return _png_of(9000, 9000, 1, _rows_of_bits(9000, 9000, random))


def _text_bomb(name: bytes, head: bytes) -> Maker:
    """100 MB of zeros in metadata, 100 KB on disk."""

    def make(random: Random) -> bytes:
        pixels = zlib.compress(b"".join(b"\0" + random.bytes(8) for _ in range(8)))
        return _png_of(8, 8, 8, pixels, (name, head + zlib.compress(bytes(100_000_000), 9)))

    return make


def _thin(random: Random) -> bytes:
    return _encode(_image(random, size=(30000, 1)), "PNG")


def _dot(random: Random) -> bytes:
    return _encode(_image(random, size=(1, 1)), "PNG")


# What is no image at all.


class _Pwn:
    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (self._path, "w")


def _svg(outside: pathlib.Path) -> Maker:
    text = (
        f'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file://{outside}/secret.txt">]>'
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="50" height="50">'
        f'<image xlink:href="file://{outside}/secret.jpg" width="50" height="50"/><text y="20">&x;</text></svg>'
    )
    return lambda random: text.encode() + b"<!-- %d -->" % random.integers(1 << 30)


def _eps(outside: pathlib.Path) -> Maker:
    return lambda random: (
        f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({outside}/pwned) (w) file closefile showpage\n".encode()
        + b"%% %d" % random.integers(1 << 30)
    )


def usable_kinds() -> Kinds:
    return {
        "jpeg": (USABLE, ".jpg", jpeg),
        "jpeg_upper": (USABLE, ".JPEG", jpeg),
        "png": (USABLE, ".png", _png),
        "progressive_jpeg": (USABLE, ".jpg", lambda random: jpeg(random, progressive=True)),
        "gray_jpeg": (USABLE, ".jpg", lambda random: jpeg(random, "L")),
        "cmyk_jpeg": (USABLE, ".jpg", lambda random: jpeg(random, "CMYK")),
        "ycck_jpeg": (USABLE, ".jpg", _ycck),
        "turned_jpeg": (USABLE, ".jpg", _turned),
        "broken_exif": (USABLE, ".jpg", _broken_exif),
        "trailing_zip": (USABLE, ".jpg", lambda random: jpeg(random) + b"PK\x05\x06" + random.bytes(18)),
        "png_named_jpg": (USABLE, ".jpg", _png),
        "no_extension": (USABLE, "", jpeg),
        "alpha_png": (USABLE, ".png", lambda random: _png(random, "RGBA")),
        "gray_alpha_png": (USABLE, ".png", lambda random: _png(random, "LA")),
        "palette_alpha_png": (USABLE, ".png", _palette_alpha),
        "animated_gif": (USABLE, ".gif", lambda random: _frames(random, "GIF")),
        "bmp": (USABLE, ".bmp", lambda random: _encode(_image(random), "BMP")),
        "webp": (USABLE, ".webp", lambda random: _encode(_image(random, "RGBA"), "WEBP")),
        "animated_webp": (USABLE, ".webp", lambda random: _frames(random, "WEBP", lossless=True)),
        "tiff": (USABLE, ".tif", lambda random: _encode(_image(random), "TIFF", compression="tiff_lzw")),
        "tiff_pages": (USABLE, ".tif", lambda random: _frames(random, "TIFF")),
        "mpo": (USABLE, ".jpg", lambda random: _frames(random, "MPO")),
        "dot": (USABLE, ".png", _dot),
    }


def odd_kinds() -> Kinds:
    """What a decoder may accept or not, as long as it stays small and alive."""
    return {
        "deep_png": (EITHER, ".png", lambda random: _deep(random, "PNG")),
        "deep_tiff": (EITHER, ".tif", lambda random: _deep(random, "TIFF")),
        "thin": (EITHER, ".png", _thin),
        "large_png": (EITHER, ".png", _large_png),
        "last_bytes_missing": (EITHER, ".png", _last_bytes_missing),
        "flipped_jpeg": (EITHER, ".jpg", _flipped_jpeg),
        "text_bomb": (EITHER, ".png", _text_bomb(b"zTXt", b"Comment\0\0")),
        "icc_bomb": (EITHER, ".png", _text_bomb(b"iCCP", b"profile\0\0")),
        "tiff_circle": (
            EITHER,
            ".tif",
            # One directory of 12-byte entries at its offset; what follows is the next one's offset (TIFF 6.0, page 14).
            _patched(lambda random: _encode(_image(random), "TIFF"), _after_tiff_directory, struct.pack("<I", 8)),
        ),
    }


def bad_kinds(outside: pathlib.Path) -> Kinds:
    """`outside` is what some of them try to read, or to write the file `pwned` into."""
    return {**_no_images(outside), **_bombs(), **_cut_off(), "flipped_png": (REJECTED, ".png", _flipped_png)}


def _no_images(outside: pathlib.Path) -> Kinds:
    return {
        "zero_bytes": (REJECTED, ".jpg", lambda random: b""),
        "one_byte": (REJECTED, ".png", lambda random: random.bytes(1)),
        "random_bytes": (REJECTED, ".jpg", lambda random: b"\1" + random.bytes(500)),
        "text": (REJECTED, ".jpg", lambda random: b"not an image %d" % random.integers(1 << 30)),
        "html": (REJECTED, ".jpg", lambda random: b"<!doctype html><title>404</title>%d" % random.integers(1 << 30)),
        "pdf": (REJECTED, ".png", lambda random: b"%%PDF-1.7\n%d\n%%%%EOF" % random.integers(1 << 30)),
        "zip": (REJECTED, ".png", lambda random: b"PK\3\4" + random.bytes(60)),
        "svg": (REJECTED, ".png", _svg(outside)),
        "eps": (REJECTED, ".jpg", _eps(outside)),
        "pickle": (
            REJECTED,
            ".jpg",
            lambda random: pickle.dumps((_Pwn(str(outside / "pwned")), random.bytes(9))),
        ),
        "heic_header": (REJECTED, ".heic", lambda random: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + random.bytes(99)),
    }


def _bombs() -> Kinds:
    return {
        "png_bomb": (REJECTED, ".png", _png_bomb),
        "gif_bomb": (
            REJECTED,
            ".gif",
            _patched(lambda random: _encode(_image(random), "GIF"), lambda data: 6, struct.pack("<HH", 65000, 65000)),
        ),
        "webp_bomb": (
            REJECTED,
            ".webp",
            # Width and height less one in 14 bits each, behind the signature byte (RFC 9649, section 3.4).
            _patched(
                lambda random: _encode(_image(random), "WEBP", lossless=True),
                lambda data: data.index(b"VP8L") + 9,
                struct.pack("<I", 16382 | 16382 << 14),
            ),
        ),
        "bmp_bomb": (
            REJECTED,
            ".bmp",
            _patched(lambda random: _encode(_image(random), "BMP"), lambda data: 18, struct.pack("<ii", 60000, 60000)),
        ),
        "tiff_bomb": (
            REJECTED,
            ".tif",
            _patched(
                lambda random: _encode(_image(random), "TIFF"),
                lambda data: (
                    data.index(struct.pack("<HHI", 256, 4, 1)) + 8
                    if struct.pack("<HHI", 256, 4, 1) in data
                    else data.index(struct.pack("<HHI", 256, 3, 1)) + 8
                ),
                struct.pack("<I", 60000) + struct.pack("<HHI", 257, 4, 1) + struct.pack("<I", 60000),
            ),
        ),
        "jpeg_bomb": (
            REJECTED,
            ".jpg",
            _patched(jpeg, lambda data: data.index(b"\xff\xc0") + 5, struct.pack(">HH", 65500, 65500)),
        ),
        "png_header_bomb": (
            REJECTED,
            ".png",
            lambda random: _png_of(2**31 - 1, 2**31 - 1, 8, zlib.compress(random.bytes(20))),
        ),
    }


def _cut_off() -> Kinds:
    """Ten places, none so near to the end that every pixel is there."""
    made: list[tuple[str, Maker]] = [
        (".jpg", jpeg),
        (".png", _png),
        (".webp", lambda random: _encode(_image(random), "WEBP")),
    ]
    return {
        f"cut_at_{tenth}0_percent": (REJECTED, extension, _truncated(make, tenth / 10, tenth / 10 + 0.05))
        for tenth in range(10)
        for extension, make in [made[tenth % 3]]
    }


def _after_tiff_directory(data: bytes) -> int:
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    return int(start + 2 + 12 * entries)
