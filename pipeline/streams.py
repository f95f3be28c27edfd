"""The streams as a graph: a plan and shards that can be read go in, examples in the order of training come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from pipeline import order, parallel, reading


def interleaved(
    plan: order.Plan,
    own: Sequence[order.Stream],
    read: reading.ShardFn,
    *,
    nothing: Any,
    seed: int | tf.Tensor,
    start_step: int | tf.Tensor,
    copies: Callable[[tf.data.Dataset, tf.Tensor], tf.Tensor] | None = None,
) -> tf.data.Dataset:
    """Endlessly the blocks of `own` streams in turn, from global step `start_step` on.

    All streams share one graph, whose inputs are rows of tables: building it takes as long for 64 as for one.

    Args:
      seed, start_step: numbers, or integer scalars where one graph serves for several.
      read: from a shard's number, its place among the split's, and from the one that the stream reads next.
      nothing: an example of the type that `read` gives; it never comes out.
      copies: from a window and a seed int64 [2] to how often each of its examples comes, int64 [examples] whose sum is
        their number; None for once each.
    """
    first_index = own[0].index
    shards = tf.constant([plan.numbers([stream]) for stream in own], tf.int64)
    counts = tf.constant([[shard.examples for shard in stream.shards] for stream in own], tf.int64)
    examples = tf.constant([stream.examples for stream in own], tf.int64)
    first_epochs = tf.cast(start_step, tf.int64) * plan.block // examples
    taken = tf.cast(start_step, tf.int64) * plan.block % examples
    seeds = tf.stack([tf.cast(seed, tf.int64), 0])

    @parallel.as_it_is
    def stream(row: tf.Tensor) -> tf.data.Dataset:
        def epoch_examples(epoch: tf.Tensor) -> tf.data.Dataset:
            return _epoch(
                read,
                nothing=nothing,
                shards=shards[row],
                counts=counts[row],
                window=plan.window,
                done=tf.where(epoch == first_epochs[row], taken[row], tf.zeros([], tf.int64)),
                seed=tf.random.fold_in(tf.random.fold_in(seeds, first_index + row), epoch),
                copies=copies,
            )

        return tf.data.Dataset.range(first_epochs[row], tf.int64.max).flat_map(epoch_examples)

    return tf.data.Dataset.range(len(own)).interleave(stream, cycle_length=len(own), block_length=plan.block)


def _epoch(
    read: reading.ShardFn,
    *,
    nothing: Any,
    shards: tf.Tensor,
    counts: tf.Tensor,
    window: int,
    done: tf.Tensor,
    seed: tf.Tensor,
    copies: Callable[[tf.data.Dataset, tf.Tensor], tf.Tensor] | None,
) -> tf.data.Dataset:
    """One stream's epoch, less its first `done` examples."""
    places = tf.random.experimental.stateless_shuffle(tf.range(tf.size(shards)), seed=seed)
    ends = tf.cumsum(tf.gather(counts, places))
    zero = tf.constant(0, tf.int64)
    # An epoch's first window is of random length, if the stream has several. So windows hold other neighbours each
    # epoch, and streams, which advance in step, don't all read a window at the same moment.
    draw = tf.random.stateless_uniform([], tf.random.fold_in(seed, -1), 1, window + 1, tf.int64)
    first_window = tf.where(ends[-1] <= window, tf.constant(window, tf.int64), draw)
    # The window that the next example stands in, and the shard that this window begins in.
    number = tf.where(done < first_window, zero, 1 + (done - first_window) // window)
    begin = tf.where(number == 0, zero, first_window + (number - 1) * window)
    skipped = tf.searchsorted(ends, begin[tf.newaxis], side="right")[0]
    before = tf.concat([zero[tf.newaxis], ends], axis=0)[skipped]
    files = tf.gather(shards, places[skipped:])
    following = tf.concat([files[1:], [tf.constant(-1, tf.int64)]], axis=0)
    records = tf.data.Dataset.from_tensor_slices((files, following)).flat_map(read).skip(begin - before)

    # Windows are equally long: what the first one lacks stands before it and is skipped again.
    lacking = tf.where(number == 0, window - first_window, zero)
    padding = tf.data.Dataset.from_tensors(nothing).repeat(lacking)

    def permuted(index: tf.Tensor, examples: tf.data.Dataset | dict[str, tf.data.Dataset]) -> tf.data.Dataset:
        window_seed = tf.random.fold_in(seed, number + index)
        if isinstance(examples, dict):  # of elements with several parts, a window is a dataset of each
            examples = tf.data.Dataset.zip(examples)
        examples = examples.skip(tf.where(index == 0, lacking, zero))
        if copies is not None:
            repeats = copies(examples, window_seed)
            examples = examples.enumerate().flat_map(
                lambda i, example: tf.data.Dataset.from_tensors(example).repeat(repeats[i])
            )
        # This function's graph only: else the caller's global seed would have a say in the order.
        tf.compat.v1.set_random_seed(1)
        shuffle_seed = tf.random.stateless_uniform([], window_seed, minval=None, maxval=None, dtype=tf.int64)
        return examples.shuffle(window, seed=shuffle_seed, reshuffle_each_iteration=False)

    windows = padding.concatenate(records).window(window).enumerate()
    return windows.flat_map(permuted).skip(done - begin)
