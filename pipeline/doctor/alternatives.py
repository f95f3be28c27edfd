"""Other settings to try beside those configured: the settings in, shards and ways of making images from them out."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf

from pipeline import cache as cache_lib
from pipeline import images, reading, records, storage
from pipeline.doctor import stages
from pipeline.doctor.advice import Alternative
from pipeline.doctor.subject import Subject
from pipeline.errors import InputError
from pipeline.formats import ImageError
from pipeline.manifest import Manifest, Split

_SCALED_DOWN = 256  # images stored smaller to see what that saves; each is encoded here, at some 5 ms of CPU
_SIDES = 32  # what sizes are multiples of: backbones halve five times
_SMALLER = 0.75  # of image_size: a bit over half of the pixels


class Trial(NamedTuple):
    alternative: Alternative  # without its cost, which is NaN
    reader: reading.Reader
    shards: int
    examples: int
    way: stages.Way
    cache: str


def trials(subject: Subject, sample: Split, *, cache: str, available_bytes: int, folder: str) -> Iterator[Trial]:
    """What may be worth a try; shards that are written for it go to `folder`.

    Args:
      sample: the shards that the stages are measured on.
      cache: the one in force, resolved.
      available_bytes: free memory, of which a cache may take `cache_lib.MEMORY_SHARE`.
    """
    way, shards, examples = subject.way, len(sample.shards), sample.examples
    for mode, size in (("decoded", subject.decoded_bytes), ("encoded", subject.stored_bytes)):
        if mode == cache or size > cache_lib.MEMORY_SHARE * available_bytes or not _allowed(subject, mode):
            continue
        price = f"The {mode} split takes {size / 2**20:,.0f} MiB of the {available_bytes / 2**20:,.0f} MiB free."
        yield Trial(
            _untried(_in_memory(subject, mode), price, "nothing"),
            subject.reader(sample, mode),
            shards,
            examples,
            way,
            mode,
        )

    augment = way.augment
    if augment.policy in ("randaugment", "trivialaugment") and not augment.in_step and not augment.cutmix:
        price = "The accelerator does it then, in the training step: see that the step gets no slower than this saves."
        alternative = _untried("--config.augment.where=step", price, "step")
        in_step = dataclasses.replace(way, augment=dataclasses.replace(augment, where="step"))
        yield Trial(alternative, subject.reader(sample, cache), shards, examples, in_step, cache)

    # What evaluation looks at: below it, the test images would have to be enlarged.
    side = math.ceil(way.image_size / subject.input["crop_fraction"] / _SIDES) * _SIDES
    smaller = f"{folder}/smaller.tfrecord"
    if count := store_smaller(subject.files(sample), smaller, subject.manifest, side):
        price = (
            f"Prepare the dataset again with it: {side} pixels are enough for evaluation at {way.image_size}, and what "
            "is scaled away never comes back."
        )
        # From disk it would be decoded before: memory is the nearest to that without another folder.
        kept = "decoded" if cache == "disk" else cache
        reader = reading.make(kept, lambda number, following: tf.constant(smaller), [count], range(1))
        yield Trial(_untried(f"--shorter_side={side}", price, "pixels"), reader, 1, count, way, kept)

    reduced = max(_SIDES, int(way.image_size * _SMALLER) // _SIDES * _SIDES)
    if reduced < way.image_size:
        price = "It makes the model's own work less too, and its accuracy another: train both before you decide."
        alternative = _untried(f"--config.input.image_size={reduced}", price, "model")
        reduced_way = dataclasses.replace(way, image_size=reduced)
        yield Trial(alternative, subject.reader(sample, cache), shards, examples, reduced_way, cache)


def _untried(setting: str, price: str, changes: str) -> Alternative:
    return Alternative(setting, math.nan, price, changes)


def _in_memory(subject: Subject, cache: str) -> str:
    """The flags for this cache; training refuses a local dataset with settings of a cache on disk beside it."""
    of_disk = ("cache_dir", "cache_gib") if storage.is_local(subject.data) else ()
    cleared = (f" --config.input.{name}=None" for name in of_disk if subject.input[name] is not None)
    return f"--config.input.cache={cache}{''.join(cleared)}"


def _allowed(subject: Subject, cache: str) -> bool:
    try:
        subject.batches(cache=cache)
    except InputError:
        return False
    return True


def _stored(files: Sequence[str]) -> Iterator[records.Record]:
    """Records of these shards, no more than are asked for: what is read here is in memory when it is measured."""
    for file in files:
        with storage.open_file(file) as opened:
            try:
                yield from map(records.deserialize, records.read_framed(opened))
            except ValueError as error:
                raise InputError(f"{file}: {error}; copy it again") from error


def store_smaller(files: Sequence[str], path: str, manifest: Manifest, side: int) -> int:
    """Writes the first examples to one shard as preparation would with `--shorter_side`.

    Returns:
      How many; 0 where it changes nothing, or where one can't be decoded, which measuring says in more words.

    Raises:
      InputError: naming the shard that is damaged.
    """
    storing = images.Storing(**{**manifest.settings["storing"], "shorter_side": side})
    count = changed = 0
    with pathlib.Path(path).open("wb") as stream:
        for record in itertools.islice(_stored(files), _SCALED_DOWN):
            try:
                stored = images.standardize(record.image, storing)
            except ImageError:
                return 0
            records.write_framed(stream, records.serialize(dataclasses.replace(record, image=stored.data)))
            count += 1
            changed += not stored.kept
    return count if changed else 0
