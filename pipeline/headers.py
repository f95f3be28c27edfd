"""An image file's bytes in, what its container says of itself out; nothing is decoded."""

from __future__ import annotations

import re
import struct
import zlib

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
)
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_BRANDS_BYTES = 256  # dozens of brands

_EXTENTS = re.compile(rb"ispe\0\0\0\0(.{8})", re.DOTALL)
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")  # stuffed zeros and restarts belong to the pixels
_JPEG_FILL, _JPEG_END = 0xFF, 0xD9
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PNG_DEPTH = 24  # position in the header chunk, which is always first
_PNG_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")


def format_of(source: bytes) -> str | None:
    """A key of `formats`' decoders, by the file's signature."""
    for signature, name in _SIGNATURES:
        if source.startswith(signature):
            return name
    if source[:4] == b"RIFF" and source[8:12] == b"WEBP":
        return "WEBP"
    if source[4:8] == b"ftyp":  # ISO/IEC 14496-12: the major brand, a version, then those it is compatible with
        brands = source[8 : min(int.from_bytes(source[:4], "big"), _BRANDS_BYTES)]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        if source[8:12] in _HEIC_BRANDS:
            return "HEIF"
    return None


def webp(source: bytes) -> tuple[int, int, bool]:
    """Width, height and whether the first frame is lossy (RFC 9649, sections 2.5 to 2.7).

    Raises:
      ValueError: where there is no frame.
    """
    size: tuple[int, int] | None = None
    position = 12
    while position + 18 <= len(source):
        kind, data = source[position : position + 4], source[position + 8 : position + 18]
        if kind == b"VP8X":
            size = 1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little")
        elif kind == b"VP8 ":
            width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (6, 8))
            return *(size or (width, height)), True
        elif kind == b"VP8L":
            bits = int.from_bytes(data[1:5], "little")
            return *(size or (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))), False
        length = int.from_bytes(source[position + 4 : position + 8], "little")
        position += 8 + (16 if kind == b"ANMF" else length + length % 2)  # a frame holds chunks of its own
    raise ValueError("WebP without a frame")


def extents(source: bytes) -> list[tuple[int, int]]:
    """Width and height of every picture in a HEIC or AVIF, before it is cropped (ISO/IEC 23008-12, 6.5.3, ispe)."""
    return [struct.unpack(">II", sizes) for sizes in _EXTENTS.findall(source)]


def walk_jpeg(source: bytes) -> tuple[int, bool]:
    """The marker of its frame, and whether the segments lead to the end-of-image marker (ITU-T T.81, annex B).

    Without that Pillow is content, having all pixels; TensorFlow reads on and fails.
    """
    frame = 0
    position = 2
    while match := _JPEG_MARKER.search(source, position):
        position = match.end()
        marker = source[position - 1]
        if marker == _JPEG_END:
            return frame, True
        if marker == _JPEG_FILL:
            position -= 1
            continue
        if marker in _JPEG_FRAMES:
            frame = marker
        position += int.from_bytes(source[position : position + 2], "big")
    return frame, False


def png_depth(source: bytes) -> int:
    """Bits per channel."""
    return source[_PNG_DEPTH]


def walk_png(source: bytes) -> bool:
    """Whether every chunk up to the end is there and is one that all decoders know (PNG 3rd edition, section 5).

    Raises:
      ValueError: where a checksum is wrong, which Pillow does not look at in pixel data, or pixel data are cut off.
    """
    view = memoryview(source)
    known = True
    position = 8
    while position + 12 <= len(source):
        kind = source[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(source[position : position + 4], "big")
        if end > len(source):
            raise ValueError(f"PNG cut off in chunk {kind!r}")
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise ValueError(f"wrong checksum of PNG chunk {kind!r}")
        known &= kind in _PNG_CRITICAL or bool(kind[0] & 0x20)  # lower case: may be left unread
        if kind == b"IEND":
            return known
        position = end
    return False
