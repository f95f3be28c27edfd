"""A CSV, TSV or JSONL file that lists images: its address in, its rows out, each a file or a rejected row.

Columns, named in any case: path (or file, file_name), label (or class, class_name), and, if wanted, split and group.
Others are passed over. Paths are relative to the listing's folder, or full addresses (/data/x.jpg, gs://bucket/x.jpg).
"""

from __future__ import annotations

import dataclasses
import functools
import io
import posixpath
from collections.abc import Iterable, Iterator
from typing import cast

import fsspec
import google_crc32c

from pipeline import buckets, storage
from pipeline.errors import InputError
from preprocess.inputs import reading, rows
from preprocess.inputs.source import (
    Classes,
    Hidden,
    Rejected,
    Source,
    any_split_name,
    group_of,
    in_usual_order,
    leads_out,
)

# Read and parsed by a worker at once: about a second's work, 100,000 rows.
_PIECE_BYTES = 8 << 20
_READS = 3  # of a piece that arrives otherwise than it was surveyed
# More different values mean that a column holds something else, and they would have to travel to every worker.
_MAX_CLASSES = 100_000
_MAX_SPLITS = 100


@dataclasses.dataclass(frozen=True)
class Listing:
    """Files are read by their names, as often as wanted."""

    index: int
    address: str
    group_by: str
    splits: tuple[str, ...]
    header: tuple[str, ...]  # of a CSV, our names for its columns, "" for others; () for JSONL
    class_names: tuple[str, ...]
    spans: tuple[tuple[int, int, int, int], ...]  # first byte, the byte after the last, lines before it, CRC32C

    @property
    def folder(self) -> str:
        return self.address.rpartition("/")[0]

    def pieces(self) -> list[str]:
        return ["-".join(map(str, span)) for span in self.spans]

    def classes(self) -> Classes:
        return Classes(self.class_names, ())

    def sources(self, piece: str) -> Iterator[Source | Rejected | Hidden]:
        start, end, line, crc32c = map(int, piece.split("-"))
        lines = rows.Lines(io.BytesIO(self._read(start, end, crc32c)), line)
        for number, row in rows.read_rows(lines, rows.delimiter_of(self.address), self.header):
            yield self._source(number, row)

    def _read(self, start: int, end: int, crc32c: int) -> bytes:
        """Raises InputError where the bytes are not those that were surveyed; a bucket can't check a part by itself."""
        for _ in range(_READS):
            data = storage.read_part(self.address, start, end - start)
            if google_crc32c.value(data) == crc32c:
                return data
        raise InputError(f"--input={self.address} changed while the dataset was being prepared: run again")

    def _source(self, line: int, row: rows.Row) -> Source | Rejected:
        """One row, its path normalized, so that the same file has the same name however it is written."""
        fields = row if isinstance(row, dict) else {}
        problem = row if isinstance(row, str) else ""
        path, label, split = fields.get("path", ""), fields.get("label", ""), fields.get("split", "")
        if not problem and not (path and label):
            problem = f"no {'label' if path else 'path'}"
        elif "\0" in path:
            problem = f"the path {path!r} cannot be a file's name"
        elif any(not _is_text(value) for value in fields.values()):
            problem = "half of a surrogate pair, which is no text"
        elif not problem and self.splits and not split:
            problem = "no split, which other rows have"
        elif self.splits and split and not (split := any_split_name(split)):
            problem = f"split {fields['split']!r} is not written with lower-case letters, digits and _"
        elif "://" in path and not _is_known(path):
            problem = f"no driver reads {path!r}"
        if problem:
            row_name = f"{posixpath.basename(self.address)}:{line}"
            return Rejected(Source(self.index, row_name, label), "bad_row", f"line {line:,}: {problem}")
        file = self._file(path)
        group = fields.get("group") or group_of(self.group_by, file)
        source = Source(self.index, file, label, split if self.splits else "", group)
        if file == ".." or file.startswith("../"):
            return Rejected(source, "outside_root", f"line {line:,}: the path leaves the listing's folder")
        local = _is_relative(file) and storage.is_local(self.address)
        if local and leads_out(storage.join(self.folder, file), self.folder or "/"):
            return Rejected(source, "outside_root", f"line {line:,}: a link that leads out of the listing's folder")
        return source

    def read(self, file: str, limit_bytes: int) -> bytes:
        return reading.read_file(self._path(file), limit_bytes)

    def read_many(self, files: Iterable[str], limit_bytes: int) -> Iterator[bytes | OSError]:
        paths = [self._path(file) for file in files]
        remote = not all(map(storage.is_local, paths))
        return reading.read_files(paths, limit_bytes, remote=remote)

    def _path(self, file: str) -> str:
        return storage.join(self.folder, file) if _is_relative(file) else file

    def _file(self, path: str) -> str:
        if "://" in path:
            return path[len(self.folder) + 1 :] if path.startswith(f"{self.folder}/") else path
        if "/." in path or "//" in path or path.startswith("."):
            path = posixpath.normpath(path)
        return path.removeprefix(f"{self.folder}/")


