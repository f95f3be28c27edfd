"""Shards: how many, and that each gets an equal share of everything."""

from __future__ import annotations

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.images import Storing
from preprocess import layout, summary
from preprocess.layout import Count, make_layout, shard_count
from preprocess.splits import Placed
from tests.preprocess.images_of import facts

MIB = 2**20


@pytest.mark.parametrize(
    ("examples", "stored_bytes", "max_workers", "expected"),
    [
        (1000, 10 * MIB, 8, 8),
        (1_281_167, 141_000 * MIB, 8, 552),  # ImageNet: 141,000 / 256 = 550.8, up to a multiple of 8
        (1_281_167, 141_000 * MIB, 512, 1024),  # 138 MiB each: larger than TFDS's least, and two for each reader
        (1000, 8 * 256 * MIB, 8, 8),
        (1000, 8 * 256 * MIB + 1, 8, 16),
        (5, 10 * MIB, 8, 5),
        (20, 1000 * 256 * MIB, 8, 16),  # no more than examples, still dealing equal streams to 8
        (20, 3 * 256 * MIB, 1, 3),
        (1_000_000, 1000 * MIB, 8, 16),  # a thousand bytes each: 15.3 times 65,536 images
        (1, 1, 8, 1),
    ],
)
def test_shard_count(examples: int, stored_bytes: int, max_workers: int, expected: int) -> None:
    assert shard_count(examples, stored_bytes, 256 * MIB, max_workers) == expected


@given(
    st.dictionaries(
        st.tuples(st.sampled_from("abcdefgh"), st.booleans()),
        st.tuples(st.integers(1, 70), st.integers(0, 500)),
        min_size=2,
    ).filter(lambda decks: len({name for name, _ in decks}) > 1),
    st.integers(1, 9),
    st.integers(1, 10_000),
)
def test_shards_are_balanced_to_within_one_and_every_class_is_spread(
    decks: dict[tuple[str, bool], tuple[int, int]], max_workers: int, shard_bytes: int
) -> None:
    counts = {("train", *deck): Count(size, 100 * size, first) for deck, (size, first) in decks.items()}
    planned = make_layout(counts, ["train"], shard_bytes, max_workers, {}, {})
    shards = planned.splits["train"].shards
    assert planned.classes == tuple(sorted({name for name, _ in decks}))
    assert 1 <= shards <= planned.splits["train"].examples == sum(size for size, _ in decks.values())
    total: collections.Counter[int] = collections.Counter(dict.fromkeys(range(shards), 0))
    for (name, pinned), (size, first) in decks.items():
        images = [Placed(facts(0, name, split="train"), pinned, first + offset) for offset in range(size)]
        of_deck = collections.Counter(planned.shard(one) for one in images)
        total.update(of_deck)
        assert max(of_deck.values()) - min(of_deck.get(shard, 0) for shard in range(shards)) <= 1
    assert len(total) == shards
    assert max(total.values()) - min(total.values()) <= 1


def test_counts_of_parts_merge_to_the_count_of_the_whole() -> None:
    images = [Placed(facts(number, split="train", width=number + 1), number % 3 == 0, number) for number in range(40)]
    storing = Storing()
    whole = dict(layout.count(images, storing))
    merged: dict[layout.Deck, list[Count]] = collections.defaultdict(list)
    for part in (images[30:], images[:7], images[7:30]):
        for deck, count in layout.count(part, storing):
            merged[deck].append(count)
    assert {deck: layout.merge(counts) for deck, counts in merged.items()} == whole
    assert whole["train", "healthy", False] == Count(26, 26_000, 1)


def test_scaling_down_shrinks_the_estimate_by_the_area() -> None:
    images = [Placed(facts(0, split="train", width=800, height=600, size_bytes=9000, kept=False), False, 0)]
    ((_, count),) = layout.count(images, Storing(shorter_side=200))
    assert count.bytes == 1000


def test_one_class_left_is_refused_with_the_reasons() -> None:
    with pytest.raises(InputError) as caught:
        make_layout(
            {("train", "ant", False): Count(9, 900, 0)},
            ["train"],
            MIB,
            8,
            {"ant": 9, "bee": 4, "cat": 0},
            {"bee": {"cannot_decode": 3, "empty_file": 1}},
        )
    message = str(caught.value)
    assert "only 'ant' is left" in message
    assert "'bee': of 4 files 3 cannot_decode, 1 empty_file" in message
    assert "'cat': no file" in message
    assert message.endswith("): repair or add images")


def test_where_one_class_is_one_group_looking_for_look_alikes_may_be_the_reason() -> None:
    reasons = {"bee": {"class_too_small": 4}}
    with pytest.raises(InputError) as caught:
        make_layout({("train", "ant", False): Count(9, 900, 0)}, ["train"], MIB, 8, {"ant": 9, "bee": 4}, reasons)
    assert str(caught.value).endswith(
        "('bee': of 4 files 4 class_too_small): repair or add images, or give --near_duplicates=ignore if look-alikes "
        "are the reason"
    )
    assert "--near_duplicates=ignore" in summary.ADVICE["class_too_small"]


def test_a_split_without_images_is_refused() -> None:
    counts = {("train", name, False): Count(9, 900, 0) for name in ("ant", "bee")}
    with pytest.raises(InputError, match="no image is left for the split 'test'"):
        make_layout(counts, ["train", "test"], MIB, 8, {}, {})
