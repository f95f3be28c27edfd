r"""Predictions in, lines of a table, of CSV or of JSON out, each as soon as its prediction is there.

In CSV and JSON a name is what the disk has. Where its bytes are no UTF-8 they are the same bytes in CSV, and lone
surrogates (\udc80 to \udcff, Python's surrogateescape) in JSON, which is all ASCII.
"""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

FORMATS = ("table", "csv", "json", "jsonl")
# What spreadsheets take for a formula: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Prediction(NamedTuple):
    file: str
    classes: tuple[tuple[str, float], ...]  # the likeliest first, with their probabilities
    error: str | None  # why there are none


def lines(predictions: Iterable[Prediction], *, format: str, classes: Sequence[str], top: int) -> Iterator[str]:
    """Text with its line ends.

    Args:
      format: one of `FORMATS`; `json` is one list, `jsonl` an object a line.
      classes: all that there are, which says how wide a table is.
      top: how many classes a prediction names at most.
    """
    if format == "table":
        return _table(predictions, classes)
    if format == "csv":
        return _csv(predictions, min(top, len(classes)))
    if format == "json":
        return _json(predictions)
    return (json.dumps(_record(prediction)) + "\n" for prediction in predictions)


def shown(text: str) -> str:
    r"""For a terminal: what it might obey, or could not show, is escaped as \x1b or \u202e.

    Names may hold control characters, those of direction, which let one name look like another, and bytes that are no
    UTF-8.
    """
    return "".join(
        character
        if character.isprintable()
        else f"\\x{ord(character) - 0xDC00:02x}"  # the byte that was there
        if 0xDC80 <= ord(character) <= 0xDCFF
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


def no_formula(text: str) -> str:
    """For a cell of CSV: what begins as a formula gets an apostrophe, with which spreadsheets themselves mark texts."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def file_no_formula(file: str) -> str:
    """For a cell of CSV: a file whose name begins as a formula gets ./ before it, which is the same file."""
    return f"./{file}" if file.startswith(_FORMULA) and file != "-" else file


def _table(predictions: Iterable[Prediction], classes: Sequence[str]) -> Iterator[str]:
    """The file comes last, so that no line has to wait for the longest name."""
    width = max(len(shown(name)) for name in classes) + len(" 100.0%")
    for prediction in predictions:
        name = shown(prediction.file)
        if prediction.error is not None:
            yield f"! {name}: {shown(prediction.error)}\n"
            continue
        cells = [f"{shown(class_name)} {share:.1%}".ljust(width) for class_name, share in prediction.classes]
        yield "  ".join([*cells, name]) + "\n"


def _csv(predictions: Iterable[Prediction], top: int) -> Iterator[str]:
    """RFC 4180 with line feeds. Texts are quoted, for spreadsheets that separate by semicolons.

    No text begins as a formula does.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")

    def row(values: Sequence[Any]) -> str:
        buffer.seek(0)
        buffer.truncate()
        writer.writerow(values)
        return buffer.getvalue()

    yield row(
        ["file", "error", *(f"{kind}_{place}" for place in range(1, top + 1) for kind in ("class", "confidence"))]
    )
    for file, found, error in predictions:
        cells = [cell for class_name, share in found for cell in (no_formula(class_name), share)]
        yield row([file_no_formula(file), error or "", *cells, *[""] * (2 * top - len(cells))])


def _json(predictions: Iterable[Prediction]) -> Iterator[str]:
    """What `json.dumps` of the whole list with an indent of 1 would give."""
    before = "[\n"
    for prediction in predictions:
        yield before + textwrap.indent(json.dumps(_record(prediction), indent=1), " ")
        before = ",\n"
    yield "\n]\n" if before == ",\n" else "[]\n"


def _record(prediction: Prediction) -> dict[str, Any]:
    if prediction.error is not None:
        return {"file": prediction.file, "error": prediction.error}
    return {
        "file": prediction.file,
        "top": [{"class": name, "confidence": share} for name, share in prediction.classes],
    }
