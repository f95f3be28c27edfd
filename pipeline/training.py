"""Training input: shards in, an endless sequence of augmented batches out, the same for any number of workers."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from pipeline import cache as cache_lib
from pipeline import decoded, order, parallel, reading, shards, storage, streams
from pipeline import sampling as sampling_lib
from pipeline.augmentations.augment import Augment
from pipeline.batches import Batches, path
from pipeline.errors import InputError
from pipeline.manifest import Manifest

_PREFETCHED_BATCHES = 2  # one being taken and one ready; more would only take memory


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
    shuffle_mib: float,
    cache_dir: str | None = None,
    cache_gib: float | None = None,
    sampling: str = "none",
    augment: Augment | None = None,
    start_step: int = 0,
    worker: int = 0,
    num_workers: int = 1,
    host: parallel.Host | None = None,
) -> Batches:
    """One worker's share of every global batch from `start_step` on, without end.

    Args:
      directory: the dataset's folder, with the shards that `manifest` names.
      seed: fixes the order and every crop.
      image_size, crop_area, flip: see `decode.random_resized_crop`.
      cache: see `cache.choose`; the choice changes speed, never order or pixels.
      cache_dir, cache_gib: where copies of remote shards and decoded ones may be kept, and how much of them; see
        `shards.Opener`.
      shuffle_mib, sampling: see `order.plan` and `sampling.class_weights`.
      augment: what is done to crops and batches, None for nothing.
      start_step: global steps already taken; continues with exactly the examples that would have come next.
      host: the one that is to run the dataset in another process, None for this process. Its cores and memory count.
        What hashes shards and keeps copies on a local disk is Python, and only a graph gets there: shards' examples are
        only counted, and nothing is kept on disks.

    Returns:
      Of (images uint8 [batch, image_size, image_size, 3], labels, places int64 [batch]) with static shapes and batch =
      global_batch / num_workers. Labels are int64 [batch], or float32 [batch, classes] where examples are mixed. An
      example's place in the sequence of all is the same whoever reads it, and seeds what is random about it.

    Raises:
      InputError: where workers don't divide the global batch, or the streams of a batch that is mixed, or the cache
        can't be had.
    """
    augment = augment or Augment()
    plan = make_plan(
        manifest,
        split=split,
        global_batch=global_batch,
        shuffle_mib=shuffle_mib,
        sampling=sampling,
        mixes=augment.mixes,
    )
    own, taken = order.share(plan, worker=worker, num_workers=num_workers)
    if augment.mixes and len(taken) % plan.block:
        raise InputError(
            f"mixup and cutmix find an example's partner in its block, and {num_workers} workers can't share "
            f"{len(plan.streams)} of them equally: leave both 0, or use a number of workers that divides it"
        )
    if host and (cache == "disk" or cache_dir is not None or cache_gib is not None):
        raise InputError(
            "an input service keeps nothing on disk: leave input.cache_dir and input.cache_gib None, and choose "
            f"another input.cache than disk (it is {cache})"
        )
    cache_bytes = None if cache_gib is None else int(cache_gib * 2**30)
    disk_bytes = None
    if cache == "disk" or (cache == "auto" and (cache_dir is not None or cache_gib is not None)):
        # A remote shard lies there beside its images while it is decoded.
        beside = 0 if storage.is_local(directory) else max(shard.bytes for shard in manifest.split(split).shards)
        disk_bytes = shards.cache_bound(cache_dir, cache_bytes) - beside
    choice = _choose_cache(manifest, split, len(own) / len(plan.streams), cache, disk_bytes, host)
    logging.info("input: cache=%s for %s (%s)", choice.mode, split, choice.reason)
    if cache == "auto" and choice.mode != "disk" and storage.is_local(directory):
        cache_dir = cache_bytes = None  # they were there to choose from
    opener, cores = None, host.cores if host else parallel.cores()
    if not host:
        opener = shards.Opener(
            directory,
            manifest.split(split).shards,
            cache_dir=cache_dir,
            cache_bytes=cache_bytes,
            decoded=choice.mode == "disk",
            open_at_once=len(own),
        )
    reader = _reader(choice.mode, directory, manifest, split, opener, plan.numbers(own), cores)

    @parallel.as_it_is
    def prepare(index: tf.Tensor, example: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        place = place_of(index, plan, own, start_step=start_step)
        image_seed = tf.stack([tf.constant(seed, tf.int64), place])
        image = reader.crop(example, image_size=image_size, area=crop_area, seed=image_seed, flip=flip)
        return augment.image(image, image_seed), reader.feature(example, "label"), place

    @parallel.as_it_is
    def mix(images: tf.Tensor, labels: tf.Tensor, places: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        classes = len(manifest.classes)
        mixed = augment.mix(images, labels, places, seed=seed, num_classes=classes, block=plan.block)
        return *mixed, places

    examples = _examples(manifest, split, plan, own, reader, seed=seed, sampling=sampling, start_step=start_step)
    dataset = (
        _taken(examples.prefetch(global_batch // num_workers).enumerate(), plan, own, taken)  # read while cores decode
        .map(prepare, num_parallel_calls=cores, deterministic=True)
        .batch(global_batch // num_workers, drop_remainder=True)
    )
    if augment.mixes:
        dataset = dataset.map(mix, num_parallel_calls=cores, deterministic=True)
    return Batches(dataset.prefetch(_PREFETCHED_BATCHES).with_options(parallel.options(host)), opener)


def sample_ids(
    directory: str,
    manifest: Manifest,
    *,
    split: str,
    seed: int | tf.Tensor,
    global_batch: int,
    shuffle_mib: float,
    sampling: str = "none",
    mixes: bool = False,
    start_step: int | tf.Tensor = 0,
    worker: int = 0,
    num_workers: int = 1,
    cache_dir: str | None = None,
    cache_gib: float | None = None,
) -> tf.data.Dataset:
    """The `id` of every example that `batches` would give, string [batch]; for tests and audits, without decoding.

    Shards on a local disk are not verified; others pass through the cache of these settings, as in `batches`.
    """
    plan = make_plan(
        manifest, split=split, global_batch=global_batch, shuffle_mib=shuffle_mib, sampling=sampling, mixes=mixes
    )
    own, taken = order.share(plan, worker=worker, num_workers=num_workers)
    opener = None
    if not storage.is_local(directory):
        cache_bytes = None if cache_gib is None else int(cache_gib * 2**30)
        opener = shards.Opener(
            directory,
            manifest.split(split).shards,
            cache_dir=cache_dir,
            cache_bytes=cache_bytes,
            open_at_once=len(own),
        )
    reader = _reader("none", directory, manifest, split, opener, plan.numbers(own))
    examples = _examples(manifest, split, plan, own, reader, seed=seed, sampling=sampling, start_step=start_step)
    examples = _taken(examples.enumerate(), plan, own, taken)
    ids = examples.map(parallel.as_it_is(lambda index, example: reader.feature(example, "id")))
    return ids.batch(global_batch // num_workers, drop_remainder=True).with_options(parallel.options())


def make_plan(
    manifest: Manifest, *, split: str, global_batch: int, shuffle_mib: float, sampling: str, mixes: bool
) -> order.Plan:
    """The streams of a split and how they are read; see `batches` for the arguments."""
    return order.plan(
        manifest.split(split),
        global_batch=global_batch,
        shuffle_mib=shuffle_mib,
        least_block=2 if mixes else 1,  # a mixed example's partner comes from its own block
        least_window=1 if sampling == "none" else sampling_lib.LEAST_WINDOW,
    )


def _choose_cache(
    manifest: Manifest, split: str, share: float, mode: str, disk_bytes: int | None, host: parallel.Host | None
) -> cache_lib.Choice:
    stored = manifest.split(split)
    pixels = manifest.statistics["pixels"][split]
    size_bytes = decoded.estimated_bytes(examples=stored.examples, pixels=pixels, shards=len(stored.shards))
    return cache_lib.choose(
        mode,
        stored_bytes=int(share * sum(shard.bytes for shard in stored.shards)),
        decoded_bytes=int(share * size_bytes),
        available_bytes=host.available_bytes if host else cache_lib.available_bytes(),
        disk_bytes=disk_bytes,
    )


def _reader(
    cache: str,
    directory: str,
    manifest: Manifest,
    split: str,
    opener: shards.Opener | None,
    numbers: Sequence[int],
    cores: int | None = None,
) -> reading.Reader:
    counts = [shard.examples for shard in manifest.split(split).shards]
    return reading.make(cache, paths(directory, manifest, split, opener), counts, numbers, cores)


def paths(directory: str, manifest: Manifest, split: str, opener: shards.Opener | None) -> reading.PathFn:
    """The files of a split's shards: as `opener` hands them out, or where they are, unverified."""
    if opener is None:
        files = tf.constant([storage.join(directory, shard.file) for shard in manifest.split(split).shards])
        return lambda number, _: files[number]

    return functools.partial(path, opener)


