"""Evaluation input: a split's shards in, every example exactly once out, on any number of workers, in static shapes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf

from pipeline import decode, parallel, records, shards, storage
from pipeline.batches import Batches, path
from pipeline.errors import InputError
from pipeline.manifest import Manifest, Shard

_PREFETCHED_BATCHES = 2  # one being taken and one ready


class Part(NamedTuple):
    """What one worker evaluates: `examples` in stored order, behind the first `skipped` of `shards`."""

    shards: tuple[Shard, ...]
    skipped: int  # examples of the first shard that the worker before takes
    examples: int


def num_steps(examples: int, *, batch: int, num_workers: int) -> int:
    """Steps that every worker takes: those of the worker with the largest part."""
    return math.ceil(math.ceil(examples / num_workers) / batch)


def part(stored: Sequence[Shard], *, worker: int, num_workers: int) -> Part:
    """The part of `worker` (0-based): a range of the stored order, so that it reads no shards but its own.

    All examples stand in exactly one part, and parts differ by one example at most. A shard on the border of two parts
    is read by both; with more workers than examples some parts are empty.

    Raises:
      InputError: where there is no such worker.
    """
    if not 0 <= worker < num_workers:
        raise InputError(f"worker index {worker} is outside 0..{num_workers - 1}")
    examples = sum(shard.examples for shard in stored)
    begin, end = (examples * border // num_workers for border in (worker, worker + 1))
    own: list[Shard] = []
    skipped = first = 0
    for shard in stored:
        if max(begin, first) < min(end, first + shard.examples):
            if not own:
                skipped = begin - first
            own.append(shard)
        first += shard.examples
    return Part(tuple(own), skipped, end - begin)


def batches(
    directory: str,
    manifest: Manifest,
    *,
    split: str,
    batch: int,
    image_size: int,
    crop_fraction: float,
    cache_dir: str | None = None,
    cache_gib: float | None = None,
    worker: int = 0,
    num_workers: int = 1,
) -> Batches:
    """This worker's part of `split`, padded so that all workers take equally many steps.

    Args:
      directory: the dataset's folder, with the shards that `manifest` names.
      batch: examples a step on this worker.
      image_size, crop_fraction: see `decode.central_crop`.
      cache_dir, cache_gib: where copies of remote shards go, see `shards.Opener`; a local dataset has none.

    Returns:
      Finite: of (images uint8 [batch, image_size, image_size, 3], labels int64 [batch], mask bool [batch]);
      padding is black, has label 0 and mask False. Examples come in the order they are stored in.

    Raises:
      InputError: where there is no such worker; from the iterator, naming shard or image, where one can't be read.
    """
    own = part(manifest.split(split).shards, worker=worker, num_workers=num_workers)

    @parallel.as_it_is
    def prepare(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        example = records.parse(serialized)
        image = decode.central_crop_encoded(example["image"], image_size=image_size, crop_fraction=crop_fraction)
        return image, example["label"], tf.constant(True)

    padding = tf.data.Dataset.from_tensors(
        (tf.zeros([image_size, image_size, 3], tf.uint8), tf.constant(0, tf.int64), tf.constant(False))
    )
    steps = num_steps(manifest.split(split).examples, batch=batch, num_workers=num_workers)
    opener = _opener(directory, own.shards, cache_dir, cache_gib)
    numbers = tf.data.Dataset.range(len(own.shards))
    following = [*range(1, len(own.shards)), -1][: len(own.shards)]

    @parallel.as_it_is
    def read(number: tf.Tensor, following: tf.Tensor) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(path(opener, number, following), buffer_size=records.READ_BUFFER_BYTES)

    dataset = (
        tf.data.Dataset.zip(numbers, tf.data.Dataset.from_tensor_slices(tf.constant(following, tf.int64)))
        .flat_map(read)
        .skip(own.skipped)
        .take(own.examples)
        # A shard cut between two records ends without an error; without this, padding would stand in for the rest.
        .apply(tf.data.experimental.assert_cardinality(own.examples))
        .map(prepare, num_parallel_calls=parallel.cores(), deterministic=True)
        .concatenate(padding.repeat(steps * batch - own.examples))
        .batch(batch, drop_remainder=True)
        .prefetch(_PREFETCHED_BATCHES)
    )
    return Batches(dataset.with_options(parallel.options()), opener)


class Identities(NamedTuple):
    """Of a split's examples, in stored order; see `records.Record`."""

    ids: tuple[str, ...]
    files: tuple[str, ...]
    groups: tuple[str, ...]


def identities(
    directory: str,
    manifest: Manifest,
    *,
    split: str,
    cache_dir: str | None = None,
    cache_gib: float | None = None,
) -> Identities:
    """Reads who the examples of a split are, in the order of one worker's `batches`; arguments as there.

    Raises:
      InputError: naming the shard that can't be read.
    """
    read = _read(directory, manifest.split(split).shards, cache_dir, cache_gib)
    found = [(record.id, record.file, record.group) for record in read]
    return Identities(*zip(*found, strict=True)) if found else Identities((), (), ())


def records_at(
    directory: str,
    manifest: Manifest,
    *,
    split: str,
    positions: Sequence[int],
    cache_dir: str | None = None,
    cache_gib: float | None = None,
) -> list[records.Record]:
    """Reads some examples of a split by their places in the stored order, from no shards but those that hold them.

    Args:
      positions: from 0 on, in any order; what comes back is in that order.
      directory, cache_dir, cache_gib: see `batches`.

    Raises:
      IndexError: for a position outside of the split.
      InputError: naming the shard that can't be read.
    """
    stored, wanted = manifest.split(split).shards, set(positions)
    borders = [0, *itertools.accumulate(shard.examples for shard in stored)]
    if wanted and not 0 <= min(wanted) <= max(wanted) < borders[-1]:
        raise IndexError(f"positions {min(wanted)} to {max(wanted)} of {borders[-1]} examples")
    within = [range(*pair) for pair in itertools.pairwise(borders)]
    holding = [number for number, places in enumerate(within) if not wanted.isdisjoint(places)]
    read = _read(directory, [stored[number] for number in holding], cache_dir, cache_gib)
    places = itertools.chain.from_iterable(within[number] for number in holding)
    found = {place: record for place, record in zip(places, read, strict=True) if place in wanted}
    return [found[position] for position in positions]


def _read(
    directory: str, stored: Sequence[Shard], cache_dir: str | None, cache_gib: float | None
) -> Iterator[records.Record]:
    """Every record of these shards."""
    opener = _opener(directory, stored, cache_dir, cache_gib)
    try:
        for number, shard in enumerate(stored):
            with open(opener.open(number), "rb") as stream:
                try:
                    yield from map(records.deserialize, records.read_framed(stream))
                except ValueError as error:
                    raise InputError(f"{storage.join(directory, shard.file)}: {error}; copy it again") from error
    finally:
        opener.close()


def _opener(directory: str, stored: Sequence[Shard], cache_dir: str | None, cache_gib: float | None) -> shards.Opener:
    if storage.is_local(directory):
        cache_dir = cache_gib = None  # meant for the decoded images to train on
    cache_bytes = None if cache_gib is None else int(cache_gib * 2**30)
    return shards.Opener(directory, stored, cache_dir=cache_dir, cache_bytes=cache_bytes, open_at_once=1)
