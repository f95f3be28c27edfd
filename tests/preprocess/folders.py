"""Folders of small images whose every byte is made here, and what a run of the command said."""

from __future__ import annotations

import dataclasses
import pathlib
import struct
import zlib
from collections.abc import Mapping

REPOSITORY = pathlib.Path(__file__).parents[2]


def png(width: int, height: int, pixels: bytes) -> bytes:
    """An RGB PNG made by hand (RFC 2083, RFC 1951 stored block), so that its bytes depend on no library's version."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    stride = 3 * width
    raw = b"".join(b"\0" + pixels[row * stride : (row + 1) * stride] for row in range(height))
    stored = b"\x78\x01\x01" + struct.pack("<HH", len(raw), len(raw) ^ 0xFFFF) + raw
    data = stored + struct.pack(">I", zlib.adler32(raw))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def numbered_png(number: int) -> bytes:
    return png(3, 2, struct.pack(">9H", *(7 * number + place for place in range(9))))


def make_folders(root: pathlib.Path, counts: Mapping[str, int], first: int = 0) -> pathlib.Path:
    """`counts[class]` different images per class, numbered from `first`."""
    number = first
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / name / f"{index}.png").write_bytes(numbered_png(number))
            number += 1
    return root


@dataclasses.dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The one line that a refused run may say."""
        assert self.status == 2
        assert self.out == ""
        (line,) = [line for line in self.err.splitlines() if not line.startswith("left out")]
        assert line.startswith("error: ")
        return line


def contents(directory: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
