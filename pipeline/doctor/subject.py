"""What is examined: a dataset's folder and an experiment's settings in; what training makes of them out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from pipeline import cache as cache_lib
from pipeline import decoded, diagnosis, order, reading, shards, storage, training
from pipeline.augmentations.augment import Augment
from pipeline.batches import Batches
from pipeline.doctor.findings import Shuffle
from pipeline.doctor.stages import Way
from pipeline.manifest import Manifest, Split


@dataclasses.dataclass(frozen=True)
class Subject:
    """The dataset in the folder `data`, and an experiment's settings for its input.

    Attributes:
      input: the fields of `configs.schema.Input`.
      openers: of the readers made so far; those of the same shards and files share one.
    """

    data: str
    manifest: Manifest
    split: str
    seed: int
    global_batch: int
    input: Mapping[str, Any]
    augment: Augment
    openers: dict[tuple[Split, bool], shards.Opener] = dataclasses.field(default_factory=dict)

    @property
    def part(self) -> Split:
        return self.manifest.split(self.split)

    @property
    def plan(self) -> order.Plan:
        return training.make_plan(
            self.manifest,
            split=self.split,
            global_batch=self.global_batch,
            shuffle_mib=self.input["shuffle_mib"],
            sampling=self.input["sampling"],
            mixes=self.augment.mixes,
        )

    @property
    def way(self) -> Way:
        return Way(
            self.input["image_size"],
            tuple(self.input["crop_area"]),
            self.input["flip"],
            self.global_batch,
            self.seed,
            self.augment,
            len(self.manifest.classes),
            self.plan.block,
        )

    @property
    def stored_bytes(self) -> int:
        return sum(shard.bytes for shard in self.part.shards)

    @property
    def decoded_bytes(self) -> int:
        return decoded.estimated_bytes(examples=self.part.examples, pixels=self.pixels, shards=len(self.part.shards))

    @property
    def pixels(self) -> int:
        return int(self.manifest.statistics["pixels"][self.split])

    def files(self, part: Split) -> list[str]:
        return [storage.join(self.data, shard.file) for shard in part.shards]

    def reader(self, part: Split, cache: str) -> reading.Reader:
        """Of a part's shards, verified and kept as training does."""
        key = (part, cache == "disk")
        if key not in self.openers:
            self.openers[key] = self._opener(*key)
        paths = training.paths(self.data, self._with(part), self.split, self.openers[key])
        return reading.make(cache, paths, [shard.examples for shard in part.shards], range(len(part.shards)))

    def explain(self, error: Exception) -> Exception:
        """Why one of the readers made so far failed, see `diagnosis.explain`."""
        for opener in sorted(self.openers.values(), key=lambda opener: opener.failure is None):  # what is known first
            if (found := diagnosis.explain(error, opener=opener)) is not error:
                return found
        return error

    def batches(self, *, cache: str, part: Split | None = None) -> Batches:
        """What training reads, from its first step on.

        Args:
          cache: instead of the configured one.
          part: shards to read instead of all of the split's.

        Raises:
          InputError: as `training.batches` does.
        """
        others = {name: value for name, value in self.input.items() if name not in ("cache", "crop_fraction")}
        if cache != self.input["cache"] and cache != "disk" and storage.is_local(self.data):
            others |= {"cache_dir": None, "cache_gib": None}  # they belong to the configured cache
        return training.batches(
            self.data,
            self._with(part or self.part),
            split=self.split,
            seed=self.seed,
            global_batch=self.global_batch,
            cache=cache,
            augment=self.augment,
            **others,
        )

    def seen(self) -> Iterator[tuple[tf.Tensor, ...]]:
        """Batches as the model sees them: augmented in the step, too, where that is configured."""
        for images, labels, places in self.batches(cache="none"):
            step = self.augment.in_step
            yield self.augment.batch(images, places, seed=self.seed) if step else images, labels, places

    def choose_cache(self, available_bytes: int) -> cache_lib.Choice:
        """As `training.batches` chooses on a host that reads the whole split."""
        gib, folder = self.input["cache_gib"], self.input["cache_dir"]
        allowed = self.input["cache"] == "disk" or (self.input["cache"] == "auto" and (gib or folder))
        return cache_lib.choose(
            self.input["cache"],
            stored_bytes=self.stored_bytes,
            decoded_bytes=self.decoded_bytes,
            available_bytes=available_bytes,
            disk_bytes=shards.cache_bound(folder, None if gib is None else int(gib * 2**30)) if allowed else None,
        )

    def shuffle(self) -> Shuffle:
        plan = self.plan
        examples = min(plan.window * len(plan.streams), self.part.examples)
        whole = examples == self.part.examples
        return Shuffle(examples, self.stored_bytes * examples // self.part.examples, whole)

    def _opener(self, part: Split, pixels: bool) -> shards.Opener:
        keeps = pixels or not storage.is_local(self.data)
        gib = self.input["cache_gib"]
        return shards.Opener(
            self.data,
            part.shards,
            cache_dir=self.input["cache_dir"] if keeps else None,
            cache_bytes=int(gib * 2**30) if keeps and gib is not None else None,
            decoded=pixels,
            open_at_once=order.MAX_STREAMS,
        )

    def _with(self, part: Split) -> Manifest:
        return dataclasses.replace(self.manifest, splits={self.split: part})
