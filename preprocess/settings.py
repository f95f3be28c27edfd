"""What the flags say, checked: text in, one `Settings` out, or one line that says which flag to change."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import PIL

from pipeline import images, storage
from pipeline.errors import InputError
from preprocess import groups

_FRACTION = re.compile(r"(\d{1,18}/0*[1-9]\d{0,17}|\d{0,18}\.?\d{1,18})")
_NAME = re.compile(r"[a-z][a-z0-9_]*")  # what TFDS accepts for datasets, and finds again in file names for splits
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


# Where neither --splits, the inputs nor an earlier version say any.
DEFAULT_SPLITS = "train=0.8,validation=0.1,test=0.1"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Paths, but for the inputs, are absolute or addresses with a scheme."""

    inputs: tuple[str, ...]  # as they were given
    output: str
    name: str
    version: str
    splits: Mapping[str, Fraction]  # positive, in the given order, sum to 1; empty: none was given
    seed: int
    shard_bytes: int  # 0: by the rule in layout
    max_workers: int
    storing: images.Storing
    group_by: str  # a regular expression, or ""
    near_duplicates: str
    grow_from: str  # the folder of an earlier version, or ""
    replay_quarantine: str  # the same
    job: str  # names this run of the command, so that two runs never write into one folder
    software: Mapping[str, str]  # releases of what shapes the bytes, as they are where the job is submitted
    correct: str = ""  # the folder of an earlier version that is taken over, but for what was corrected; or ""
    replaces: str = ""  # version of the manifest (pipeline.versions) that this job may replace; "" where there is none

    @property
    def directory(self) -> str:
        """The dataset's final place, …/NAME/VERSION, as TFDS expects it."""
        return storage.join(self.output, self.name, self.version)

    @property
    def place(self) -> str:
        """This job's own folder, beside the dataset; nothing in it is part of a dataset before it is published."""
        return f"{self.directory}.incomplete-{self.job}"

    @property
    def staging(self) -> str:
        """Where the dataset is put together: complete files only, and in the end the whole dataset."""
        return storage.join(self.place, "dataset")

    @property
    def scratch(self) -> str:
        """Where files lie on a local disk while they are written."""
        return storage.join(self.place, "attempts")

    @property
    def earlier(self) -> str:
        """The version that this one grows from, or ""."""
        return self.grow_from or self.replay_quarantine or self.correct

    def content(self) -> dict[str, Any]:
        """What shaped the dataset's bytes, for the manifest."""
        return {
            "splits": ",".join(f"{name}={fraction}" for name, fraction in self.splits.items()),
            "inputs": len(self.inputs),
            "seed": self.seed,
            "shard_bytes": self.shard_bytes,
            "max_workers": self.max_workers,
            "storing": dataclasses.asdict(self.storing),
            "group_by": self.group_by,
            "near_duplicates": self.near_duplicates,
            "max_pixels": images.MAX_PIXELS,
            **self.software,
        }


def parse(
    *,
    input: Sequence[str],
    output: str,
    name: str,
    version: str,
    splits: str,
    seed: int,
    shard_bytes: int,
    max_workers: int,
    shorter_side: int,
    jpeg_quality: int,
    chroma: str,
    lossless: bool,
    group_by: str,
    near_duplicates: str,
    grow_from: str,
    replay_quarantine: str,
    job: str,
    correct: str = "",
) -> Settings:
    """Raises InputError for the first flag that cannot be used."""
    needed = {"input": correct or (input and all(input)), "output": output, "name": name}
    for flag, value in needed.items():
        if not value:
            raise InputError(f"--{flag} is missing: give --input=DIR --output=DIR --name=NAME (see --help)")
    if not _NAME.fullmatch(name):
        raise InputError(f"--name={name!r}: expected lower-case letters, digits and _, beginning with a letter")
    if not _VERSION.fullmatch(version):
        raise InputError(f"--version={version!r}: expected three numbers such as 1.0.0")
    if max_workers < 1:
        raise InputError(f"--max_workers={max_workers}: expected 1 or more")
    if shard_bytes < 0:
        raise InputError(f"--shard_bytes={shard_bytes}: expected 1 or more, or 0 for shards of about 256 MiB")
    if near_duplicates not in (groups.JOIN, groups.DROP, groups.IGNORE):
        raise InputError(f"--near_duplicates={near_duplicates!r}: expected join, drop or ignore")
    if grow_from and replay_quarantine:
        raise InputError("--grow_from and --replay_quarantine exclude each other: growing replays the quarantine too")
    try:
        storing = images.Storing(shorter_side, jpeg_quality, chroma, lossless)
    except InputError as error:
        raise InputError(f"--{error}") from None
    settings = Settings(
        inputs=tuple(input),
        output=_absolute(output),
        name=name,
        version=version,
        splits=parse_splits(splits) if splits else {},
        seed=seed,
        shard_bytes=shard_bytes,
        max_workers=max_workers,
        storing=storing,
        group_by=group_by,
        near_duplicates=near_duplicates,
        grow_from=_absolute(grow_from) if grow_from else "",
        replay_quarantine=_absolute(replay_quarantine) if replay_quarantine else "",
        correct=_absolute(correct) if correct else "",
        job=job,
        software={"shardline": _code_version(), "pillow": PIL.__version__},
    )
    if settings.earlier == settings.directory:
        raise InputError(f"--version={version} is the earlier version itself: give the new one another --version")
    return settings


def parse_splits(text: str) -> dict[str, Fraction]:
    """`train=0.8,test=1/5` to exact fractions: 0.8 means 4/5, not the nearest binary number."""
    splits: dict[str, Fraction] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not _FRACTION.fullmatch(value):
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
