"""What the flags say, checked: text in, one `Settings` out, or one line that says which flag to change."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import PIL

from pipeline import images, storage
from pipeline.errors import InputError

_FRACTION = re.compile(r"(\d{1,18}/\d{1,18}|\d{0,18}\.?\d{1,18})")
_NAME = re.compile(r"[a-z][a-z0-9_]*")  # what TFDS accepts for datasets, and finds again in file names for splits
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Paths are absolute or addresses with a scheme; fractions are positive, in the given order, and sum to 1."""

    input: str
    output: str
    name: str
    version: str
    splits: Mapping[str, Fraction]
    seed: int
    shard_bytes: int
    min_shards: int

    @property
    def directory(self) -> str:
        """The dataset's final place, …/NAME/VERSION, as TFDS expects it."""
        return storage.join(self.output, self.name, self.version)

    @property
    def staging(self) -> str:
        """Where everything is written first, so that an unfinished dataset never stands in the final place."""
        return self.directory + ".incomplete"

    def content(self) -> dict[str, Any]:
        """What shaped the dataset's bytes, for the manifest."""
        return {
            "splits": {name: str(fraction) for name, fraction in self.splits.items()},
            "seed": self.seed,
            "shard_bytes": self.shard_bytes,
            "min_shards": self.min_shards,
            "max_pixels": images.MAX_PIXELS,
            "jpeg_quality": images.JPEG_QUALITY,
            "shardline": _code_version(),
            "pillow": PIL.__version__,
        }


def parse(
    *, input: str, output: str, name: str, version: str, splits: str, seed: int, shard_bytes: int, min_shards: int
) -> Settings:
    """Raises InputError for the first flag that cannot be used."""
    for flag, value in (("input", input), ("output", output), ("name", name)):
        if not value:
            raise InputError(f"--{flag} is missing: give --input=DIR --output=DIR --name=NAME (see --help)")
    if not _NAME.fullmatch(name):
        raise InputError(f"--name={name!r}: expected lower-case letters, digits and _, beginning with a letter")
    if not _VERSION.fullmatch(version):
        raise InputError(f"--version={version!r}: expected three numbers such as 1.0.0")
    for flag, number in (("shard_bytes", shard_bytes), ("min_shards", min_shards)):
        if number < 1:
            raise InputError(f"--{flag}={number}: expected 1 or more")
    settings = Settings(
        input=_absolute(input),
        output=_absolute(output),
        name=name,
        version=version,
        splits=parse_splits(splits),
        seed=seed,
        shard_bytes=shard_bytes,
        min_shards=min_shards,
    )
    if (settings.output + "/").startswith(settings.input.rstrip("/") + "/"):
        raise InputError(
            f"--output={output} lies inside --input={input}, so the dataset would become a class: give another folder"
        )
    return settings


def parse_splits(text: str) -> dict[str, Fraction]:
    """`train=0.8,test=1/5` to exact fractions: 0.8 means 4/5, not the nearest binary number."""
    splits: dict[str, Fraction] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not _FRACTION.fullmatch(value) or value.endswith("/0"):
            raise InputError(f"--splits={text}: {part!r} is not NAME=FRACTION, as in train=0.8,test=1/5")
        if not _NAME.fullmatch(name) or name == "all":  # TFDS reads "all" as every split together
            raise InputError(
                f"--splits={text}: {name!r} cannot name a split; "
                "use lower-case letters, digits and _, beginning with a letter, and not 'all'"
            )
        if name in splits:
            raise InputError(f"--splits={text}: {name!r} stands there twice")
        splits[name] = Fraction(value)
        if not splits[name]:
            raise InputError(f"--splits={text}: {name!r} gets nothing; leave it out or give it more than 0")
    if sum(splits.values()) != 1:
        raise InputError(f"--splits={text}: the fractions sum to {float(sum(splits.values())):g}, expected exactly 1")
    return splits


def _absolute(path: str) -> str:
    """Worker processes may run in another folder, so relative paths are resolved once, here."""
    return os.path.abspath(os.path.expanduser(path)) if "://" not in path else path.rstrip("/")


def _code_version() -> str:
    try:
        return importlib.metadata.version("shardline")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return "uninstalled"