def _examples(
    manifest: Manifest,
    split: str,
    plan: order.Plan,
    own: Sequence[order.Stream],
    reader: reading.Reader,
    *,
    seed: int | tf.Tensor,
    sampling: str,
    start_step: int | tf.Tensor,
) -> tf.data.Dataset:
    weights = sampling_lib.class_weights(sampling, manifest.class_counts(split))

    def copies(examples: tf.data.Dataset, window_seed: tf.Tensor) -> tf.Tensor:
        labels = examples.map(lambda example: reader.feature(example, "label")).batch(plan.window)
        return sampling_lib.copies(labels.get_single_element(), weights, seed=window_seed)

    return streams.interleaved(
        plan,
        own,
        reader.shard,
        nothing=reader.nothing,
        seed=seed,
        start_step=start_step,
        copies=None if sampling == "none" else copies,
    )


def _taken(examples: tf.data.Dataset, plan: order.Plan, own: Sequence[order.Stream], taken: range) -> tf.data.Dataset:
    """Of (index, example), what this worker takes of each step; see `order.share`."""
    in_step = plan.block * len(own)
    if len(taken) == in_step:
        return examples

    @parallel.as_it_is
    def is_taken(index: tf.Tensor, example: Any) -> tf.Tensor:
        return (index % in_step >= taken.start) & (index % in_step < taken.stop)

    return examples.filter(is_taken)


def place_of(index: tf.Tensor, plan: order.Plan, own: Sequence[order.Stream], *, start_step: int) -> tf.Tensor:
    """Of the worker's example number `index` since `start_step` in the sequence of all workers' examples."""
    local_batch = plan.block * len(own)
    step, within = start_step + index // local_batch, index % local_batch
    stream, turn = own[0].index + within // plan.block, step * plan.block + within % plan.block
    return turn * len(plan.streams) + stream


def check_batch(global_batch: int, *, num_replicas: int) -> None:
    """Raises InputError where a global batch can't be shared out equally."""
    if global_batch % num_replicas:
        raise InputError(
            f"global_batch={global_batch} doesn't divide by {num_replicas} replicas: use a multiple of {num_replicas}"
        )
