"""The order of examples: the same for any number of workers, resumable at any step, each example once an epoch."""

from __future__ import annotations

import collections
import itertools

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from pipeline import manifest as manifest_lib
from pipeline import order, training
from pipeline.errors import InputError
from pipeline.manifest import Shard, Split

OPTIONS = {
    "split": "train",
    "seed": 7,
    "global_batch": 16,
    "image_size": 32,
    "crop_area": (0.5, 1.0),
    "flip": True,
    "cache": "none",
    "shuffle_buffer": 1000,
}


def _split(*counts: int) -> Split:
    shards = tuple(Shard(f"s{i}", count, count, "") for i, count in enumerate(counts))
    return Split(sum(counts), shards)


def _take(digits: str, steps: int, **changed: object) -> list[tuple[bytes, list[int]]]:
    """(pixels, labels) of each batch; pixels tell examples and crops apart."""
    batches = training.batches(digits, manifest_lib.load(digits), **{**OPTIONS, **changed})
    return [(images.numpy().tobytes(), labels.numpy().tolist()) for images, labels in batches.take(steps)]


@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=70),
    global_batch=st.sampled_from([1, 2, 6, 8, 32, 64, 96]),
)
def test_streams_take_each_shard_once_and_divide_the_batch(counts: list[int], global_batch: int) -> None:
    streams = order.deal(_split(*counts), global_batch=global_batch)
    dealt = collections.Counter(shard.file for stream in streams for shard in stream.shards)
    assert dealt == {f"s{i}": 1 for i in range(len(counts))}
    assert len({len(stream.shards) for stream in streams}) == 1
    assert global_batch % len(streams) == 0
    assert len(streams) & (len(streams) - 1) == 0


@given(global_batch=st.sampled_from([8, 16, 64]), workers=st.sampled_from([1, 2, 4, 8]))
def test_workers_share_all_streams(global_batch: int, workers: int) -> None:
    streams = order.deal(_split(*[5] * 8), global_batch=global_batch)
    shares = [order.for_worker(streams, worker=worker, num_workers=workers) for worker in range(workers)]
    assert list(itertools.chain(*shares)) == list(streams)


@pytest.mark.parametrize(
    ("shards", "global_batch", "streams"), [(8, 32, 8), (8, 12, 4), (6, 32, 2), (5, 32, 1), (128, 256, 64)]
)
def test_as_many_streams_as_divide_shards_and_batch(shards: int, global_batch: int, streams: int) -> None:
    assert len(order.deal(_split(*[3] * shards), global_batch=global_batch)) == streams


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
    dealt = order.deal(_split(*counts), global_batch=64)
    assert len(dealt) == streams
    assert all(stream.examples for stream in dealt)
    assert sum(stream.examples for stream in dealt) == sum(counts)


def test_position_is_by_hand() -> None:
    stream = order.Stream(0, (Shard("a", 5, 0, ""), Shard("b", 6, 0, "")))
    # 9 steps at 16 examples from 4 streams take 36 of this one's: three times 11, and 3 more.
    assert order.position(stream, step=9, num_streams=4, global_batch=16) == (3, 3)


@pytest.mark.parametrize("workers", [2, 4, 8])
@pytest.mark.parametrize("shuffle_buffer", [1000, 100, 40])
def test_workers_together_read_what_one_would(digits: str, workers: int, shuffle_buffer: int) -> None:
    options = {**OPTIONS, "shuffle_buffer": shuffle_buffer}
    alone = training.batches(digits, manifest_lib.load(digits), **options)
    shares = [
        training.batches(digits, manifest_lib.load(digits), **options, worker=worker, num_workers=workers)
        for worker in range(workers)
    ]
    # 30 steps are two and a half epochs: the ends of epochs are in it.
    for whole, *parts in zip(alone.take(30), *shares, strict=False):
        tf.debugging.assert_equal(whole[0], tf.concat([part[0] for part in parts], axis=0))
        tf.debugging.assert_equal(whole[1], tf.concat([part[1] for part in parts], axis=0))


@pytest.mark.parametrize("start_step", [1, 12, 13, 29])
@pytest.mark.parametrize("shuffle_buffer", [1000, 40])
def test_resuming_continues_with_what_would_have_come(digits: str, start_step: int, shuffle_buffer: int) -> None:
    uninterrupted = _take(digits, 33, shuffle_buffer=shuffle_buffer)
    assert (
        _take(digits, 33 - start_step, start_step=start_step, shuffle_buffer=shuffle_buffer)
        == (uninterrupted[start_step:])
    )


@pytest.mark.parametrize("shuffle_buffer", [1000, 40])
def test_every_example_once_an_epoch(digits: str, shuffle_buffer: int) -> None:
    manifest = manifest_lib.load(digits)
    examples = manifest.split("train").examples
    # One stream, so that epochs end for all examples at once; with the whole image as crop, pixels name the example.
    plain = {"global_batch": 1, "crop_area": (1.0, 1.0), "flip": False, "shuffle_buffer": shuffle_buffer}
    seen = _take(digits, 2 * examples, **plain)
    first, second = seen[:examples], seen[examples:]
    assert len({pixels for pixels, _ in first}) == examples
    assert collections.Counter(first_label for _, [first_label] in first) == dict(
        enumerate(manifest.class_counts("train"))
    )
    assert sorted(pixels for pixels, _ in first) == sorted(pixels for pixels, _ in second)
    assert first != second


@pytest.mark.parametrize("cache", ["encoded", "decoded"])
def test_a_cache_changes_neither_order_nor_pixels(digits: str, cache: str) -> None:
    assert _take(digits, 30, cache=cache) == _take(digits, 30, cache="none")


def test_the_seed_decides_and_nothing_else(digits: str) -> None:
    tf.random.set_seed(1)
    first = _take(digits, 5)
    tf.random.set_seed(2)
    assert _take(digits, 5) == first
    assert _take(digits, 5, seed=8) != first


def test_what_cannot_be_shared_is_refused() -> None:
    streams = order.deal(_split(*[5] * 8), global_batch=16)
    with pytest.raises(InputError, match="3 workers can't share 8 streams"):
        order.for_worker(streams, worker=0, num_workers=3)
    with pytest.raises(InputError, match="worker index 2"):
        order.for_worker(streams, worker=2, num_workers=2)
    with pytest.raises(InputError, match="global_batch=0"):
        order.deal(_split(5), global_batch=0)
    with pytest.raises(InputError, match="no examples"):
        order.deal(_split(), global_batch=4)
    with pytest.raises(InputError, match="global_batch=10 doesn't divide by 4 replicas"):
        training.check_batch(10, num_replicas=4)
