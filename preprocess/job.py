"""Settings in, what one run works on out: inputs opened, classes and splits named, before any worker starts."""

from __future__ import annotations

import dataclasses
import os

from pipeline import manifest, storage
from pipeline.errors import InputError
from preprocess import growth, partitions
from preprocess.inputs import Classes, Input, find_classes, open_inputs
from preprocess.inputs.source import in_usual_order
from preprocess.settings import DEFAULT_SPLITS, Settings, parse_splits


@dataclasses.dataclass(frozen=True)
class Job:
    """Small: it travels to every worker."""

    settings: Settings  # with the fractions to plan by; none where the inputs say every image's split
    inputs: tuple[Input, ...]
    classes: Classes
    splits: tuple[str, ...]
    earlier: manifest.Manifest | None  # of the version that this one grows from

    @property
    def keeps_splits(self) -> bool:
        """Whether the inputs say every image's split, and that is kept."""
        return not self.settings.splits

    @property
    def earlier_partitions(self) -> int:
        """Over how many partitions the files of the earlier version are spread."""
        return partitions.count(self.earlier.ledger["seen"]) if self.earlier else 1


def open_job(settings: Settings) -> Job:
    """Opens the inputs and the earlier version.

    Raises:
      InputError: where one cannot be used, or they contradict each other.
    """
    inputs = open_inputs(settings.inputs, keep_splits=not settings.splits, group_by=settings.group_by)
    classes = find_classes(inputs)
    for each in inputs:
        _check_output(each, settings)
    said = [each.splits for each in inputs]
    old = _open_earlier(settings)
    if not any(said):
        fractions = settings.splits or (old and growth.fractions(old)) or parse_splits(DEFAULT_SPLITS)
        if old:
            growth.check_splits(old, settings, fractions)
        settings = dataclasses.replace(settings, splits=fractions)
        return Job(settings, inputs, classes, tuple(fractions), old)
    if not all(said):
        silent = next(address for address, splits in zip(settings.inputs, said, strict=True) if not splits)
        speaking = next(address for address, splits in zip(settings.inputs, said, strict=True) if splits)
        raise InputError(
            f"--input={speaking} has splits of its own and --input={silent} has none: "
            f"give --splits={DEFAULT_SPLITS} to split all anew, or prepare them apart"
        )
    if old:
        raise InputError(
            f"--input={settings.inputs[0]} has splits of its own, and so has the earlier version {settings.earlier}: "
            "give --splits with the earlier version's fractions to place new images by those"
        )
    return Job(settings, inputs, classes, in_usual_order(name for splits in said for name in splits), None)


def _open_earlier(settings: Settings) -> manifest.Manifest | None:
    if not settings.earlier:
        return None
    old = manifest.load(settings.earlier)
    if not growth.fractions(old):
        raise InputError(
            f"{settings.earlier} kept the splits that its input has, and only that can say where more images belong: "
            "add them there and prepare it under another --version"
        )
    if settings.replay_quarantine:
        growth.check_settings(old, settings)
    return old


def _check_output(one: Input, settings: Settings) -> None:
    """Raises InputError where the dataset would be written into what it is made from, or in its place."""
    source, versions, dataset = (
        os.path.realpath(storage.local_name(path)) if storage.is_local(path) else path
        for path in (one.address, storage.join(settings.output, settings.name), settings.directory)
    )
    if _is_inside(versions, source):
        raise InputError(
            f"--output={settings.output} with --name={settings.name} lies inside --input={one.address}, so the dataset "
            "would become a class: give another folder"
        )
    if _is_inside(source, dataset):
        raise InputError(
            f"--input={one.address} lies where the dataset would be written, {settings.directory}: give another "
            "--output, --name or --version"
        )


def _is_inside(inner: str, outer: str) -> bool:
    return f"{inner}/".startswith(f"{outer.rstrip('/')}/")
