"""Each format says of every file what was found, whatever the file is called, as soon as it is known."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator

import pytest

from trainer import prediction_output
from trainer.prediction_output import FORMATS, Prediction

CLASSES = ("ant", "bée", "=cat")
NAMES = (
    "plain.jpg",
    "a,b;c.jpg",
    'quoted "name".jpg',
    "two\nlines.jpg",
    "tab\t.jpg",
    os.fsdecode(b"not utf-8 \xff\xfe.jpg"),
    "ünïcode \N{CJK UNIFIED IDEOGRAPH-8549}.jpg",
    "\x1b]0;title\x07\x1b[31mred.jpg",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe",
    "=cmd|' /C calc'!A0.jpg",
    "+1.jpg",
    "-2.jpg",
    "@SUM(A1).jpg",
    "-",
)
FOUND = [Prediction(name, (("ant", 0.75), ("=cat", 1 / 3)), None) for name in NAMES]
BROKEN = Prediction("bad\n.jpg", (), "not_an_image: '\x1b[2J'. Convert, or restore it.")


def _written(format: str) -> bytes:
    lines = prediction_output.lines([*FOUND, BROKEN], format=format, classes=CLASSES, top=2)
    return "".join(lines).encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("format", FORMATS)
def test_a_line_waits_for_no_other_prediction(format: str) -> None:
    asked = 0

    def predictions() -> Iterator[Prediction]:
        nonlocal asked
        for prediction in FOUND:
            asked += 1
            yield prediction

    lines = prediction_output.lines(predictions(), format=format, classes=CLASSES, top=2)
    head = next(lines)
    if format == "csv":
        assert (head, asked) == ('"file","error","class_1","confidence_1","class_2","confidence_2"\n', 0)
        head = next(lines)
    assert "plain.jpg" in head
    assert asked == 1


def test_json_is_what_it_always_was() -> None:
    rows = [
        {"file": name, "top": [{"class": "ant", "confidence": 0.75}, {"class": "=cat", "confidence": 1 / 3}]}
        for name in NAMES
    ]
    rows.append({"file": BROKEN.file, "error": BROKEN.error})
    written = _written("json")
    assert written == (json.dumps(rows, indent=1) + "\n").encode("ascii")
    assert json.loads(written) == rows
    assert [json.loads(line) for line in _written("jsonl").splitlines()] == rows
    assert "".join(prediction_output.lines([], format="json", classes=CLASSES, top=2)) == "[]\n"


def test_csv_gives_back_the_names_on_disk_and_no_formula() -> None:
    text = io.StringIO(_written("csv").decode("utf-8", "surrogateescape"), newline="")
    rows = list(csv.DictReader(text))
    assert [os.path.normpath(row["file"]) for row in rows] == [*NAMES, BROKEN.file]
    assert os.fsencode(rows[5]["file"]) == b"not utf-8 \xff\xfe.jpg"
    assert [row["confidence_2"] for row in rows] == [*[repr(1 / 3)] * len(NAMES), ""]
    assert [row["error"] for row in rows] == [*[""] * len(NAMES), BROKEN.error]
    assert {row["class_2"] for row in rows} == {"'=cat", ""}
    for row in rows:
        assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for cell in row.values())
        assert not row["file"].startswith("-") or row["file"] == "-"
    assert b';c.jpg"' in _written("csv")  # quoted, where a semicolon separates


def test_a_cell_that_begins_as_a_formula_is_marked() -> None:
    texts = ("=1", "+1", "-1", "@a", "\ta", "\ra", "a=1", "", "-")
    assert [prediction_output.no_formula(text) for text in texts[-4:]] == ["'\ra", "a=1", "", "'-"]
    assert {prediction_output.no_formula(text)[0] for text in texts[:6]} == {"'"}
    assert [prediction_output.file_no_formula(text) for text in texts[-4:]] == ["./\ra", "a=1", "", "-"]
    assert {prediction_output.file_no_formula(text)[:2] for text in texts[:6]} == {"./"}


def test_a_table_obeys_no_name() -> None:
    lines = _written("table").decode("utf-8").splitlines()
    assert len(lines) == len(NAMES) + 1
    assert all(line.isprintable() for line in lines)
    assert r"\x1b]0;title\x07\x1b[31mred.jpg" in lines[7]
    assert r"\u202egpj.exe" in lines[8]
    assert r"not utf-8 \xff\xfe.jpg" in lines[5]
    assert lines[0] == "ant 75.0%    =cat 33.3%   plain.jpg"
    assert lines[-1] == r"! bad\n.jpg: not_an_image: '\x1b[2J'. Convert, or restore it."


def test_escapes_are_python_s() -> None:
    text = "\x00\x07\x7f\x9b\u200b\u2028\ue000\U000e0001\ud800 é 蕉"
    assert prediction_output.shown(text) == r"\x00\x07\x7f\x9b\u200b\u2028\ue000\U000e0001\ud800 é 蕉"
