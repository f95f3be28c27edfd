"""A shard's number in, its examples out: from its file each time, or kept in memory after the first.

What is kept stays with its shard, since epochs take shards in another order each time; so a cache changes no order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from pipeline import decode, decoded, parallel, records

# Serialized; or the image's pixels or where they are, with its label, where decoded images are kept.
Element = tf.Tensor | dict[str, tf.Tensor]


_DECODED = {"image": tf.TensorSpec([None, None, 3], tf.uint8), "label": tf.TensorSpec([], tf.int64)}


# Of a shard's number and of the one that will be read next, -1 for none; both int64.
ShardFn = Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset]
PathFn = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class Reader(NamedTuple):
    """One kind of cache: how a shard is read, and what can be asked of its elements."""

    shard: ShardFn
    nothing: Any  # of an element's type
    feature: Callable[[Any, str], tf.Tensor]  # "label" of an element, or "id" of one that is serialized
    crop: Callable[..., tf.Tensor]  # (element, **keywords of decode.random_resized_crop) to its crop


def make(cache: str, path: PathFn, counts: Sequence[int], numbers: Sequence[int], cores: int | None = None) -> Reader:
    """A reader of the shards with these numbers.

    Args:
      counts: how many examples each shard of the split holds; one that is cut between two records while it is open
        ends without an error of its own.
      cache: none, encoded, decoded or disk; see `cache.choose`.
      path: the file of a shard (a decoded one for `disk`), called each time one is opened.
      cores: of the host that reads, None for this one.
    """

    def stored(number: tf.Tensor, following: tf.Tensor) -> tf.data.Dataset:
        # Opened when it is read and not when it is made: shards that are kept are all made at the start.
        found = tf.data.Dataset.from_tensors((number, following)).flat_map(
            parallel.as_it_is(
                lambda *shard: tf.data.TFRecordDataset(path(*shard), buffer_size=records.READ_BUFFER_BYTES)
            )
        )
        return found.apply(tf.data.experimental.assert_cardinality(tf.constant(counts, tf.int64)[number]))

    if cache == "decoded":
        return Reader(
            _kept(
                lambda *shard: stored(*shard).map(
                    _decoded, num_parallel_calls=cores or parallel.cores(), deterministic=True
                ),
                numbers,
                _DECODED,
            ),
            {"image": tf.zeros([0, 0, 3], tf.uint8), "label": tf.constant(0, tf.int64)},
            lambda example, name: example[name],
            lambda example, **how: decode.random_resized_crop(example["image"], **how),
        )
    if cache == "disk":
        return Reader(
            lambda number, following: decoded.index(path(number, following)),
            {"path": tf.constant(""), "label": tf.constant(0, tf.int64), "where": tf.zeros([3], tf.int64)},
            lambda example, name: example[name],
            lambda example, **how: decode.random_resized_crop(decoded.read(example)["image"], **how),
        )
    return Reader(
        _kept(stored, numbers, tf.TensorSpec([], tf.string)) if cache == "encoded" else stored,
        tf.constant(""),
        lambda serialized, name: records.parse(serialized, [name])[name],
        lambda serialized, **how: decode.random_resized_crop_encoded(
            records.parse(serialized, ["image"])["image"], **how
        ),
    )


@parallel.as_it_is
def _decoded(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    example = records.parse(serialized, ["image", "label"])
    return {**example, "image": decode.decode(example["image"])}


def _kept(shard: ShardFn, numbers: Sequence[int], spec: Any) -> ShardFn:
    """`shard`, whose datasets are made once and keep what they have read.

    A dataset made inside a function forgets with it, so they are made here and handed in as values.
    """
    nothing = tf.constant(-1, tf.int64)
    # Traced once, and not for each shard.
    traced = tf.function(lambda number: tf.data.experimental.to_variant(shard(number, nothing)), autograph=False)

    def kept(number: int) -> tf.Tensor:
        dataset = tf.data.experimental.from_variant(traced(tf.constant(number, tf.int64)), spec)
        return tf.data.experimental.to_variant(dataset.cache())

    variants = tf.stack([kept(number) for number in numbers])
    rows = tf.scatter_nd([[number] for number in numbers], tf.range(len(numbers)), [max(numbers) + 1])
    return lambda number, _: tf.data.experimental.from_variant(variants[rows[number]], spec)
