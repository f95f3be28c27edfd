"""A corrections file in, and ledger rows of the version that it corrects; what becomes of each image out.

The file is a CSV with the columns `id` (SHA-256 of the image's file, hex) or `file`, or both, where the id decides, and
`label`: a class's name, or `remove`. Other columns are passed over.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import difflib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pipeline import storage
from pipeline.errors import InputError
from pipeline.manifest import Manifest
from preprocess.ledger import REMOVED, Row

REMOVE = "remove"
_NAMED = 3  # lines that a refusal names


class Line(NamedTuple):
    number: int  # in the file, from 1
    name: str  # as it stands there: an id or a file
    label: str  # a class's name, "" to remove


@dataclasses.dataclass(frozen=True)
class Corrections:
    """What a file says; it travels to every worker."""

    path: str
    by_id: Mapping[str, Line]
    by_file: Mapping[str, Line]

    @property
    def lines(self) -> list[Line]:
        return [*self.by_id.values(), *self.by_file.values()]


class Match(NamedTuple):
    """A line and a row of the ledger that it names."""

    line: Line
    row: Row


@dataclasses.dataclass(frozen=True)
class Resolved:
    """What is to be done, all of it possible."""

    labels: Mapping[str, str]  # id -> class, "" to remove


def read(path: str, old: Manifest) -> Corrections:
    """Raises InputError where the file can't be read, or names no class of `old`, or contradicts itself."""
    try:
        text = storage.read_bytes(os.path.expanduser(path)).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise InputError(f"--corrections={path} cannot be read: {error.strerror or error}") from error
    rows = _rows(text, path)
    _, first = next(rows, (1, []))
    header = [name.strip().lower() for name in first]
    if "label" not in header or not {"id", "file"} & {*header}:
        raise InputError(f"--corrections={path} has the columns {header}: expected label, and id or file")
    by_id: dict[str, Line] = {}
    by_file: dict[str, Line] = {}
    for number, cells in rows:
        if not any(cells):
            continue
        values = dict(zip(header, cells, strict=False))
        where = f"--corrections={path}, line {number}"
        label = _label(values.get("label", "").strip(), old, where)
        image, file = values.get("id", "").strip().lower(), values.get("file", "")
        if not image and not file:
            raise InputError(f"{where}: neither id nor file: name the image")
        lines, name = (by_id, image) if image else (by_file, file)
        earlier = lines.setdefault(name, Line(number, name, label))
        if earlier.label != label:
            raise InputError(
                f"{where}: {name} is to be {_said(label)}, and {_said(earlier.label)} in line {earlier.number}"
            )
    if not by_id and not by_file:
        raise InputError(f"--corrections={path} holds no corrections")
    return Corrections(path, by_id, by_file)


def _rows(text: str, path: str) -> Iterator[tuple[int, list[str]]]:
    """(number of its last line, cells) of each row; raises InputError where one can't be parsed."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise InputError(
            f"--corrections={path}, line {reader.line_num}: {error}: is there a quote that nothing closes?"
        ) from error


def match(rows: Iterable[Row], corrections: Corrections) -> Iterator[Match]:
    """The rows that are named, each with the line that does."""
    for row in rows:
        for line in (corrections.by_id.get(row.sha256), corrections.by_file.get(row.file)):
            if line:
                yield Match(line, row)


def resolve(matches: Iterable[Match], corrections: Corrections, old: Manifest) -> Resolved:
    """Raises InputError where a line names no image of `old`, or several, changes nothing or contradicts another."""
    images: dict[int, dict[str, Row]] = collections.defaultdict(dict)
    left_out: dict[int, Row] = {}
    for line, row in matches:
        if row.status == "quarantined":
            left_out[line.number] = row
        else:
            images[line.number][row.sha256] = row
    unknown, idle = [], []
    decided: dict[str, Line] = {}
    for line in sorted(corrections.lines):
        found = images[line.number]
        if len(found) > 1:
            raise InputError(
                f"--corrections={corrections.path}, line {line.number}: {line.name} is {len(found)} images, of several "
                "inputs: name the one that is meant by its id"
            )
        if not found:
            unknown.append(line)
        for image, row in found.items():
            if (earlier := decided.setdefault(image, line)).label != line.label:
                raise InputError(
                    f"--corrections={corrections.path}: lines {earlier.number} and {line.number} name the same image, "
                    f"which is to be {_said(earlier.label)} and {_said(line.label)}"
                )
            if row.class_name == line.label:
                idle.append(line)
    if unknown:
        first = left_out.get(unknown[0].number)
        why = f"; the first was left out ({first.reason})" if first else ""
        raise InputError(f"{_listed(corrections, unknown)} no image of {old.name} {old.version}{why}: delete the lines")
    if idle:
        raise InputError(f"{_listed(corrections, idle)} an image that has that label already: delete the lines")
    return Resolved({image: line.label for image, line in decided.items()})


def correct(row: Row, resolved: Resolved) -> Row:
    """The row as it stands in the corrected version; copies of an image share its fate."""
    if row.status == "quarantined" or row.sha256 not in resolved.labels:
        return row
    label = resolved.labels[row.sha256]
    if not label:
        return dataclasses.replace(
            row, status="quarantined", reason=REMOVED, detail="by a correction", split="", shard="", group=""
        )
    said = row.corrected_from or row.class_name
    return dataclasses.replace(row, class_name=label, corrected_from="" if said == label else said)


def moved(pairs: Iterable[tuple[Row, Row]]) -> Iterator[tuple[str, int]]:
    """(class, files more or less than before) for rows before and after."""
    changes: collections.Counter[str] = collections.Counter()
    for before, after in pairs:
        changes[before.class_name] -= 1
        changes[after.class_name] += 1
    yield from ((name, number) for name, number in changes.items() if number)


def check_left(counts: Mapping[tuple[str, str], int], old: Manifest) -> None:
    """Raises InputError where a class or a split has no image left.

    Args:
      counts: (split, class) -> images.
    """
    for what, place, names in (("class", 1, old.classes), ("split", 0, tuple(old.splits))):
        left = {key[place] for key, number in counts.items() if number}
        if empty := [name for name in names if name not in left]:
            raise InputError(f"the corrections leave no image to the {what} {empty[0]!r}: prepare without it instead")


def _label(text: str, old: Manifest, where: str) -> str:
    if text == REMOVE:
        if REMOVE in old.classes:
            raise InputError(f"{where}: a class is called {REMOVE!r}, so nobody knows what is meant: rename the class")
        return ""
    if text not in old.classes:
        near = difflib.get_close_matches(text, old.classes, 1)
        meant = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(old.classes[:10])} …"
        raise InputError(f"{where}: {text!r} is no class of {old.name} {old.version}, nor {REMOVE!r}: {meant}")
    return text


def _said(label: str) -> str:
    return repr(label) if label else "removed"


def _listed(corrections: Corrections, lines: Sequence[Line]) -> str:
    shown = ", ".join(f"{line.name} (line {line.number})" for line in lines[:_NAMED])
    more = f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
    return f"--corrections={corrections.path}: {shown}{more} {'names' if len(lines) == 1 else 'name'}"
