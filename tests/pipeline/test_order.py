"""Streams, windows and positions: the arithmetic of the order, without data."""

from __future__ import annotations

import collections
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import order, training
from pipeline.errors import InputError
from pipeline.manifest import Shard, Split

ALL = 1000.0  # MiB: more than any split here has


def _split(*counts: int) -> Split:
    """Shards of so many examples, each of 1 MiB."""
    shards = tuple(Shard(f"s{i}", count, count * 2**20, "") for i, count in enumerate(counts))
    return Split(sum(counts), shards)


@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=70),
    global_batch=st.sampled_from([1, 2, 6, 8, 32, 64, 96]),
    shuffle_mib=st.floats(0.1, 100),
)
def test_streams_take_each_shard_once_and_divide_the_batch(
    counts: list[int], global_batch: int, shuffle_mib: float
) -> None:
    plan = order.plan(_split(*counts), global_batch=global_batch, shuffle_mib=shuffle_mib)
    dealt = collections.Counter(shard.file for stream in plan.streams for shard in stream.shards)
    assert dealt == {f"s{i}": 1 for i in range(len(counts))}
    assert len({len(stream.shards) for stream in plan.streams}) == 1
    assert plan.block * len(plan.streams) == global_batch
    assert len(plan.streams) & (len(plan.streams) - 1) == 0
    assert sorted(plan.numbers(plan.streams)) == list(range(len(counts)))
    assert [shard.file for stream in plan.streams for shard in stream.shards] == [
        f"s{number}" for number in plan.numbers(plan.streams)
    ]


@given(global_batch=st.sampled_from([8, 16, 64]), workers=st.sampled_from([1, 2, 4, 8]))
def test_workers_share_all_streams(global_batch: int, workers: int) -> None:
    streams = order.plan(_split(*[5] * 8), global_batch=global_batch, shuffle_mib=ALL).streams
    shares = [order.for_worker(streams, worker=worker, num_workers=workers) for worker in range(workers)]
    assert list(itertools.chain(*shares)) == list(streams)


@pytest.mark.parametrize(
    ("shards", "global_batch", "streams"), [(8, 32, 8), (8, 12, 4), (6, 32, 2), (5, 32, 1), (128, 256, 64)]
)
def test_as_many_streams_as_divide_shards_and_batch(shards: int, global_batch: int, streams: int) -> None:
    assert len(order.plan(_split(*[3] * shards), global_batch=global_batch, shuffle_mib=ALL).streams) == streams


@pytest.mark.parametrize(
    ("least", "streams"),
    [({"least_block": 2}, 4), ({"least_block": 8}, 1), ({"least_window": 5}, 4), ({"least_window": 20}, 1)],
)
def test_fewer_streams_have_longer_blocks_and_windows(least: dict[str, int], streams: int) -> None:
    plan = order.plan(_split(*[5] * 8), global_batch=8, shuffle_mib=20, **least)  # 20 of 40 examples are held
    assert len(plan.streams) == streams
    assert plan.block >= least.get("least_block", 1)
    assert plan.window >= least.get("least_window", 1)


def test_a_split_that_is_held_whole_has_no_longer_windows_than_its_streams() -> None:
    for least_window, streams in ((5, 8), (6, 4), (40, 1), (256, 1)):
        plan = order.plan(_split(*[5] * 8), global_batch=8, shuffle_mib=ALL, least_window=least_window)
        assert (len(plan.streams), plan.window) == (streams, 40 // streams)


@pytest.mark.parametrize(
    ("counts", "streams"),
    [
        ([5] * 8 + [1, 1, 0, 0, 0, 0, 0, 0], 8),  # two images were added in as many shards as there were
        ([5] * 8 + [0] * 7 + [1], 8),
        ([5] * 8 + [5] * 8, 16),
        ([6, 6, 5, 5, 2, 1, 1, 1], 4),
        ([5] * 5 + [1, 0, 0, 0, 0, 0, 0, 0], 1),
    ],
)
def test_added_shards_leave_the_streams_balanced(counts: list[int], streams: int) -> None:
    dealt = order.plan(_split(*counts), global_batch=64, shuffle_mib=ALL).streams
    assert len(dealt) == streams
    assert all(stream.examples for stream in dealt)
    assert sum(stream.examples for stream in dealt) == sum(counts)


def test_what_cannot_be_shared_is_refused() -> None:
    streams = order.plan(_split(*[5] * 8), global_batch=16, shuffle_mib=ALL).streams
    with pytest.raises(InputError, match="3 workers can't share 8 streams"):
        order.for_worker(streams, worker=0, num_workers=3)
    with pytest.raises(InputError, match="16 workers can't share 8 streams"):
        order.for_worker(streams, worker=0, num_workers=16)
    with pytest.raises(InputError, match="worker index 2"):
        order.for_worker(streams, worker=2, num_workers=2)
    with pytest.raises(InputError, match="global_batch=0"):
        order.plan(_split(5), global_batch=0, shuffle_mib=ALL)
    with pytest.raises(InputError, match="global_batch=1: expected at least 2"):
        order.plan(_split(5), global_batch=1, shuffle_mib=ALL, least_block=2)
    with pytest.raises(InputError, match="no examples"):
        order.plan(_split(), global_batch=4, shuffle_mib=ALL)
    with pytest.raises(InputError, match="global_batch=10 doesn't divide by 4 replicas"):
        training.check_batch(10, num_replicas=4)


@given(
    shards=st.sampled_from([1, 5, 6, 8]),
    global_batch=st.sampled_from([8, 16, 24]),
    workers=st.sampled_from([1, 2, 4, 8]),
)
def test_workers_share_each_global_batch_whatever_the_streams(shards: int, global_batch: int, workers: int) -> None:
    """Their parts, one after the other, are the batch: (stream, place in its block) of each example once, in order."""
    plan = order.plan(_split(*[40] * shards), global_batch=global_batch, shuffle_mib=ALL)
    whole = [(stream.index, place) for stream in plan.streams for place in range(plan.block)]
    parts = []
    for worker in range(workers):
        own, taken = order.share(plan, worker=worker, num_workers=workers)
        read = [(stream.index, place) for stream in own for place in range(plan.block)]
        parts.append([read[position] for position in taken])
    assert {len(part) for part in parts} == {global_batch // workers}
    assert list(itertools.chain(*parts)) == whole


def test_a_share_that_does_not_exist_is_refused() -> None:
    plan = order.plan(_split(5), global_batch=8, shuffle_mib=ALL)
    with pytest.raises(InputError, match="global_batch=8 doesn't divide by 3 workers"):
        order.share(plan, worker=0, num_workers=3)
    with pytest.raises(InputError, match=r"worker index 2 is outside 0\.\.1"):
        order.share(plan, worker=2, num_workers=2)
