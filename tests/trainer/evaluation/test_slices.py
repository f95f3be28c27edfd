"""Slices of columns against counting, and the ledger that preparation writes as the source of the columns."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import manifest as manifest_lib
from pipeline.errors import InputError
from preprocess import ledger as ledger_lib
from preprocess import statistics
from trainer.evaluation import ledger, slices

VALUES = st.one_of(
    st.lists(st.one_of(st.none(), st.integers(0, 5000)), min_size=1, max_size=80),
    st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=80),
    st.lists(st.one_of(st.none(), st.sampled_from(["", "a", "b", "c"])), min_size=1, max_size=80),
)


@settings(deadline=None)
@given(VALUES, st.randoms())
def test_slices_hold_every_example_once(values: list[object], random: object) -> None:
    correct = np.array([random.random() < 0.7 for _ in values])
    found = slices.of_column("column", values, correct, [""] * len(values))
    assert sum(part.examples for part in found) == len(values)
    assert sum(round(part.accuracy * part.examples) for part in found) == correct.sum()
    assert len({part.value for part in found}) == len(found)
    for part in found:
        expected = scipy.stats.binomtest(round(part.accuracy * part.examples), part.examples)
        assert part.interval == pytest.approx(tuple(expected.proportion_ci(method="wilson")), abs=1e-9)


def test_numbers_are_cut_at_quartiles() -> None:
    correct = np.arange(100) >= 25
    found = slices.of_column("bytes", [1000 + number for number in range(100)], correct, [""] * 100)
    expected = [("1,000 to 1,024", 25, 0.0), ("1,025 to 1,049", 25, 1.0), ("1,050 to 1,074", 25, 1.0)]
    assert [(part.value, part.examples, part.accuracy) for part in found[:3]] == expected
    few = slices.of_column("width", [32, 64, 32, 64], np.array([True, False, True, True]), [""] * 4)
    assert [(part.value, part.accuracy) for part in few] == [("32", 1.0), ("64", 0.5)]


def test_texts_are_told_apart_where_they_are_frequent() -> None:
    values = ["camera 1"] * 12 + ["camera 2"] * 30 + [""] * 10 + [f"other {number}" for number in range(5)] + [None]
    found = slices.of_column("key", values, np.ones(len(values), bool), [""] * len(values))
    sizes = {part.value: part.examples for part in found}
    assert sizes == {"camera 2": 30, "camera 1": 12, slices.EMPTY: 10, slices.REST: 5, slices.UNKNOWN: 1}


def test_slices_count_groups_as_the_accuracy_of_all_does() -> None:
    """40 plants of ten photos, right or wrong together, and light that has nothing to do with it."""
    rng = np.random.default_rng(0)
    plants = [f"plant {number}" for number in np.repeat(np.arange(40), 10)]
    missed = []
    for _ in range(100):
        correct = np.repeat(rng.random(40) < 0.8, 10)
        light = rng.permutation(400)
        parts = slices.of_column("brightness", light.tolist(), correct, plants)
        missed += [not part.interval[0] <= 0.8 <= part.interval[1] for part in parts]
    assert np.mean(missed) < 0.08  # of 400 slices; 50 to 60 % where images count alone
    [alone] = slices.of_column("brightness", [1] * 9, np.ones(9, bool), ["one plant"] * 9)
    assert alone.interval == pytest.approx(scipy.stats.binomtest(1, 1).proportion_ci(method="wilson"))


def test_columns_are_asked_for_or_usual_and_one_value_says_nothing() -> None:
    available = ("file", "bytes", "key", "shorter_side")
    assert slices.choose((), available, "d") == ("shorter_side", "bytes", "key")
    assert slices.choose(("file", "key", "file"), available, "d") == ("file", "key")
    assert slices.choose((), (), "d") == ()
    with pytest.raises(InputError, match="--slice=size: the ledger of d has the columns file, bytes, key"):
        slices.choose(("size",), available, "d")
    with pytest.raises(InputError, match="has no ledger"):
        slices.choose(("bytes",), (), "d")
    rows = {"one": (32, 5), "two": (32, 9)}
    given = ("shorter_side", "bytes"), rows, ["one", "two"], np.array([True, False]), ["", ""]
    found = slices.summarize(*given, keep_single=False)
    assert [(part["column"], part["value"], part["accuracy"]) for part in found] == [
        ("bytes", "5", 1.0),
        ("bytes", "9", 0.0),
    ]
    assert [part["value"] for part in slices.summarize(*given, keep_single=True)] == ["32", "5", "9"]


def test_the_ledger_s_rows_are_found_by_their_examples(digits: str) -> None:
    """On a dataset that preparation wrote: each example has a row, and brightness is what the manifest counted."""
    manifest = manifest_lib.load(digits)
    names = ledger.columns(digits)
    assert {"bytes", "width", "key", "group", "class", "shorter_side", "brightness"} <= set(names)
    found = ledger.read(digits, "test", ("shorter_side", "brightness", "bytes", "class"))
    assert len(found) == manifest.split("test").examples
    [part] = pathlib.Path(digits).glob("ledger-*.jsonl")
    brightness = [0] * (len(statistics.BRIGHTNESS) + 1)
    for row in ledger_lib.read_part(str(part)):
        if row.split == "test":
            values = found[row.sha256]
            assert (values[0], values[2], values[3]) == (min(row.width, row.height), row.bytes, row.class_name)
            brightness[values[1] // 16] += 1
    assert brightness == manifest.statistics["brightness"]["images"]["test"]


def test_duplicates_stand_for_no_example_and_damage_is_named(tmp_path: pathlib.Path) -> None:
    row = ledger_lib.Row(0, "a.jpg", "ant", 10, 4, 3, "f" * 64, "written", split="test", channels="0a0b0c010203")
    copy = ledger_lib.Row(0, "b.jpg", "ant", 99, 4, 3, "f" * 64, "duplicate", split="", channels="0a0b0c010203")
    part = tmp_path / "ledger-00000-of-00001.jsonl"
    part.write_text(copy.to_json() + "\n" + row.to_json() + "\n")
    assert ledger.read(str(tmp_path), "test", ("file", "bytes")) == {"f" * 64: ("a.jpg", 10)}
    assert ledger.read(str(tmp_path), "train", ("file",)) == {}
    part.write_text(row.to_json() + "\n" + row.to_json()[:50] + "\n")
    with pytest.raises(InputError, match="line 2, is no ledger row"):
        ledger.read(str(tmp_path), "test", ("file",))
    part.unlink()
    assert ledger.columns(str(tmp_path)) == ()
