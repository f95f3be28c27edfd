"""A stored shard and new labels in; the shard as it is in the corrected version, and pictures of it, out."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from apache_beam.pvalue import TaggedOutput

from pipeline import images, records
from pipeline.manifest import Manifest, Shard
from preprocess import growth, samples, shards
from preprocess.corrections import Resolved
from preprocess.samples import QUARANTINED
from preprocess.settings import Settings

_THUMBNAIL_PX = 96  # as everywhere in the report


@dataclasses.dataclass(frozen=True)
class Plan:
    resolved: Resolved
    touched: frozenset[str]  # files of shards that have to be written again


@dataclasses.dataclass(frozen=True)
class Place:
    """A shard of the version that is corrected."""

    split: str
    index: int
    shard: Shard


@dataclasses.dataclass(frozen=True)
class Written:
    """A shard of the corrected version."""

    place: Place
    shard: Shard


def correct_shard(
    place: Place,
    settings: Settings,
    old: Manifest,
    plan: Plan,
    candidates: Sequence[samples.Candidate],
) -> Iterator[Any]:
    """Yields `Written`, and as "samples" the pictures of the candidates that are in the shard.

    Raises:
      InputError: where the shard is not what its manifest says, or the new one can't be written.
    """
    name = growth.shard_name(settings.name, place.shard.file, len(old.splits[place.split].shards))
    pictures: dict[str, bytes] = {candidate.key: b"" for candidate in candidates if candidate.kind != QUARANTINED}
    stored = _looked_at(shards.read_verified(place.shard, settings.correct), pictures)
    if place.shard.file in plan.touched:
        numbers = {image: old.classes.index(label) if label else None for image, label in plan.resolved.labels.items()}
        shard = shards.write(name, _relabelled(stored, numbers), settings)
        shards.verify(shard, settings.staging)
    else:
        collections.deque(stored, maxlen=0)  # whose reading is their verification
        shard = dataclasses.replace(place.shard, file=name)
    yield Written(place, shard)
    for candidate in candidates:
        if thumbnail := pictures.get(candidate.key):
            yield TaggedOutput("samples", candidate.sample(thumbnail))


def _looked_at(stored: Iterable[bytes], pictures: dict[str, bytes]) -> Iterator[bytes]:
    """The same records; thumbnails of those whose ids are keys of `pictures` are entered there."""
    for serialized in stored:
        record = records.deserialize(serialized)
        if record.id in pictures:
            pictures[record.id] = images.thumbnail(record.image, _THUMBNAIL_PX) or b""
        yield serialized


def _relabelled(stored: Iterable[bytes], labels: Mapping[str, int | None]) -> Iterator[bytes]:
    """The same records with the labels that some ids are given, without those that are given None."""
    for serialized in stored:
        record = records.deserialize(serialized)
        if record.id not in labels:
            yield serialized
        elif (label := labels[record.id]) is not None:
            yield records.serialize(dataclasses.replace(record, label=label))
