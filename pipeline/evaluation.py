"""Evaluation input: a split's shards in, every example exactly once out, on any number of workers, in static shapes."""

from __future__ import annotations

import math

import tensorflow as tf

from pipeline import decode, records, storage
from pipeline.manifest import Manifest


def num_steps(examples: int, *, batch: int, num_workers: int) -> int:
    """Steps that every worker takes: those of the worker with the largest part."""
    return math.ceil(math.ceil(examples / num_workers) / batch)


def batches(
    directory: str,
    manifest: Manifest,
    *,
    split: str,
    batch: int,
    image_size: int,
    crop_fraction: float,
    worker: int = 0,
    num_workers: int = 1,
) -> tf.data.Dataset:
    """This worker's part of `split`, padded so that all workers take equally many steps.

    Args:
      directory: the dataset's folder, with the shards that `manifest` names.
      batch: examples a step on this worker.
      image_size, crop_fraction: see `decode.central_crop`.

    Returns:
      A finite dataset of (images uint8 [batch, image_size, image_size, 3], labels int64 [batch], mask bool [batch]);
      padding is black, has label 0 and mask False. Examples come in the order they are stored in.
    """
    files = [storage.join(directory, shard.file) for shard in manifest.split(split).shards]

    def prepare(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        example = records.parse(serialized)
        image = decode.central_crop(decode.decode(example["image"]), image_size=image_size, crop_fraction=crop_fraction)
        return image, example["label"], tf.constant(True)

    padding = tf.data.Dataset.from_tensors(
        (tf.zeros([image_size, image_size, 3], tf.uint8), tf.constant(0, tf.int64), tf.constant(False))
    )
    steps = num_steps(manifest.split(split).examples, batch=batch, num_workers=num_workers)
    return (
        tf.data.TFRecordDataset(files, buffer_size=records.READ_BUFFER_BYTES)
        .shard(num_workers, worker)
        .map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .concatenate(padding.repeat())
        .take(steps * batch)
        .batch(batch, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )
