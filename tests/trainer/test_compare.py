"""Two runs' reports in; what they say beside each other."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from pipeline.errors import InputError
from trainer import compare, predictions
from trainer.predictions import Predictions


def _report(
    workdir: pathlib.Path,
    answers: list[int],
    *,
    classes: tuple[str, str] = ("ant", "bee"),
    groups: tuple[str, ...] = ("",) * 4,
    last: str = "3.jpg",
) -> str:
    found = Predictions(
        classes=classes,
        ids=("0", "1", "2", "3"),
        files=("0.jpg", "1.jpg", "2.jpg", last),
        groups=groups,
        labels=np.array([0, 1, 0, 1]),
        logits=np.eye(2, dtype=np.float32)[answers],
    )
    predictions.write(str(workdir / "report" / "predictions.npz"), found)
    (workdir / "report" / "metrics.json").write_text(json.dumps({"split": "test"}))
    return str(workdir)


def test_two_runs_are_compared_by_their_reports(tmp_path: pathlib.Path) -> None:
    one, other = _report(tmp_path / "one", [0, 1, 1, 0]), _report(tmp_path / "other", [0, 1, 0, 0])
    found = compare.compare(one, other, split="test")
    assert (found.accuracy, found.only_one, found.only_other, found.p_value) == ((0.5, 0.75), 0, 1, 1.0)
    assert compare.compare(one, f"{other}/report/predictions.npz") == found
    text = compare.as_text(found, one, other)
    assert f"50.00%  {one}" in text
    assert "difference +25.00%" in text
    assert "2.jpg  ant  bee  ant" in text
    with pytest.raises(InputError, match="is about the split 'test': run `evaluate"):
        compare.compare(one, other, split="train")
    with pytest.raises(InputError, match=r"--split=test: .* doesn't say of which split"):
        compare.compare(one, f"{other}/report/predictions.npz", split="test")
    with pytest.raises(InputError, match="does not exist"):
        compare.compare(one, str(tmp_path))


def test_the_test_that_knows_no_groups_is_not_shown_without_saying_so(tmp_path: pathlib.Path) -> None:
    answers, others = [0, 1, 1, 0], [0, 1, 0, 0]
    for groups, expected in (
        (("a", "a", "b", "b"), "McNemar's test p = 1, if images are independent; where some belong together, trust"),
        (("a",) * 4, "only the second on 1: all images belong to one group, so whether that is chance can't be said"),
    ):
        one, other = (_report(tmp_path / str(given), given, groups=groups) for given in (answers, others))
        (line,) = [
            line for line in compare.as_text(compare.compare(one, other), one, other).splitlines() if "only" in line
        ]
        assert expected in line
        assert ("McNemar" in line) == ("trust the interval, which counts groups" in line)


def test_a_terminal_obeys_no_name(tmp_path: pathlib.Path) -> None:
    names, file = ("\x1b[31mant", "b\nee"), "\x1b]0;title\x07\udcff.jpg"
    one, other = (
        _report(tmp_path / name, answers, classes=names, last=file)
        for name, answers in (("one\x1b", [0, 1, 0, 0]), ("two", [0, 1, 0, 1]))
    )
    lines = compare.as_text(compare.compare(one, other), one, other).splitlines()
    assert all(line.isprintable() for line in lines)
    assert lines[-1] == r"\x1b]0;title\x07\xff.jpg  b\nee  \x1b[31mant  b\nee"
