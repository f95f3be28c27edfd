"""Shards: how many, and that each gets an equal share of everything."""

from __future__ import annotations

import collections
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from preprocess.layout import make_layout, shard_count

MIB = 2**20


@pytest.mark.parametrize(
    ("examples", "source_bytes", "min_shards", "expected"),
    [
        (1000, 10 * MIB, 8, 8),
        (1_281_167, 141_000 * MIB, 8, 552),  # ImageNet: 141,000 / 256 = 550.8, up to a multiple of 8
        (1000, 8 * 256 * MIB, 8, 8),
        (1000, 8 * 256 * MIB + 1, 8, 16),
        (5, 10 * MIB, 8, 5),
        (20, 1000 * 256 * MIB, 8, 16),  # no more than examples, still dealing equal streams to 8
        (20, 3 * 256 * MIB, 1, 3),
        (1, 1, 8, 1),
    ],
)
def test_shard_count(examples: int, source_bytes: int, min_shards: int, expected: int) -> None:
    assert shard_count(examples, source_bytes, 256 * MIB, min_shards) == expected


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 70), min_size=2),
    st.integers(1, 9),
    st.integers(1, 10_000),
)
def test_shards_are_balanced_to_within_one_and_every_class_is_spread(
    by_class: dict[str, int], min_shards: int, shard_bytes: int
) -> None:
    counts = {("train", name): (count, 100 * count) for name, count in by_class.items()}
    layout = make_layout(counts, {"train": Fraction(1)}, shard_bytes, min_shards, {}, {})
    shards = layout.splits["train"].shards
    assert layout.classes == tuple(sorted(by_class))
    assert 1 <= shards <= layout.splits["train"].examples == sum(by_class.values())
    total: collections.Counter[int] = collections.Counter(dict.fromkeys(range(shards), 0))
    for name, count in by_class.items():
        of_class = collections.Counter(layout.shard("train", name, rank) for rank in range(count))
        total.update(of_class)
        assert max(of_class.values()) - min(of_class.get(shard, 0) for shard in range(shards)) <= 1
    assert len(total) == shards
    assert max(total.values()) - min(total.values()) <= 1


def test_one_class_left_is_refused_with_the_reasons() -> None:
    with pytest.raises(InputError) as caught:
        make_layout(
            {("train", "ant"): (9, 900)},
            {"train": Fraction(1)},
            MIB,
            8,
            {"ant": 9, "bee": 4, "cat": 0},
            {("bee", "cannot_decode"): 3, ("bee", "empty_file"): 1},
        )
    message = str(caught.value)
    assert "only 'ant' is left" in message
    assert "'bee': of 4 files 3 cannot_decode, 1 empty_file" in message
    assert "'cat': no file" in message
