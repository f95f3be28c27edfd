"""Training input: shards in, an endless sequence of augmented batches out, the same for any number of workers."""

from __future__ import annotations

import functools
import logging

import tensorflow as tf

from pipeline import cache as cache_lib
from pipeline import decode, order, records, storage
from pipeline.errors import InputError
from pipeline.manifest import Manifest

_PARALLEL_SHARDS = 4  # open at once in one stream; streams themselves are read in parallel


def batches(
    directory: str,
    manifest: Manifest,
    *,
    split: str,
    seed: int,
    global_batch: int,
    image_size: int,
    crop_area: tuple[float, float],
    flip: bool,
    cache: str,
    shuffle_buffer: int,
    start_step: int = 0,
    worker: int = 0,
    num_workers: int = 1,
) -> tf.data.Dataset:
    """One worker's share of every global batch from `start_step` on, without end.

    Args:
      directory: the dataset's folder, with the shards that `manifest` names.
      seed: fixes the order and every crop.
      image_size, crop_area, flip: see `decode.random_resized_crop`.
      cache: see `cache.choose`; the choice changes speed, never order or pixels.
      shuffle_buffer: examples that all workers together draw from at random, shared out to the streams. A stream that
        fits is permuted uniformly each epoch; otherwise its shards change places and the buffer mixes within.
      start_step: global steps already taken; continues with exactly the examples that would have come next.

    Returns:
      A dataset of (images uint8 [batch, image_size, image_size, 3], labels int64 [batch]) with static shapes and
      batch = global_batch / num_workers.

    Raises:
      InputError: where workers, streams and global batch don't divide, or the cache can't be had.
    """
    all_streams = order.deal(manifest.split(split), global_batch=global_batch)
    streams = order.for_worker(all_streams, worker=worker, num_workers=num_workers)
    choice = _choose_cache(manifest, split, all_streams, len(streams), cache, shuffle_buffer)
    per_stream = [
        _stream(
            directory,
            stream,
            num_streams=len(all_streams),
            global_batch=global_batch,
            start_step=start_step,
            seed=seed,
            window=max(1, shuffle_buffer // len(all_streams)),
            cache=choice.mode,
        )
        for stream in streams
    ]
    # Block by block instead of one by one: a global batch then is each stream's block, whoever reads it.
    block = global_batch // len(all_streams)
    turns = tf.data.Dataset.range(len(streams)).flat_map(lambda i: tf.data.Dataset.from_tensors(i).repeat(block))
    examples = tf.data.Dataset.choose_from_datasets(per_stream, turns.repeat())
    augment = functools.partial(
        _augment, seed=seed, image_size=image_size, crop_area=crop_area, flip=flip, decoded=choice.mode == "decoded"
    )
    return (
        examples.map(augment, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(global_batch // num_workers, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def _choose_cache(
    manifest: Manifest,
    split: str,
    all_streams: tuple[order.Stream, ...],
    own_streams: int,
    mode: str,
    shuffle_buffer: int,
) -> cache_lib.Choice:
    share = own_streams / len(all_streams)
    choice = cache_lib.choose(
        mode,
        stored_bytes=int(share * sum(shard.bytes for shard in manifest.split(split).shards)),
        decoded_bytes=int(share * 3 * manifest.statistics["pixels"][split]),
        available_bytes=cache_lib.available_bytes(),
        # The buffer is shared out equally to the streams, so the longest one decides what fits.
        examples=max(stream.examples for stream in all_streams) * len(all_streams),
        shuffle_buffer=shuffle_buffer,
    )
    logging.info("input: cache=%s for %s (%s)", choice.mode, split, choice.reason)
    return choice


def _stream(
    directory: str,
    stream: order.Stream,
    *,
    num_streams: int,
    global_batch: int,
    start_step: int,
    seed: int,
    window: int,
    cache: str,
) -> tf.data.Dataset:
    """(place in the global sequence, example) of one stream, epoch after epoch, from `start_step` on."""
    files = [storage.join(directory, shard.file) for shard in stream.shards]
    whole = stream.examples <= window
    if whole:
        kept = _read(tf.constant(files))
        if cache == "decoded":
            kept = kept.map(_parse_and_decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        if cache != "none":
            kept = kept.cache()

    def epoch_examples(epoch: tf.Tensor) -> tf.data.Dataset:
        # Seeds this function's graph only, so that the caller's global seed has no say in the order.
        tf.compat.v1.set_random_seed(seed)
        shuffle_seed = epoch * num_streams + stream.index
        if whole:
            examples = kept
        else:
            examples = _read(tf.random.experimental.stateless_shuffle(files, seed=[seed, shuffle_seed]))
        return examples.shuffle(min(window, stream.examples), seed=shuffle_seed, reshuffle_each_iteration=False)

    epoch, done = order.position(stream, step=start_step, num_streams=num_streams, global_batch=global_batch)
    taken = start_step * (global_batch // num_streams)
    examples = tf.data.Dataset.range(epoch, tf.int64.max).flat_map(epoch_examples).skip(done)
    return examples.enumerate(taken).map(lambda i, example: (i * num_streams + stream.index, example)).prefetch(2)


def _read(files: tf.Tensor) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(files).interleave(
        lambda file: tf.data.TFRecordDataset(file, buffer_size=records.READ_BUFFER_BYTES),
        cycle_length=_PARALLEL_SHARDS,
        num_parallel_calls=_PARALLEL_SHARDS,
        deterministic=True,
    )


def _parse_and_decode(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    example = records.parse(serialized)
    return {"image": decode.decode(example["image"]), "label": example["label"]}


def _augment(
    place: tf.Tensor,
    example: tf.Tensor | dict[str, tf.Tensor],
    *,
    seed: int,
    image_size: int,
    crop_area: tuple[float, float],
    flip: bool,
    decoded: bool,
) -> tuple[tf.Tensor, tf.Tensor]:
    parsed = example if decoded else _parse_and_decode(example)
    image = decode.random_resized_crop(
        parsed["image"], image_size=image_size, area=crop_area, seed=tf.stack([seed, place]), flip=flip
    )
    return image, parsed["label"]


def check_batch(global_batch: int, *, num_replicas: int) -> None:
    """Raises InputError where a global batch can't be shared out equally."""
    if global_batch % num_replicas:
        raise InputError(
            f"global_batch={global_batch} doesn't divide by {num_replicas} replicas: use a multiple of {num_replicas}"
        )
