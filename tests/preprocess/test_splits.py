"""Exact splits: the arithmetic, and that nothing but content and seed decides."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess import partitions, splits
from preprocess.inspection import Facts
from preprocess.ledger import Row
from preprocess.splits import Placed, exact_counts
from tests.preprocess.images_of import facts

FRACTIONS = st.lists(st.integers(1, 1000), min_size=1, max_size=6).map(
    lambda weights: {f"split{index}": Fraction(weight, sum(weights)) for index, weight in enumerate(weights)}
)
THREE = {"train": Fraction(8, 10), "validation": Fraction(1, 10), "test": Fraction(1, 10)}


def grouped(sizes: Sequence[int], class_name: str = "healthy", first: int = 0) -> list[Facts]:
    """Images in groups of the given sizes, each image with its group's name as `groups.resolve` gives it."""
    images = []
    for size in sizes:
        group = [facts(first + offset, class_name) for offset in range(size)]
        first += size
        name = min(one.sha256 for one in group) if size > 1 else ""
        images += [dataclasses.replace(one, group=name) for one in group]
    return images


def place(
    images: Iterable[Facts],
    fractions: Mapping[str, Fraction] = THREE,
    seed: int = 42,
    seen: Mapping[str, int] | None = None,
) -> tuple[list[Placed], list[Row]]:
    """The steps of the Beam graph around `splits`, one after the other. `seen` decides the number of buckets."""
    images = list(images)
    seen = seen or collections.Counter(one.class_name for one in images)
    batches = collections.defaultdict(list)
    for one in images:  # as they come: the images of a group together, others in any order
        batches[one.group_id].append(one)
    counts: dict[splits.Bucket, tuple[int, int]] = {}
    buckets = collections.defaultdict(list)
    sizes = collections.defaultdict(list)
    for batch in batches.values():
        for class_name, some_sizes in splits.group_sizes(batch, seed, seen):
            sizes[class_name].append(some_sizes)
        for where, (size, groups) in splits.count_buckets(batch, seed, seen):
            before = counts.get(where, (0, 0))
            counts[where] = before[0] + size, before[1] + groups
        for where, some in splits.spread(batch, seed, seen):
            buckets[where].append(some)
    plans = splits.plan(counts, fractions, {name: splits.few(parts) for name, parts in sizes.items()})
    placed: list[Placed] = []
    rows: list[Row] = []
    for where, some_batches in buckets.items():
        for tag, values in splits.place(where, some_batches, plans, seed):
            (placed if tag == "main" else rows).extend(values)
    return placed, rows


def sizes_of(placed: Iterable[Placed]) -> dict[str, int]:
    return dict(collections.Counter(one.facts.split for one in placed))


@given(st.integers(0, 5000), FRACTIONS)
def test_counts_sum_fill_and_stay_within_one_of_their_share(total: int, fractions: dict[str, Fraction]) -> None:
    counts = exact_counts(total, fractions)
    assert list(counts) == list(fractions)
    assert sum(counts.values()) == total
    assert all(count >= 0 for count in counts.values())
    if total >= len(fractions):
        assert all(counts.values())
    if all(total * fraction >= 1 for fraction in fractions.values()):  # else filling empty splits has moved some
        assert all(abs(counts[name] - total * fractions[name]) < 1 for name in counts)


@pytest.mark.parametrize(
    ("total", "texts", "expected"),
    [
        (10, ("0.8", "0.1", "0.1"), (8, 1, 1)),
        (937, ("0.8", "0.1", "0.1"), (749, 94, 94)),  # shares 749.6, 93.7, 93.7: both remainders of 0.7 win
        (15, ("0.8", "0.1", "0.1"), (12, 2, 1)),  # two remainders of one half: the first named wins
        (3, ("0.98", "0.01", "0.01"), (1, 1, 1)),
        (4, ("0.98", "0.01", "0.01"), (2, 1, 1)),
        (2, ("0.8", "0.1", "0.1"), (2, 0, 0)),
        (7, ("1/3", "1/3", "1/3"), (3, 2, 2)),
        (5, ("1",), (5,)),
    ],
)
def test_counts_by_hand(total: int, texts: tuple[str, ...], expected: tuple[int, ...]) -> None:
    names = ("train", "validation", "test")
    fractions = {name: Fraction(text) for name, text in zip(names, texts, strict=False)}
    assert tuple(exact_counts(total, fractions).values()) == expected


