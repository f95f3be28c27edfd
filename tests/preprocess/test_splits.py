"""Exact splits: the arithmetic, and that nothing but content and seed decides."""

from __future__ import annotations

import hashlib
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.inspection import Facts
from preprocess.ledger import Row
from preprocess.splits import Placed, exact_counts, place

FRACTIONS = st.lists(st.integers(1, 1000), min_size=1, max_size=6).map(
    lambda weights: {f"split{index}": Fraction(weight, sum(weights)) for index, weight in enumerate(weights)}
)


def facts(number: int) -> Facts:
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    return Facts("healthy", f"healthy/{number}.jpeg", 1000, 4, 3, sha256, kept=True)


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


THREE = {"train": Fraction(8, 10), "validation": Fraction(1, 10), "test": Fraction(1, 10)}


@given(st.integers(3, 60), st.integers(0, 3), st.randoms(use_true_random=False))
def test_order_of_files_decides_nothing(count: int, seed: int, shuffler: random.Random) -> None:
    images = [facts(number) for number in range(count)]
    expected = list(place(images, THREE, seed))
    shuffler.shuffle(images)
    assert list(place(images, THREE, seed)) == expected


def test_hash_order_is_the_documented_one() -> None:
    images = [facts(number) for number in range(50)]
    placed = list(place(images, THREE, seed=7))
    ordered = sorted(images, key=lambda one: hashlib.sha256(f"7/{one.sha256}".encode()).hexdigest())
    splits = ["train"] * 40 + ["validation"] * 5 + ["test"] * 5
    ranks = [*range(40), *range(5), *range(5)]
    assert placed == [Placed(*row) for row in zip(ordered, splits, ranks, strict=True)]


def test_another_seed_gives_other_splits() -> None:
    images = [facts(number) for number in range(50)]

    def test_files(seed: int) -> set[str]:
        return {one.facts.file for one in place(images, THREE, seed) if isinstance(one, Placed) and one.split == "test"}

    assert test_files(1) != test_files(2)


def test_a_class_smaller_than_its_splits_is_quarantined_whole() -> None:
    rows = list(place([facts(1), facts(2)], THREE, seed=42))
    assert all(isinstance(row, Row) for row in rows)
    assert {(row.status, row.reason, row.detail) for row in rows if isinstance(row, Row)} == {
        ("quarantined", "class_too_small", "2 usable images for 3 splits")
    }
    assert all(isinstance(one, Placed) for one in place([facts(1), facts(2), facts(3)], THREE, seed=42))
