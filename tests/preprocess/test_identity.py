"""Equal bytes: kept once, contradictions out, and what an earlier version or the source says is respected."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

from preprocess import identity
from preprocess.identity import Pin
from preprocess.inspection import Facts
from tests.preprocess.images_of import facts


def unique(*files: Facts, pins: tuple[Pin, ...] = ()) -> dict[str, Any]:
    result: dict[str, Any] = collections.defaultdict(list)
    result.update(identity.unique([[one] for one in files], [pins]))
    return result


def copy(of: Facts, file: str, **more: Any) -> Facts:
    return dataclasses.replace(of, file=file, **more)


def test_the_first_name_is_kept() -> None:
    one = facts(1)
    result = unique(copy(one, "healthy/b.jpg"), copy(one, "healthy/a.jpg"), facts(2))
    assert {each.file for each in result["main"]} == {"healthy/a.jpg", facts(2).file}
    (row,) = result["rows"]
    assert (row.file, row.status, row.detail) == ("healthy/b.jpg", "duplicate", "same bytes as healthy/a.jpg")


def test_one_file_listed_twice_is_said_to_be() -> None:
    one = facts(1)
    assert [row.detail for row in unique(one, copy(one, one.file))["rows"]] == ["listed twice"]


def test_bytes_under_two_classes_are_a_contradiction() -> None:
    one = facts(1)
    rows = unique(one, copy(one, "rust/1.jpg", class_name="rust"))["rows"]
    assert {(row.class_name, row.reason, row.detail) for row in rows} == {
        ("healthy", "conflicting_labels", "same bytes as rust/1.jpg"),
        ("rust", "conflicting_labels", f"same bytes as {one.file}"),
    }


def test_an_earlier_version_s_image_keeps_its_split_and_its_class() -> None:
    one = facts(1)
    pin = Pin(one.sha256, "healthy", "test")
    result = unique(one, copy(one, "rust/1.jpg", class_name="rust"), pins=(pin,))
    assert [(each.file, each.split) for each in result["main"]] == [(one.file, "test")]
    assert [row.file for row in result["rows"]] == ["rust/1.jpg"]
    # Where the user has moved it to another class, it goes there, in its split.
    moved = unique(copy(one, "rust/1.jpg", class_name="rust"), pins=(pin,))
    assert [(each.class_name, each.split) for each in moved["main"]] == [("rust", "test")]


def test_images_of_the_earlier_version_that_are_still_there_are_counted() -> None:
    one, two = facts(1), facts(2)
    pins = tuple(Pin(each.sha256, "healthy", "train") for each in (one, two, facts(3)))
    assert unique(one, two, facts(4), pins=pins)["kept"] == 2
    # What contradicts itself now, in classes that are both new, is no longer there.
    moved = [copy(two, f"{name}/2.jpg", class_name=name) for name in ("ant", "bee")]
    assert unique(one, *moved, pins=pins)["kept"] == 1
    assert "kept" not in unique(facts(4), pins=pins)


def test_what_stands_in_a_shard_is_kept_and_the_newcomer_is_the_copy() -> None:
    one = facts(1)
    old = copy(one, "healthy/z.jpg", old=True, split="train")
    result = unique(one, old)
    assert result["main"] == [old]
    assert [row.file for row in result["rows"]] == [one.file]


def test_a_ledger_that_calls_an_image_written_and_removed() -> None:
    one, removed = facts(1), Pin(facts(1).sha256, "healthy", "")
    for pins in ((Pin(one.sha256, "healthy", "train"), removed), (removed, Pin(one.sha256, "healthy", "train"))):
        assert [row.reason for row in unique(one, pins=pins)["rows"]] == ["removed"]
        old = copy(one, "healthy/z.jpg", old=True, split="train")  # in a shard that stays as it is
        result = unique(one, old, pins=pins)
        assert result["main"] == [old]
        assert [row.status for row in result["rows"]] == ["duplicate"]


def test_copies_in_several_splits_of_the_source_stay_and_are_tied() -> None:
    one = facts(1, split="train")
    result = unique(one, copy(one, "test/1.jpg", split="test"), copy(one, "test/2.jpg", split="test"))
    assert {(each.file, each.split) for each in result["main"]} == {(one.file, "train"), ("test/1.jpg", "test")}
    assert [row.file for row in result["rows"]] == ["test/2.jpg"]
    assert result["edges"] == [(one.node, one.node)]


def test_the_groups_of_all_copies_are_tied_to_the_one_kept() -> None:
    one = facts(1, key="patient 1")
    result = unique(one, copy(one, "healthy/copy.jpg", key="patient 2"), facts(2))
    assert set(result["edges"]) == {(one.node, identity.hub("patient 1")), (one.node, identity.hub("patient 2"))}
