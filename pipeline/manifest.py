"""What a finished dataset says of itself: `manifest.json`, written last by preparation, read first by everyone else."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import storage
from pipeline.errors import InputError

FILE = "manifest.json"
_THREADS = 16  # a bucket takes 50 ms to say a size, and a large dataset has a thousand shards


@dataclasses.dataclass(frozen=True)
class Shard:
    file: str  # relative to the dataset's folder
    examples: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Split:
    examples: int
    shards: tuple[Shard, ...]

    def __post_init__(self) -> None:
        if self.examples != sum(shard.examples for shard in self.shards):
            raise ValueError(f"{self.examples} examples, but the shards hold {[s.examples for s in self.shards]}")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The contract others may rely on. `statistics` holds `examples_by_class` and `pixels`, both per split."""

    name: str
    version: str
    fingerprint: str
    grown_from: str | None
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    ledger: Mapping[str, Any]
    settings: Mapping[str, Any]
    statistics: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Manifest:
        """Raises KeyError, TypeError or ValueError where `value` is not a manifest."""
        splits = {
            name: Split(split["examples"], tuple(Shard(**shard) for shard in split["shards"]))
            for name, split in value["splits"].items()
        }
        return cls(**{**value, "classes": tuple(value["classes"]), "splits": splits})

    def split(self, name: str) -> Split:
        if name not in self.splits:
            raise InputError(f"dataset {self.name} has no split {name!r}; it has {', '.join(self.splits)}")
        return self.splits[name]

    def class_counts(self, split: str) -> list[int]:
        """Examples per class, in the order of `classes`."""
        by_class = self.statistics["examples_by_class"][split]
        return [by_class.get(name, 0) for name in self.classes]


def fingerprint(classes: Sequence[str], splits: Mapping[str, Split]) -> str:
    """SHA-256 over the class order and every shard's hash: equal exactly when a reader would see the same examples."""
    content = [list(classes), {name: [shard.sha256 for shard in split.shards] for name, split in splits.items()}]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load(directory: str) -> Manifest:
    """Reads the manifest of the dataset in `directory` (…/NAME/VERSION).

    Raises:
      InputError: where there is none (the preparation did not finish, or this is another folder) or it is damaged.
    """
    path = storage.join(directory, FILE)
    if not storage.exists(path):
        raise InputError(
            f"{directory} holds no finished dataset ({FILE} is missing): "
            "give the …/NAME/VERSION folder that `python -m preprocess` printed, or run it again if it was interrupted"
        )
    try:
        return Manifest.from_json(storage.read_json(path))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error!r}): prepare the dataset again with --overwrite") from error


def verify(directory: str, manifest: Manifest, splits: Sequence[str]) -> None:
    """Checks that every shard of `splits` is there with the size it was written with.

    A look at every shard before the first step; `shards.Opener` compares their hashes before they are read.

    Raises:
      InputError: naming the first shard that is missing or has another size.
    """
    shards = [shard for name in splits for shard in manifest.split(name).shards]
    paths = [storage.join(directory, shard.file) for shard in shards]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for path, shard, found in zip(paths, shards, pool.map(_size_bytes, paths), strict=True):
            if found is None:
                raise InputError(
                    f"shard {path} is missing: copy it back, or prepare the dataset again with --overwrite"
                )
            if found != shard.bytes:
                raise InputError(
                    f"shard {path} has {found:,} bytes, the manifest says {shard.bytes:,}: "
                    "copy it again from its source, or prepare the dataset again with --overwrite"
                )


def _size_bytes(path: str) -> int | None:
    try:
        return storage.size_bytes(path)
    except FileNotFoundError:
        return None
