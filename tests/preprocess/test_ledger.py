"""Rows, and sums over what became of every file."""

from __future__ import annotations

import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from preprocess import ledger

ROWS = st.lists(
    st.builds(
        ledger.Row,
        input=st.integers(0, 1),
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


@given(ROWS, st.integers(1, 5))
def test_sums_do_not_depend_on_how_rows_are_divided(rows: list[ledger.Row], parts: int) -> None:
    divided: dict[int, list[ledger.Row]] = {}
    for row in rows:
        divided.setdefault(ledger.part_of(row, parts), []).append(row)
    assert ledger.merge(map(ledger.tally, divided.values())) == ledger.tally(rows)
    seen = {name: sum(row.class_name == name for row in rows) for name in ("ant", "bee")}
    balanced = ledger.balance(seen, ledger.tally(rows))
    assert balanced["seen"] == len(rows) == balanced["written"] + balanced["quarantined"] + balanced["duplicates"]
    for name, counts in balanced["by_class"].items():
        assert counts["written"] == sum((row.class_name, row.status) == (name, "written") for row in rows)
    by_reason = ledger.tally(rows).by_reason
    assert sum(by_reason.values()) == sum(row.status != "written" for row in rows)
    assert by_reason.get("empty_file", 0) == sum(row.status != "written" and row.reason != "" for row in rows)


def test_a_lost_file_is_noticed() -> None:
    row = ledger.Row(0, "ant/1.png", "ant", 1, 1, 1, "", "written")
    with pytest.raises(RuntimeError, match="'ant' does not balance"):
        ledger.balance({"ant": 2}, ledger.tally([row]))
    with pytest.raises(RuntimeError, match="'ant' does not balance"):
        ledger.balance({}, ledger.tally([row]))


def test_parts_are_even_and_sorted(tmp_path: pathlib.Path) -> None:
    rows = [ledger.Row(0, f"ant/{number}.png", "ant", 1, 1, 1, "", "written") for number in range(2000)]
    sizes = [sum(ledger.part_of(row, 4) == part for row in rows) for part in range(4)]
    assert min(sizes) > 400
    assert [ledger.part_count(count) for count in (0, 1, 2**15, 2**15 + 1)] == [1, 1, 1, 2]
    name, _ = ledger.write_part(2, 4, [rows[20:30], rows[:20]], str(tmp_path))
    assert name == "ledger-00002-of-00004.jsonl"
    lines = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
    assert [line["file"] for line in lines] == sorted(row.file for row in rows[:30])
    assert set(lines[0]) == {
        *(
            "input",
            "file",
            "class",
            "bytes",
            "width",
            "height",
            "sha256",
            "status",
            "split",
            "shard",
            "reason",
            "detail",
        ),
        *("key", "group", "phash", "texture", "channels"),
    }
    assert list(ledger.read_part(str(tmp_path / name))) == sorted(rows[:30], key=lambda row: row.file)


def test_names_that_are_not_utf8_come_back(tmp_path: pathlib.Path) -> None:
    row = ledger.Row(1, "ant/\udcff\n.png", "ant", 1, 1, 1, "ab", "quarantined", reason="empty_file", key="é")
    name, _ = ledger.write_part(0, 1, [[row]], str(tmp_path))
    assert list(ledger.read_part(str(tmp_path / name))) == [row]


def test_a_damaged_part_is_refused_by_line(tmp_path: pathlib.Path) -> None:
    name, _ = ledger.write_part(0, 1, [[ledger.Row(0, "ant/1.png", "ant", 1, 1, 1, "", "written")]], str(tmp_path))
    with open(tmp_path / name, "ab") as stream:
        stream.write(b'{"file": "ant/')
    with pytest.raises(InputError, match="line 2, is no ledger row"):
        list(ledger.read_part(str(tmp_path / name)))
