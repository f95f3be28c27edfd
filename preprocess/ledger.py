"""Rows about input files in, the ledger's parts and their sums out: what became of every file, and why."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import heapq
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline import storage

# 100 MB at the most, which any tool still opens; one worker sorts a part in memory.
ROWS_PER_PART = 250_000
_NAMED = 5  # how many files per reason the manifest names; the parts name all


@dataclasses.dataclass(frozen=True)
class Row:
    """One input file. `bytes`, `width` and `height` are 0 where unknown, texts are empty where they do not apply."""

    file: str
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

    def to_json(self) -> str:
        """One line; non-ASCII characters are escaped, so that names which are not UTF-8 come back unchanged."""
        names = {"class_name": "class"}
        return json.dumps({names.get(key, key): value for key, value in dataclasses.asdict(self).items()})


@dataclasses.dataclass(frozen=True)
class Tally:
    """Sums over rows; any grouping of the same rows gives the same sum."""

    by_class: Mapping[str, Mapping[str, int]]  # class -> status -> files
    by_reason: Mapping[str, int]  # reason, or "duplicate" -> files
    named: Mapping[str, tuple[str, ...]]  # the same keys -> the first few files, sorted, each with its detail


def part_of(row: Row, parts: int) -> int:
    """Which part holds the row: by hash, so that parts are even whatever the files are called."""
    digest = hashlib.sha256(row.file.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % parts


def part_count(rows: int) -> int:
    return max(1, -(-rows // ROWS_PER_PART))


def write_part(index: int, parts: int, rows: Iterable[Row], directory: str) -> tuple[str, Tally]:
    """Writes one JSONL file, sorted by path; returns its name and its sums."""
    ordered = sorted(rows, key=lambda row: row.file)
    name = f"ledger-{index:05d}-of-{parts:05d}.jsonl"
    storage.write_text(storage.join(directory, name), "".join(row.to_json() + "\n" for row in ordered))
    return name, tally(ordered)


def tally(rows: Iterable[Row]) -> Tally:
    by_class: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    files: dict[str, list[str]] = collections.defaultdict(list)
    for row in rows:
        by_class[row.class_name][row.status] += 1
        if row.status != "written":
            # Names that are not UTF-8 are shown escaped: the manifest and the screen hold text only.
            text = f"{row.file}: {row.detail}".encode("utf-8", "backslashreplace").decode()
            files[row.reason or row.status].append(text)
    return Tally(
        {name: dict(counter) for name, counter in by_class.items()},
        {reason: len(names) for reason, names in files.items()},
        {reason: tuple(heapq.nsmallest(_NAMED, names)) for reason, names in files.items()},
    )


def merge(tallies: Iterable[Tally]) -> Tally:
    by_class: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    by_reason: collections.Counter[str] = collections.Counter()
    named: dict[str, list[str]] = collections.defaultdict(list)
    for one in tallies:
        for class_name, counts in one.by_class.items():
            by_class[class_name].update(counts)
        by_reason.update(one.by_reason)
        for reason, names in one.named.items():
            named[reason].extend(names)
    return Tally(
        {name: dict(counter) for name, counter in by_class.items()},
        dict(by_reason),
        {reason: tuple(heapq.nsmallest(_NAMED, names)) for reason, names in named.items()},
    )


def balance(seen: Mapping[str, int], sums: Tally) -> dict[str, Any]:
    """The manifest's `ledger`: seen = written + quarantined + duplicates, per class and in total.

    `seen` was counted while listing, the rest where each file ended, so a file lost between the two shows here.

    Raises:
      RuntimeError: where they differ, which is a defect of this program and not of the input.
    """
    by_class = {}
    for class_name in sorted({*seen, *sums.by_class}):
        status = sums.by_class.get(class_name, {})
        by_class[class_name] = counts = {
            "seen": seen.get(class_name, 0),
            "written": status.get("written", 0),
            "quarantined": status.get("quarantined", 0),
            "duplicates": status.get("duplicate", 0),
        }
        if 2 * counts["seen"] != sum(counts.values()):
            raise RuntimeError(f"the ledger of class {class_name!r} does not balance: {counts}")
    keys = ("seen", "written", "quarantined", "duplicates")
    return {**{key: sum(counts[key] for counts in by_class.values()) for key in keys}, "by_class": by_class}
