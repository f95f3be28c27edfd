"""A batch of input files in, the facts about each out; the bytes are read once and go no further."""

from __future__ import annotations

import dataclasses
import hashlib
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline import images
from preprocess import progress, similarity
from preprocess.inputs import Input, Rejected, Source
from preprocess.ledger import Row

# A worker reads a file whole: with this bound it stays below 600 MiB whatever lies in the input, with 1 GiB it took
# 1.2 GiB. The largest image that is decoded at all has some 270 MB uncompressed, and nobody classifies those.
MAX_FILE_BYTES = 2**27
# Hashes hold 16 frequencies per side, which takes 32 pixels. Glyphs of 8 or 28 pixels look alike without being copies.
_COMPARED_PX = 32
# Of a preview's pixels: means over 2,048 of them are within a grey level or two, which is what drift is judged by.
_COUNTED_PIXELS = 2048


@dataclasses.dataclass(frozen=True)
class Facts:
    """A file that decodes completely. Sizes are those of the upright image."""

    input: int  # index into the inputs
    file: str  # its name in that input
    class_name: str
    key: str  # the user's group, or ""
    split: str  # the split it must stand in, or "" where the planner is free
    size_bytes: int
    width: int
    height: int
    sha256: str  # of the file's bytes, hex
    kept: bool  # True: the file's own bytes are stored; False: it is encoded again
    phash: bytes  # see similarity.perceptual_hash; b"" where the image is not compared
    texture: int  # 0..100, from the same
    channels: bytes  # six uint8: means of R, G and B, then their standard deviations
    group: str = ""  # the smallest sha256 of its group; "" for an image that is alone in it
    old: bool = False  # True: it stands in a shard of the version that is added to, and is not written again
    corrected_from: str = ""  # see `ledger.Row`

    def __reduce__(self) -> tuple[type[Facts], tuple[Any, ...]]:
        """Values without field names: these travel by the million."""
        return Facts, _VALUES(self)

    @property
    def node(self) -> bytes:
        """The image's name among its likes: 128 bits of the hash are as good as 256 and travel in half the space."""
        return bytes.fromhex(self.sha256[:32])

    @property
    def group_id(self) -> str:
        """Images of one group never stand in two splits."""
        return self.group or self.sha256

    def row(self, status: str, **more: str) -> Row:
        return Row(
            self.input,
            self.file,
            self.class_name,
            self.size_bytes,
            self.width,
            self.height,
            self.sha256,
            status,
            key=self.key,
            group=self.group_id if status == "written" else "",
            phash=self.phash.hex(),
            texture=self.texture,
            channels=self.channels.hex(),
            corrected_from=self.corrected_from,
            **more,
        )


_FIELDS = tuple(field.name for field in dataclasses.fields(Facts))
_VALUES = operator.attrgetter(*_FIELDS)


def inspect(
    batch: Sequence[Source], inputs: Sequence[Input], storing: images.Storing, compare: bool = True
) -> Iterator[tuple[str, list[Facts] | list[Row]]]:
    """Reads and decodes files; one that cannot be used becomes its ledger row with the reason.

    Without `compare` no perceptual hashes are made. Yields ("main", facts) and ("rows", rows), either only where there
    are any.
    """
    facts: list[Facts] = []
    rows: list[Row] = []
    progress.count(progress.FILES_INSPECTED, len(batch))
    for source, data in zip(batch, read_all(inputs, batch), strict=True):
        result = _inspect(source, data, storing, compare)
        if isinstance(result, Facts):
            facts.append(result)
        else:
            rows.append(result)
    if facts:
        yield "main", facts
    if rows:
        yield "rows", rows


def read_all(inputs: Sequence[Input], files: Sequence[Source | Facts]) -> Iterator[bytes | OSError]:
    """The bytes of each file, in order; one that is larger than `MAX_FILE_BYTES` is cut off one byte behind it."""
    of_input: dict[int, list[str]] = {file.input: [] for file in files}
    for file in files:
        of_input[file.input].append(file.file)
    readers = {index: inputs[index].read_many(names, MAX_FILE_BYTES + 1) for index, names in of_input.items()}
    return (next(readers[file.input]) for file in files)


def row_of(rejected: Rejected, size: int = 0, sha256: str = "") -> Row:
    """The ledger's row of a file that cannot be used."""
    source = rejected.source
    status, reason, detail = "quarantined", rejected.reason, rejected.detail
    return Row(
        source.input,
        source.file,
        source.class_name,
        size,
        0,
        0,
        sha256,
        status,
        reason=reason,
        detail=detail,
        key=source.group,
    )


def _inspect(source: Source, data: bytes | OSError, storing: images.Storing, compare: bool) -> Facts | Row:
    if isinstance(data, OSError):
        return row_of(Rejected(source, "cannot_read", data.strerror or str(data)))
    if len(data) > MAX_FILE_BYTES:
        return row_of(Rejected(source, "file_too_large", f"more than {MAX_FILE_BYTES:,} bytes"), len(data))
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        image = images.inspect(data, storing)
    except images.ImageError as error:
        return row_of(Rejected(source, error.code, error.detail), len(data), sha256)
    phash, texture = b"", 0
    if compare and min(image.width, image.height) >= _COMPARED_PX:
        phash, texture = similarity.perceptual_hash(image.preview)
    return Facts(
        source.input,
        source.file,
        source.class_name,
        source.group,
        source.split,
        len(data),
        image.width,
        image.height,
        sha256,
        image.kept,
        phash,
        texture,
        channels(image.preview),
    )


def channels(preview: np.ndarray) -> bytes:
    """uint8 [h, w, 3] to six uint8: the means of R, G and B, then their standard deviations, rounded."""
    values = preview.reshape(-1, 3)
    values = values[:: max(1, len(values) // _COUNTED_PIXELS)].astype(np.float32)
    means = np.einsum("nc->c", values) / len(values)
    variances = np.einsum("nc,nc->c", values, values) / len(values) - means * means
    both = np.concatenate([means, np.sqrt(np.maximum(variances, 0))])
    return bytes(both.round().astype(np.uint8))