def open_listing(address: str, index: int, *, keep_splits: bool, group_by: str) -> Listing:
    """Reads the listing once from end to end: names of classes and splits, and where rows begin.

    Raises:
      InputError: where it has no usable columns or rows.
    """
    try:
        with storage.open_file(address) as stream:
            return _survey(
                address, index, io.BufferedReader(cast(io.RawIOBase, stream), 1 << 20), keep_splits, group_by
            )
    except OSError as error:
        raise InputError(f"--input={address} cannot be read ({error.strerror or error}): check permissions") from None


def _survey(address: str, index: int, stream: io.BufferedReader, keep_splits: bool, group_by: str) -> Listing:
    if stream.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"--input={address} is written in UTF-16: save it as UTF-8")
    lines = rows.Lines(stream, 0)
    delimiter = rows.delimiter_of(address)
    try:
        header = rows.read_header(lines, delimiter) if delimiter else ()
    except ValueError as error:
        raise InputError(f"--input={address}: {error}") from None
    seen: dict[str, set[str]] = {"label": set(), "split": set(), "group": set()}
    spans = []
    lines.crc32c = 0  # the header is behind
    start, before, usable, problem = lines.bytes, lines.lines, False, ""
    for number, row in rows.read_rows(lines, delimiter, header):
        if isinstance(row, str):
            problem = problem or f"line {number:,}: {row}"
        else:
            usable = usable or bool(row.get("path") and row.get("label"))
            problem = problem or f"line {number:,}, where one of them is empty"
            _note(address, row, seen, keep_splits)
        if lines.bytes - start >= _PIECE_BYTES:
            spans.append((start, lines.bytes, before, lines.crc32c))
            start, before, lines.crc32c = lines.bytes, lines.lines, 0
    if lines.bytes > start:
        spans.append((start, lines.bytes, before, lines.crc32c))
    if not usable:
        found = f", but begins with {problem}" if problem else ""
        raise InputError(f"--input={address} holds no row with {rows.WANTED}{found}")
    if seen["group"] and group_by:
        raise InputError(f"--input={address} has a column 'group' and --group_by={group_by} is given: drop one of them")
    splits = {any_split_name(name) for name in seen["split"]} - {""} if keep_splits else set()
    return Listing(index, address, group_by, in_usual_order(splits), header, tuple(sorted(seen["label"])), tuple(spans))


def _note(address: str, row: dict[str, str], seen: dict[str, set[str]], keep_splits: bool) -> None:
    """Collects what the columns hold; of groups only that there are any."""
    for column, most in (("label", _MAX_CLASSES), ("split", _MAX_SPLITS if keep_splits else 0), ("group", 1)):
        value = row.get(column)
        if not value or value in seen[column] or not most:
            continue
        if len(seen[column]) < most:
            seen[column].add(value)
        elif column != "group":
            raise InputError(
                f"--input={address} has more than {most:,} different values in its column {column!r}, "
                f"{value!r} among them: does another column hold it?"
            )
    if "://" in row.get("path", ""):
        try:
            _is_known(row["path"])
        except ImportError as error:
            raise InputError(f"--input={address} lists {row['path']}, which needs a driver: {error}") from None


@functools.lru_cache(1024)
def _driver(scheme: str) -> bool:
    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError:
        return False
    return True


def _is_known(path: str) -> bool:
    """Raises ImportError where a driver is known and not installed."""
    return buckets.holds(path) or _driver(path.partition("://")[0])


def _is_text(value: str) -> bool:
    """Bytes that are not UTF-8 count, since names may hold them; half a surrogate pair, as JSON has it, does not."""
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _is_relative(file: str) -> bool:
    return "://" not in file and not file.startswith("/")
