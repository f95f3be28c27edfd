"""Lines of a CSV, TSV or JSONL file in; rows out, under our names for their columns, or what is wrong with them."""

from __future__ import annotations

import csv
import functools
import json
import os
from collections.abc import Iterable, Iterator

import google_crc32c

SUFFIXES = (".csv", ".tsv", ".jsonl")
WANTED = "a path (or file, file_name) and a label (or class, class_name)"
_NAMES = {
    "path": ("path", "file", "file_name"),
    "label": ("label", "class", "class_name"),
    "split": ("split",),
    "group": ("group",),
}
_NAMED = 20  # columns that a message shows
_BOM = b"\xef\xbb\xbf"

# What one row says, under our names for its columns; or, as text, what is wrong with it.
Row = dict[str, str] | str


class Lines:
    """Lines of text, counted as they are taken; csv takes none before it needs it, so the counts end where a row does.

    Bytes that are not UTF-8 become surrogates, as in file names; so such files are found, too.
    """

    def __init__(self, stream: Iterable[bytes], lines_before: int) -> None:
        self.bytes = 0
        self.lines = lines_before
        self.crc32c = 0  # of the bytes since somebody set it to 0
        self._stream = stream

    def __iter__(self) -> Iterator[str]:
        for line in self._stream:
            text = line.removeprefix(_BOM) if not self.lines else line
            self.bytes += len(line)
            self.crc32c = google_crc32c.extend(self.crc32c, line)
            self.lines += 1
            yield text.decode("utf-8", "surrogateescape")


def delimiter_of(address: str) -> str:
    """Of columns; "" for JSONL."""
    return {".csv": ",", ".tsv": "\t", ".jsonl": ""}[os.path.splitext(address)[1].lower()]


def read_header(lines: Lines, delimiter: str) -> tuple[str, ...]:
    """The first line of a CSV: our name for each column, "" for one that is passed over.

    Raises:
      ValueError: where the columns that are needed are not there.
    """
    try:
        columns = next(csv.reader(iter(lines), delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error as error:
        raise ValueError(str(error)) from error
    header = _our_names(tuple(columns))
    if "path" not in header or "label" not in header:
        found = ", ".join(map(repr, columns[:_NAMED])) or "nothing"
        raise ValueError(f"needs a first line that names {WANTED}; found {found}")
    return header


@functools.lru_cache(1024)
def _our_names(columns: tuple[str, ...]) -> tuple[str, ...]:
    """Our name for each column, "" for one that is passed over.

    Raises:
      ValueError: where two columns claim the same name.
    """
    folded = [column.strip().casefold() for column in columns]
    ours = tuple(next((name for name, known in _NAMES.items() if column in known), "") for column in folded)
    for name in _NAMES:
        if ours.count(name) > 1:
            claims = [column for column, our in zip(columns, ours, strict=True) if our == name]
            raise ValueError(f"the columns {' and '.join(map(repr, claims))} both mean the {name}: drop or rename one")
    return ours


def read_rows(lines: Lines, delimiter: str, header: tuple[str, ...]) -> Iterator[tuple[int, Row]]:
    """(number of its first line, what it says) of each row that is not blank."""
    return _csv_rows(lines, delimiter, header) if delimiter else _json_rows(lines)


def _csv_rows(lines: Lines, delimiter: str, header: tuple[str, ...]) -> Iterator[tuple[int, Row]]:
    reader = csv.reader(iter(lines), delimiter=delimiter, strict=True, skipinitialspace=True)
    while True:
        number = lines.lines + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield number, f"{error}, up to line {lines.lines:,}" if lines.lines > number else str(error)
            continue
        if cells is None:
            return
        if not cells:
            continue
        if len(cells) != len(header):
            yield number, f"{len(cells)} columns, the first line has {len(header)}"
        else:
            yield number, _stripped(zip(header, cells, strict=True))


def _json_rows(lines: Lines) -> Iterator[tuple[int, Row]]:
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield lines.lines, f"no JSON ({error})"
            continue
        if not isinstance(row, dict):
            yield lines.lines, "no JSON object"
            continue
        try:
            names = _our_names(tuple(row))
        except ValueError as error:
            yield lines.lines, str(error)
            continue
        if missing := [name for name in ("path", "label") if name not in names]:
            yield (
                lines.lines,
                f"no {missing[0]} among its columns {', '.join(map(repr, list(row)[:_NAMED])) or '(none)'}",
            )
            continue
        pairs = [(name, value) for name, value in zip(names, row.values(), strict=True) if name]
        odd = [name for name, value in pairs if isinstance(value, bool) or not isinstance(value, str | int | None)]
        if odd:
            yield lines.lines, f"the {odd[0]} is neither text nor a whole number"
        else:
            yield lines.lines, _stripped((name, "" if value is None else str(value)) for name, value in pairs)


def _stripped(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Spaces around a class or a split are never meant; in a file's name they may be."""
    return {name: value if name == "path" else value.strip() for name, value in pairs if name}
