"""Equal files, and sums over what became of every file."""

from __future__ import annotations

import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess import ledger
from preprocess.identity import unique
from preprocess.inspection import Facts

ROWS = st.lists(
    st.builds(
        ledger.Row,
        file=st.text("ab\udcff/", min_size=1, max_size=5),
        class_name=st.sampled_from(["ant", "bee"]),
        bytes=st.just(1),
        width=st.just(1),
        height=st.just(1),
        sha256=st.just(""),
        status=st.sampled_from(["written", "quarantined", "duplicate"]),
        reason=st.sampled_from(["", "empty_file"]),
    ),
    max_size=40,
)


def facts(file: str) -> Facts:
    return Facts(file.split("/")[0], file, 10, 2, 2, "ff" * 32, kept=True)


def test_of_equal_files_the_first_path_is_kept() -> None:
    kept, *rows = unique(facts(file) for file in ("bee/2.png", "bee/10.png", "bee/1.png"))
    assert isinstance(kept, Facts)
    assert kept.file == "bee/1.png"
    assert [(row.file, row.status, row.detail) for row in rows if isinstance(row, ledger.Row)] == [
        ("bee/10.png", "duplicate", "same bytes as bee/1.png"),
        ("bee/2.png", "duplicate", "same bytes as bee/1.png"),
    ]


def test_equal_files_under_several_classes_contradict_each_other() -> None:
    rows = list(unique(facts(file) for file in ("bee/1.png", "ant/1.png", "ant/2.png", "cat/1", "cat/2", "cat/3")))
    assert all(isinstance(row, ledger.Row) and row.reason == "conflicting_labels" for row in rows)
    details = {row.file: row.detail for row in rows if isinstance(row, ledger.Row)}
    assert details["ant/1.png"] == "same bytes as bee/1.png, cat/1, cat/2 and 1 more"
    assert details["cat/3"] == "same bytes as ant/1.png, ant/2.png, bee/1.png"


@given(ROWS, st.integers(1, 5))
def test_sums_do_not_depend_on_how_rows_are_divided(rows: list[ledger.Row], parts: int) -> None:
    divided: dict[int, list[ledger.Row]] = {}
    for row in rows:
        divided.setdefault(ledger.part_of(row, parts), []).append(row)
    assert ledger.merge(map(ledger.tally, divided.values())) == ledger.tally(rows)
    by_class = ledger.tally(rows).by_class
    seen = {name: sum(row.class_name == name for row in rows) for name in ("ant", "bee")}
    balanced = ledger.balance(seen, ledger.tally(rows))
    assert balanced["seen"] == len(rows) == balanced["written"] + balanced["quarantined"] + balanced["duplicates"]
    for name, counts in by_class.items():
        assert balanced["by_class"][name]["written"] == counts.get("written", 0)


def test_a_lost_file_is_noticed() -> None:
    row = ledger.Row("ant/1.png", "ant", 1, 1, 1, "", "written")
    with pytest.raises(RuntimeError, match="'ant' does not balance"):
        ledger.balance({"ant": 2}, ledger.tally([row]))
    with pytest.raises(RuntimeError, match="'ant' does not balance"):
        ledger.balance({}, ledger.tally([row]))


def test_parts_are_even_and_sorted(tmp_path: pathlib.Path) -> None:
    rows = [ledger.Row(f"ant/{number}.png", "ant", 1, 1, 1, "", "written") for number in range(2000)]
    sizes = [sum(ledger.part_of(row, 4) == part for row in rows) for part in range(4)]
    assert min(sizes) > 400
    assert [ledger.part_count(count) for count in (0, 1, 250_000, 250_001)] == [1, 1, 1, 2]
    name, _ = ledger.write_part(2, 4, reversed(rows[:30]), str(tmp_path))
    assert name == "ledger-00002-of-00004.jsonl"
    lines = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
    assert [line["file"] for line in lines] == sorted(row.file for row in rows[:30])
    assert set(lines[0]) == {
        *("file", "class", "bytes", "width", "height", "sha256", "status", "split", "shard", "reason", "detail")
    }