@pytest.mark.parametrize(
    ("total", "pinned", "expected"),
    [
        (150, {"train": 80, "validation": 10, "test": 10}, (40, 5, 5)),
        (100, {"train": 50}, (30, 10, 10)),
        # Of 100, train has 90 where 80 are due: the others share the 10 that are free, and lack 10 each.
        (100, {"train": 90}, (0, 5, 5)),
        (20, {"train": 0, "validation": 8}, (11, 0, 1)),  # train lacks 16 and test 2, of 12 free ones: 10.67 and 1.33
        (10, {"train": 8, "validation": 1, "test": 1}, (0, 0, 0)),
    ],
)
def test_quotas_by_hand(total: int, pinned: dict[str, int], expected: tuple[int, ...]) -> None:
    assert tuple(splits.quotas(total, pinned, THREE).values()) == expected


@given(st.integers(3, 60), st.integers(0, 3), st.randoms(use_true_random=False))
def test_order_of_files_decides_nothing(count: int, seed: int, shuffler: random.Random) -> None:
    images = [facts(number) for number in range(count)]

    def placed() -> list[Placed]:
        return sorted(place(images, seed=seed)[0], key=lambda one: one.facts.sha256)

    expected = placed()
    shuffler.shuffle(images)
    assert placed() == expected


def test_hash_order_is_the_documented_one() -> None:
    images = [facts(number) for number in range(50)]
    placed, _ = place(images, seed=7)
    ordered = sorted(images, key=lambda one: hashlib.sha256(f"7/{one.sha256}".encode()).hexdigest())
    names = ["train"] * 40 + ["validation"] * 5 + ["test"] * 5
    by_image = {one.facts.sha256: one.facts.split for one in placed}
    assert [by_image[one.sha256] for one in ordered] == names


def test_another_seed_gives_other_splits() -> None:
    images = [facts(number) for number in range(50)]

    def test_files(seed: int) -> set[str]:
        return {one.facts.file for one in place(images, seed=seed)[0] if one.facts.split == "test"}

    assert test_files(1) != test_files(2)


@given(st.lists(st.integers(1, 9), min_size=3, max_size=60), st.sampled_from([1, 7]), FRACTIONS)
def test_groups_stay_whole_and_splits_within_one_group_of_their_share(
    sizes: list[int], buckets: int, fractions: dict[str, Fraction]
) -> None:
    images = grouped(sizes)
    seen = {"healthy": buckets * partitions.IMAGES_PER_PARTITION}
    placed, rows = place(images, fractions, seen=seen)
    if len(sizes) < len(fractions):
        assert not placed
        assert {row.reason for row in rows} == {"class_too_small"}
        return
    assert len(placed) == len(images)
    split_of = {one.facts.group_id: one.facts.split for one in placed}
    assert all(one.facts.split == split_of[one.facts.group_id] for one in placed)
    counts = collections.Counter(one.facts.split for one in placed)
    wanted = exact_counts(len(images), fractions)
    assert all(counts[name] for name in fractions)
    moved = min(wanted.values()) < max(sizes)  # then a split may have been filled at the cost of another
    slack = 1 if not moved else len(fractions)
    assert all(abs(counts[name] - wanted[name]) < slack * max(sizes) for name in fractions)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=80), st.sampled_from([1, 5]))
def test_positions_are_consecutive(sizes: list[int], buckets: int) -> None:
    images = grouped(sizes)
    pinned = [dataclasses.replace(one, split="train") for one in images[::3] if not one.group]
    others = [one for one in images if one.sha256 not in {pin.sha256 for pin in pinned}]
    placed, _ = place(pinned + others, seen={"healthy": buckets * partitions.IMAGES_PER_PARTITION})
    positions = collections.defaultdict(list)
    for one in placed:
        positions[one.facts.split, one.pinned].append(one.position)
    for found in positions.values():
        assert sorted(found) == list(range(min(found), min(found) + len(found)))


def test_many_buckets_deal_like_one() -> None:
    images = [facts(number) for number in range(2000)]
    one, _ = place(images)
    many, _ = place(images, seen={"healthy": 40 * partitions.IMAGES_PER_PARTITION})
    assert {each.facts for each in one} == {each.facts for each in many}
    assert sizes_of(one) == {"train": 1600, "validation": 200, "test": 200}


@pytest.mark.parametrize("buckets", [1, 7])
def test_a_large_group_leaves_no_split_empty(buckets: int) -> None:
    seen = {"healthy": buckets * partitions.IMAGES_PER_PARTITION}
    for large_first in range(20):  # wherever the large one falls on the line
        placed, _ = place(grouped([100, 1, 1], first=1000 * large_first), seen=seen)
        assert sorted(sizes_of(placed).values()) == [1, 1, 100]


