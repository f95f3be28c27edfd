"""Shards and ledger parts in the staging folder in, a finished dataset in its final place out; the manifest is last."""

from __future__ import annotations

import concurrent.futures
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence

from pipeline import manifest, storage
from pipeline.errors import InputError
from preprocess import ledger
from preprocess.layout import Layout
from preprocess.settings import Settings
from preprocess.shards import Written

# Requests to a bucket wait far more than they work; local disks gain a little too.
_THREADS = 16
_METADATA = ("dataset_info.json", "features.json", "label.labels.txt")


def prepare_places(settings: Settings, *, overwrite: bool) -> list[str]:
    """Clears what an interrupted run left and returns those folders; a finished dataset stays until `publish`.

    Raises:
      InputError: where a finished dataset stands and may not be overwritten, or a folder of somebody else.
    """
    cleared = []
    directory = settings.directory
    if storage.exists(storage.join(directory, manifest.FILE)):
        if not overwrite:
            raise InputError(
                f"{directory} already holds a finished dataset: give another --version, or --overwrite to replace it"
            )
    elif storage.exists(directory):
        ours = (f"{settings.name}-", "ledger-", *_METADATA, manifest.FILE)
        strangers = [name for name, _ in storage.children(directory) if not name.startswith(ours)]
        if strangers:
            raise InputError(
                f"{directory} is no dataset of ours, it holds {strangers[0]}: give another --output or --version"
            )
        storage.remove_tree(directory)
        cleared.append(directory)
    if storage.exists(settings.staging):
        storage.remove_tree(settings.staging)
        cleared.append(settings.staging)
    try:
        storage.write_text(storage.join(settings.staging, "STARTED"), "")  # fails now rather than after the inspection
    except OSError as error:
        raise InputError(f"--output={settings.output} cannot be written: {error.strerror or error}") from None
    return cleared


def publish(
    settings: Settings,
    layout: Layout,
    shards: Iterable[Written],
    parts: Sequence[tuple[str, ledger.Tally]],
    seen: Mapping[str, int],
) -> None:
    """Checks that everything is there, writes the metadata, moves the files and, last, writes the manifest.

    A runner may repeat this step after it was interrupted anywhere; the second time ends like the first would have.

    Raises:
      RuntimeError: where shards, ledger and layout contradict each other.
    """
    shards = sorted(shards, key=lambda one: (list(layout.splits).index(one.split), one.index))
    result = make_manifest(settings, layout, shards, ledger.merge(tally for _, tally in parts), seen)
    target = storage.join(settings.directory, manifest.FILE)
    if storage.exists(target):
        if not storage.exists(settings.staging) and manifest.load(settings.directory) == result:
            return  # an earlier attempt of this very step got to its end
        storage.remove_tree(target)  # first, so that a mixture of old and new does not count as a dataset
    _write_metadata(settings, result)
    sizes = {one.shard.file: one.shard.bytes for one in shards}
    files = [*sizes, *_METADATA, *(name for name, _ in parts)]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda name: _move(settings, name, sizes.get(name)), files))
    for name, _ in storage.children(settings.directory):
        if name not in files:  # of the dataset that this one replaces
            storage.remove_tree(storage.join(settings.directory, name))
    storage.write_json(target, result.to_json())
    storage.remove_tree(settings.staging)


def make_manifest(
    settings: Settings, layout: Layout, shards: Sequence[Written], sums: ledger.Tally, seen: Mapping[str, int]
) -> manifest.Manifest:
    """`shards` are in the order of splits and indices."""
    splits = {}
    by_class: dict[str, dict[str, int]] = {}
    for name, planned in layout.splits.items():
        of_split = [one for one in shards if one.split == name]
        by_class[name] = {
            class_name: sum(one.by_class.get(class_name, 0) for one in of_split) for class_name in layout.classes
        }
        if [one.index for one in of_split] != list(range(planned.shards)) or by_class[name] != dict(planned.by_class):
            raise RuntimeError(f"split {name!r} was planned as {planned} but holds {by_class[name]}")
        splits[name] = manifest.Split(planned.examples, tuple(one.shard for one in of_split))
    return manifest.Manifest(
        name=settings.name,
        version=settings.version,
        fingerprint=manifest.fingerprint(layout.classes, splits),
        grown_from=None,
        classes=layout.classes,
        splits=splits,
        ledger=ledger.balance(seen, sums),
        settings=settings.content(),
        statistics={
            "examples_by_class": by_class,
            "pixels": {name: sum(one.pixels for one in shards if one.split == name) for name in splits},
            "left_out": {
                reason: {"files": files, "first": list(sums.named[reason])}
                for reason, files in sorted(sums.by_reason.items())
            },
        },
    )


def _write_metadata(settings: Settings, result: manifest.Manifest) -> None:
    """TFDS's own files, made by TFDS on a local disk, since it looks at no bucket without TensorFlow."""
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=list(result.classes)),
        "id": tfds.features.Text(),
        "file": tfds.features.Text(),
        "group": tfds.features.Text(),
    }
    infos = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=[shard.examples for shard in split.shards],
            num_bytes=sum(shard.bytes for shard in split.shards),
        )
        for name, split in result.splits.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        for split in result.splits.values():  # TFDS reads the dataset's name and format off the shards' names
            open(os.path.join(folder, split.shards[0].file), "w").close()
        tfds.folder_dataset.write_metadata(
            data_dir=folder,
            features=features,
            split_infos=infos,
            version=result.version,
            supervised_keys=("image", "label"),
            check_data=False,  # that would import TensorFlow
        )
        for name in _METADATA:
            with open(os.path.join(folder, name), encoding="utf-8") as stream:
                storage.write_text(storage.join(settings.staging, name), stream.read())


def _move(settings: Settings, name: str, expected_bytes: int | None) -> None:
    source, target = storage.join(settings.staging, name), storage.join(settings.directory, name)
    if storage.exists(source):
        storage.move(source, target)
    if expected_bytes is not None and (found := storage.size_bytes(target)) != expected_bytes:
        raise RuntimeError(f"{target} has {found:,} bytes and was written with {expected_bytes:,}")
