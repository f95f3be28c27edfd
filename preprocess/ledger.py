"""Rows about input files in, the ledger's parts and their sums out: what became of every file, and why."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import heapq
import json
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline import storage
from pipeline.errors import InputError, cannot_write
from preprocess import partitions

# About 15 MB, which any tool opens; one worker sorts a part in memory, where a row takes about 1 KB.
ROWS_PER_PART = 2**15
_NAMED = 5  # how many files per reason the manifest names; the parts name all
REMOVED = "removed"  # the reason of what a correction took out


@dataclasses.dataclass(frozen=True)
class Row:
    """One input file. `bytes`, `width` and `height` are 0 where unknown, texts are empty where they do not apply."""

    input: int  # index into the inputs
    file: str  # its name in that input
    class_name: str
    bytes: int
    width: int
    height: int
    sha256: str
    status: str  # written, quarantined or duplicate
    split: str = ""
    shard: str = ""
    reason: str = ""
    detail: str = ""
    key: str = ""  # the user's group
    group: str = ""  # of what was written: images of one group stand in one split
    phash: str = ""  # see similarity.perceptual_hash; hex
    texture: int = 0
    channels: str = ""  # see inspection.channels; hex
    corrected_from: str = ""  # the class that the input gives, where a correction gave `class_name`

    def __reduce__(self) -> tuple[type[Row], tuple[Any, ...]]:
        """Values without field names: these travel by the million."""
        return Row, _VALUES(self)

    def to_json(self) -> str:
        """One line; non-ASCII characters are escaped, so that names which are not UTF-8 come back unchanged."""
        fields = _FIELDS if self.corrected_from else _ALWAYS
        return json.dumps({_KEYS.get(name, name): getattr(self, name) for name in fields})

    @classmethod
    def from_json(cls, line: str) -> Row:
        """Raises KeyError, TypeError or ValueError where the line is no row."""
        values = json.loads(line)
        always = {name: values[_KEYS.get(name, name)] for name in _ALWAYS}
        return cls(**always, corrected_from=values.get("corrected_from", ""))


_FIELDS = tuple(field.name for field in dataclasses.fields(Row))
_ALWAYS = _FIELDS[:-1]
_VALUES = operator.attrgetter(*_FIELDS)
_KEYS = {"class_name": "class"}


@dataclasses.dataclass(frozen=True)
class Tally:
    """Sums over rows; any grouping of the same rows gives the same sum."""

    counts: Mapping[tuple[str, str, str], int]  # (class, status, reason or status) -> files
    named: Mapping[str, tuple[str, ...]]  # reason or status -> the first few files, sorted, each with its detail

    @property
    def by_class(self) -> dict[str, dict[str, int]]:
        """Class -> reason, or status where there is none -> files."""
        result: dict[str, dict[str, int]] = collections.defaultdict(dict)
        for (class_name, _, reason), files in sorted(self.counts.items()):
            result[class_name][reason] = files
        return dict(result)

    @property
    def by_reason(self) -> dict[str, int]:
        """The same over all classes, without what was written."""
        result: collections.Counter[str] = collections.Counter()
        for (_, status, reason), files in sorted(self.counts.items()):
            if status != "written":
                result[reason] += files
        return dict(result)


def part_of(row: Row, parts: int) -> int:
    """Which part holds the row: by hash, so that parts are even whatever the files are called."""
    return partitions.of_node(name_hash(row.input, row.file), parts)


def name_hash(input: int, file: str) -> bytes:
    """32 bytes that stand for one input file."""
    return hashlib.sha256(f"{input}/{file}".encode("utf-8", "surrogateescape")).digest()


def order(row: Row) -> tuple[Any, ...]:
    """By input and name, and by all the rest where a listing names a file twice."""
    return _VALUES(row)


def part_count(rows: int) -> int:
    return max(1, -(-rows // ROWS_PER_PART))


def write_part(
    index: int, parts: int, batches: Iterable[Sequence[Row]], directory: str, scratch: str = ""
) -> tuple[str, Tally]:
    """Writes one JSONL file, sorted by input and name; returns its name and its sums.

    Raises:
      InputError: where it cannot be written.
      ConnectionError, FileNotFoundError: where a bucket cannot be reached, or the folder was deleted.
    """
    ordered = sorted((row for batch in batches for row in batch), key=order)
    name = f"ledger-{index:05d}-of-{parts:05d}.jsonl"
    path = storage.join(directory, name)
    try:
        storage.write_text(path, "".join(row.to_json() + "\n" for row in ordered), scratch)
    except (ConnectionError, FileNotFoundError):
        raise
    except OSError as error:
        raise cannot_write(path, error) from error
    return name, tally(ordered)


def read_part(path: str) -> Iterator[Row]:
    """Raises InputError where the file is damaged."""
    with storage.open_file(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield Row.from_json(line.decode())
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(f"{path}, line {number}, is no ledger row ({error!r}): copy the file again") from error


def tally(rows: Iterable[Row]) -> Tally:
    counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
    files: dict[str, list[str]] = collections.defaultdict(list)
    for row in rows:
        counts[row.class_name, row.status, row.reason or row.status] += 1
        if row.status != "written":
            # Names that are not UTF-8 are shown escaped: the manifest and the screen hold text only.
            text = f"{row.file}: {row.detail}".encode("utf-8", "backslashreplace").decode()
            files[row.reason or row.status].append(text)
    return Tally(dict(counts), {reason: tuple(heapq.nsmallest(_NAMED, names)) for reason, names in files.items()})


def merge(tallies: Iterable[Tally]) -> Tally:
    counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
    named: dict[str, list[str]] = collections.defaultdict(list)
    for one in tallies:
        counts.update(one.counts)
        for reason, names in one.named.items():
            named[reason].extend(names)
    return Tally(dict(counts), {reason: tuple(heapq.nsmallest(_NAMED, names)) for reason, names in named.items()})


def balance(seen: Mapping[str, int], sums: Tally) -> dict[str, Any]:
    """The manifest's `ledger`: seen = written + quarantined + duplicates, per class and in total.

    `seen` was counted while listing, the rest where each file ended, so a file lost between the two shows here.

    Raises:
      RuntimeError: where they differ, which is a defect of this program and not of the input.
    """
    by_status: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for (class_name, status, _), files in sums.counts.items():
        by_status[class_name][status] += files
    by_class = {}
    for class_name in sorted({*seen, *by_status}):
        found = by_status[class_name]
        by_class[class_name] = counts = {
            "seen": seen.get(class_name, 0),
            "written": found.get("written", 0),
            "quarantined": found.get("quarantined", 0),
            "duplicates": found.get("duplicate", 0),
        }
        if 2 * counts["seen"] != sum(counts.values()):
            raise RuntimeError(f"the ledger of class {class_name!r} does not balance: {counts}")
    keys = ("seen", "written", "quarantined", "duplicates")
    return {**{key: sum(counts[key] for counts in by_class.values()) for key in keys}, "by_class": by_class}