@pytest.mark.parametrize(
    ("sizes", "filled", "expected"),
    [
        ([1] * 10, (), (8, 1, 1)),
        ([2, 2, 2, 2, 2], (), (6, 2, 2)),  # the last one begins with image 8, of which test would get nothing
        ([8, 1, 1], (), (8, 1, 1)),
        ([1, 1, 8], (), (1, 1, 8)),
        ([5], ("train",), (0, 0, 5)),  # fewer groups than splits without any
        ([5, 5], ("train",), (0, 5, 5)),
        ([2, 2, 2, 2, 2], ("validation", "test"), (8, 1, 1)),
    ],
)
def test_ends_of_splits_move_to_where_groups_begin(
    sizes: list[int], filled: tuple[str, ...], expected: tuple[int, ...]
) -> None:
    quotas = {"train": 8, "validation": 1, "test": 1}
    assert tuple(splits.with_a_group_each(quotas, sizes, set(filled)).values()) == expected


def test_growing_moves_nothing_and_restores_the_shares() -> None:
    before, _ = place(grouped([1] * 80 + [2] * 10))
    old = [one.facts for one in before]
    new = grouped([1] * 40 + [2] * 5, first=500)
    after, _ = place(old + new)
    split_of = {one.facts.sha256: one.facts.split for one in after}
    assert all(split_of[one.sha256] == one.split for one in old)
    counts = sizes_of(after)
    wanted = exact_counts(150, THREE)
    assert all(abs(counts[name] - wanted[name]) <= 2 for name in THREE)


def test_images_in_shards_already_count_and_are_not_placed() -> None:
    old = [facts(number, split="train", old=True) for number in range(8)]
    new = [facts(number) for number in range(100, 102)]
    placed, rows = place(old + new)
    assert sizes_of(placed) == {"validation": 1, "test": 1}
    assert not rows


def test_a_class_smaller_than_its_splits_is_quarantined_whole() -> None:
    placed, rows = place([facts(1), facts(2)])
    assert not placed
    assert {(row.status, row.reason, row.detail) for row in rows} == {
        ("quarantined", "class_too_small", "2 usable images, fewer than splits")
    }
    assert not place([facts(1), facts(2), facts(3)])[1]
    _, rows = place(grouped([5, 4]))
    assert {row.detail for row in rows} == {"2 groups of images, fewer than splits"}


def test_mixed_groups_keep_every_class_at_its_share() -> None:
    """Patients with images of two classes each: both classes come out at 8:1:1, though no patient is divided."""
    rng = random.Random(0)
    groups = [
        (hashlib.sha256(str(n).encode()).hexdigest(), {"a": rng.randint(1, 4), "b": rng.randint(0, 3)})
        for n in range(300)
    ]
    groups = [(name, {key: count for key, count in sizes.items() if count}) for name, sizes in groups]
    given = dict(splits.place_mixed(groups, {}, THREE, 42))
    for class_name in ("a", "b"):
        counts: collections.Counter[str] = collections.Counter()
        for name, sizes in groups:
            counts[given[name]] += sizes.get(class_name, 0)
        wanted = exact_counts(counts.total(), THREE)
        assert all(abs(counts[name] - wanted[name]) <= 4 for name in THREE)
    rng.shuffle(groups)
    assert dict(splits.place_mixed(groups, {}, THREE, 42)) == given


def test_mixed_groups_go_where_single_ones_do_not_stand() -> None:
    counts = {("a", "train", 0): (8, 8), ("b", "train", 0): (8, 8)}
    given = dict(splits.place_mixed([("x", {"a": 1, "b": 1}), ("y", {"a": 1, "b": 1})], counts, THREE, 42))
    assert sorted(given.values()) == ["test", "validation"]


def test_a_few_mixed_groups_still_fill_every_split() -> None:
    groups = [(str(number), {"a": 24, "b": 24}) for number in range(4)]
    given = dict(splits.place_mixed(groups, {}, THREE, 42))
    assert sorted(given.values()) == ["test", "train", "train", "validation"]
    # Where single images are left, those will do it.
    counts = {("a", "", 0): (2, 2)}
    assert sorted(dict(splits.place_mixed(groups, counts, THREE, 42)).values()).count("train") > 2


def test_a_large_group_beside_pinned_images_leaves_no_split_empty() -> None:
    for first in range(0, 20_000, 1000):
        free = grouped([40, 1, 1, 1], first=first)
        pinned = [facts(first + 900, split="train")]
        placed, _ = place([*free, *pinned])
        assert set(sizes_of(placed)) == set(THREE)


def test_a_class_that_lives_in_too_few_mixed_groups_is_quarantined_too() -> None:
    pinned = [facts(number, split="test") for number in range(2)]  # as `place_mixed` left them
    placed, rows = place(pinned)
    assert not placed
    assert {row.reason for row in rows} == {"class_too_small"}


def test_classes_that_will_be_quarantined_fill_no_split() -> None:
    counts = {("c", "", 0): (1, 1)}
    groups = [(str(number), {"a": 5, "b": 5}) for number in range(12)]
    assert set(dict(splits.place_mixed(groups, counts, THREE, 42)).values()) == set(THREE)
