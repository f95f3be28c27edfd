"""The input's stages, one after the other: shards in, for each stage a dataset that stops right behind it out.

Built from the same functions as `training.batches`, without its shuffling. What else the examination has to know of it
stands in `subject`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from pipeline import order, parallel, reading, records
from pipeline.augmentations.augment import Augment
from pipeline.doctor import costs

READ, PARSE, DECODE, KEPT, CROP, AUGMENT, BATCH, MIX = (
    "read records", "check and parse", "decode and crop", "take from the cache", "crop and resize", "flip and augment",
    costs.SERIAL, "mix images and labels",
)  # fmt: skip
_WINDOW = 64


class Stage(NamedTuple):
    """Everything up to one stage.

    `build(rounds)` goes so many times through all examples, `per` of them to an element, and leaves out what doesn't
    fill the last one.
    """

    name: str
    build: Callable[[tf.Tensor], tf.data.Dataset]
    per: int


@dataclasses.dataclass(frozen=True)
class Way:
    """How a batch is made, in the words of `configs.schema`."""

    image_size: int
    crop_area: tuple[float, float]
    flip: bool
    batch: int
    seed: int
    augment: Augment
    num_classes: int  # this and the next are what mixing needs
    block: int  # examples that a batch takes from one stream


def build(
    reader: reading.Reader, way: Way, *, shards: int, examples: int, cache: str, options: tf.data.Options
) -> tuple[Stage, ...]:
    """The stages of an epoch that reads from storage (`none`), or of a later one from a cache.

    A stage is a map that does all the work up to it in one function, as training does: a map for each would add the
    cost of handing over. The stages share one cache, which is filled here.

    Args:
      reader: of shards 0 to `shards`, which hold `examples`, with this cache.
    """
    pixels = cache in ("decoded", "disk")
    last = tf.constant(-1, tf.int64)
    kept = tf.data.Dataset.range(shards).interleave(
        lambda number: reader.shard(number, last), cycle_length=min(shards, order.MAX_STREAMS)
    )
    if cache != "none":
        consume(kept)

    def source(rounds: tf.Tensor) -> tf.data.Dataset:
        return kept.repeat(rounds).prefetch(way.batch).enumerate().with_options(options)

    def batched(rounds: tf.Tensor) -> tf.data.Dataset:
        # Cut before the work, so that nothing is made for a batch that isn't filled.
        full = source(rounds).take(rounds * examples // way.batch * way.batch)
        return _map(full, _image(reader, way)).batch(way.batch, drop_remainder=True)

    stages = [Stage(READ if cache == "none" else KEPT, source, per=1)]
    for name, function, is_there in (
        (PARSE, lambda place, serialized: (place, records.parse(serialized, ["image", "label"])), not pixels),
        (CROP if pixels else DECODE, _image(reader, dataclasses.replace(way, flip=False, augment=Augment())), True),
        (AUGMENT, _image(reader, way), way.flip or way.augment != Augment()),
    ):
        if is_there:
            stages.append(Stage(name, lambda rounds, function=function: _map(source(rounds), function), per=1))  # type: ignore[misc]
    stages.append(Stage(BATCH, batched, per=way.batch))
    if way.augment.mixes:
        stages.append(Stage(MIX, lambda rounds: _map(batched(rounds), _mix(way)), per=way.batch))
    return tuple(stages)


def _map(dataset: tf.data.Dataset, function: Callable[..., object]) -> tf.data.Dataset:
    return dataset.map(function, num_parallel_calls=parallel.cores(), deterministic=True)


def _image(reader: reading.Reader, way: Way) -> Callable[..., tuple[tf.Tensor, ...]]:
    def make(place: tf.Tensor, example: reading.Element) -> tuple[tf.Tensor, ...]:
        seed = tf.stack([tf.constant(way.seed, tf.int64), place])
        image = reader.crop(example, image_size=way.image_size, area=way.crop_area, seed=seed, flip=way.flip)
        return way.augment.image(image, seed), reader.feature(example, "label"), place

    return make


def _mix(way: Way) -> Callable[..., tuple[tf.Tensor, ...]]:
    def mix(images: tf.Tensor, labels: tf.Tensor, places: tf.Tensor) -> tuple[tf.Tensor, ...]:
        mixed = way.augment.mix(images, labels, places, seed=way.seed, num_classes=way.num_classes, block=way.block)
        return (*mixed, places)

    return mix


def consume(dataset: tf.data.Dataset) -> tf.Tensor:
    """Takes every element of a finite dataset inside TensorFlow and returns how many windows they filled (int64).

    A window takes its elements without a function of Python's or TensorFlow's: 2 us of CPU for each, where `reduce`
    alone takes 35. `skip` and `shard` would be as cheap, but some datasets skip without making what they skip.
    """
    return dataset.window(_WINDOW).reduce(tf.constant(0, tf.int64), lambda windows, _: windows + 1)
