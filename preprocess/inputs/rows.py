"""Lines of a CSV, TSV or JSONL file in; rows out, under our names for their columns, or what is wrong with them."""

from __future__ import annotations

import collections
import csv
import functools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

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
# Of one row of a CSV. A quote that nothing closes costs reading so many lines twice, also where every line has one.
_ROW_LINES = 100
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
        self.last = sys.maxsize  # the line after which an iterator ends, as if the stream did
        self._stream = iter(stream)
        self._taken: collections.deque[bytes] = collections.deque(maxlen=_ROW_LINES)
        self._given_back: collections.deque[bytes] = collections.deque()

    def __iter__(self) -> Iterator[str]:
        while self.lines < self.last:
            line = self._given_back.popleft() if self._given_back else next(self._stream, None)
            if line is None:
                return
            text = line.removeprefix(_BOM) if not self.lines else line
            self.bytes += len(line)
            self.crc32c = google_crc32c.extend(self.crc32c, line)
            self.lines += 1
            self._taken.append(line)
            yield text.decode("utf-8", "surrogateescape")

    def taken(self, count: int) -> list[bytes]:
        """The last `count` lines that were taken, at most `_ROW_LINES`."""
        return list(self._taken)[-count:]

    def give_back(self, lines: Sequence[bytes], crc32c: int) -> None:
        """Uncounts the lines that were taken last, so that a new iterator gives them again.

        Args:
          lines: they, in their order.
          crc32c: as it was before them.
        """
        self.bytes -= sum(map(len, lines))
        self.lines -= len(lines)
        self.crc32c = crc32c
        self._given_back.extendleft(reversed(lines))


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
    """Where a row of several lines is bad, only the first of them is: the quote it opens may be a stray one."""
    reader = _strict_reader(lines, delimiter)
    while True:
        number, crc32c = lines.lines + 1, lines.crc32c
        lines.last = lines.lines + _ROW_LINES
        try:
            cells, problem = next(reader, None), ""
        except csv.Error as error:
            cells, problem = [], str(error)
        if cells is None:
            return
        if cells and len(cells) != len(header):
            problem = f"{len(cells)} columns, the first line has {len(header)}"
        if lines.lines > number:
            first, *others = lines.taken(lines.lines - number + 1)
            if not problem and _are_rows([first, others[-1]], delimiter, header):
                problem = "it is closed where a row is"
            if problem:
                problem = f"a quote is not closed in its line ({problem}, up to line {lines.lines:,})"
                lines.give_back(others, google_crc32c.extend(crc32c, first))
                reader = _strict_reader(lines, delimiter)
        if problem:
            yield number, problem
        elif cells:
            yield number, _stripped(zip(header, cells, strict=True))


def _strict_reader(lines: Lines, delimiter: str) -> Iterator[list[str]]:
    return csv.reader(iter(lines), delimiter=delimiter, strict=True, skipinitialspace=True)


def _are_rows(lines: Iterable[bytes], delimiter: str, header: tuple[str, ...]) -> bool:
    """Whether each line has all columns by itself, if quotes mean nothing; lines of a quoted text hardly ever do."""
    return all(line.count(delimiter.encode()) + 1 == len(header) for line in lines)


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
