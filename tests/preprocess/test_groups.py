"""Groups: what is tied together stays together, and what stands in two splits already is not torn or hidden."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess import groups, identity
from preprocess.inspection import Facts
from tests.preprocess.images_of import facts


def resolve(
    members: list[Facts], ties: list[tuple[Facts | str, Facts | str]], mode: str = "join", keep_splits: bool = False
) -> dict[str, list[Any]]:
    """What `groups.resolve` yields, by tag; a text in `ties` stands for the user's key."""
    edges = [tuple(end.node if isinstance(end, Facts) else identity.hub(end) for end in tie) for tie in ties]
    result = collections.defaultdict(list)
    for tag, value in groups.resolve([members], [edges], mode, keep_splits):  # type: ignore[list-item]
        result[tag].extend(value)
    return result


def test_a_group_has_the_name_of_its_smallest_hash_in_any_order() -> None:
    a, b, c = facts(1), facts(2), facts(3)
    forward = resolve([a, b, c], [(a, b), (b, c)])
    assert resolve([c, a, b], [(c, b), (b, a), (a, b)])["main"] == forward["main"]
    assert {one.group for one in forward["main"]} == {min(a.sha256, b.sha256, c.sha256)}
    assert {one.file for one in forward["groups"]} == {a.file, b.file, c.file}


def test_the_split_of_one_is_the_split_of_all() -> None:
    a, b = facts(1, split="test"), facts(2)
    assert {one.split for one in resolve([a, b], [(a, b)])["main"]} == {"test"}


def test_groups_of_several_classes_are_placed_apart() -> None:
    a, b = facts(1, "ant"), facts(2, "bee")
    result = resolve([a, b], [(a, b)])
    assert not result["main"]
    assert {one.class_name for one in result["mixed"]} == {"ant", "bee"}
    pinned = dataclasses.replace(a, split="test")
    assert {one.split for one in resolve([pinned, b], [(pinned, b)])["main"]} == {"test"}


def test_dropping_keeps_the_one_with_most_pixels_and_what_looks_like_none_kept() -> None:
    small, large, far = facts(1, width=10), facts(2, width=20), facts(3, width=5)
    result = resolve([small, large, far], [(small, large), (small, far)], "drop")
    assert {one.file for one in result["main"]} == {large.file, far.file}  # far looks like small, which is gone
    (row,) = result["rows"]
    assert (row.file, row.status, row.reason, row.detail) == (
        small.file,
        "duplicate",
        "near_duplicate",
        f"looks like {large.file}",
    )


def test_dropping_spares_the_user_s_groups_other_classes_and_what_has_a_split() -> None:
    a, b = facts(1), facts(2)
    assert not resolve([a, b], [(a, "patient"), (b, "patient")], "drop")["rows"]
    other = facts(3, "rust")
    assert not resolve([a, other], [(a, other)], "drop")["rows"]
    old = facts(4, split="train")
    assert [row.file for row in resolve([a, old], [(a, old)], "drop")["rows"]] == [a.file]


def test_a_newcomer_that_would_join_two_splits_is_quarantined_and_nothing_moves() -> None:
    left, right = facts(1, split="train"), facts(2, split="test")
    bridge, near_left = facts(3), facts(4)
    result = resolve([left, right, bridge, near_left], [(left, bridge), (bridge, right), (near_left, left)])
    split_of = {one.file: one.split for one in result["main"]}
    assert split_of == {left.file: "train", right.file: "test", near_left.file: "train"}
    (row,) = result["rows"]
    assert (row.file, row.status, row.reason) == (bridge.file, "quarantined", "joins_two_splits")
    assert row.detail == "would tie together test, train"


def test_a_key_that_stands_in_two_splits_takes_no_more() -> None:
    left, right, new = facts(1, split="train"), facts(2, split="test"), facts(3)
    result = resolve([left, right, new], [(one, "patient") for one in (left, right, new)])
    assert [row.reason for row in result["rows"]] == ["joins_two_splits"]
    assert {one.file for one in result["main"]} == {left.file, right.file}


@given(
    st.lists(st.sampled_from(["", "", "train", "test"]), min_size=2, max_size=9),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=14),
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from("kl")), max_size=5),
)
def test_old_images_never_move_and_new_ones_never_stand_on_two_sides(
    sides: list[str], pairs: list[tuple[int, int]], keys: list[tuple[int, str]]
) -> None:
    images = [facts(number, split=side) for number, side in enumerate(sides)]
    ties = [(images[a % len(images)], images[b % len(images)]) for a, b in pairs]
    keyed = [(images[a % len(images)], key) for a, key in keys]
    result = resolve(images, [*ties, *keyed])
    split_of = {one.sha256: one.split for one in result["main"]}
    assert all(split_of[one.sha256] == one.split for one in images if one.split)
    assert len(result["main"]) + len(result["rows"]) == len(images)
    new = {one.sha256 for one in images if not one.split}
    for a, b in ties:
        if {a.sha256, b.sha256} <= set(split_of) and new & {a.sha256, b.sha256}:
            assert split_of[a.sha256] == split_of[b.sha256]


def test_splits_of_the_source_are_kept_and_the_leak_is_named() -> None:
    left, right = facts(1, split="train"), facts(2, split="test")
    result = resolve([left, right], [(left, right)], keep_splits=True)
    assert {one.file: one.split for one in result["main"]} == {left.file: "train", right.file: "test"}
    assert {one.split for one in result["groups"]} == {"test", "train"}


@pytest.mark.parametrize("count", [1, 2])
def test_parting_sends_images_without_ties_on(count: int) -> None:
    images = [facts(number) for number in range(3)]
    roots = [(one.node, images[0].node) for one in images[:count]]
    ties = [(images[0].node, images[0].node)]
    result = list(groups.part([images], [roots], [ties]))
    assert ("main", images[count:]) in result
    assert ("members", (images[0].node, images[:count])) in result
    assert ("ties", (images[0].node, ties)) in result
