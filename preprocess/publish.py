"""Shards and ledger parts in the job's folder in, a finished dataset in its final place out; the manifest is last."""

from __future__ import annotations

import concurrent.futures
import os
import tempfile
from collections.abc import Sequence

from pipeline import manifest, storage
from pipeline.errors import cannot_write
from pipeline.manifest import Manifest
from preprocess import commit
from preprocess.job import Job
from preprocess.settings import Settings

# Requests to a bucket wait far more than they work.
_THREADS = 16
_REPORT = "report.html"
_METADATA = ("dataset_info.json", "features.json", "label.labels.txt")


def publish(job: Job, result: Manifest, parts: Sequence[str], page: str) -> None:
    """Checks that everything is there, adds report, metadata and, last, the manifest, then publishes all of it at once.

    A runner may repeat this step after it was interrupted anywhere; the second time ends like the first would have.

    Raises:
      ConnectionError: where a bucket cannot be reached.
      InputError: where another job was quicker, or the output cannot be written.
      RuntimeError: where a file is not as long as it was written.
    """
    settings = job.settings
    shards = [shard.file for split in result.splits.values() for shard in split.shards]
    try:
        _take_over(job, result)
        _complete(settings, result, parts, page)
    except FileNotFoundError as error:  # an earlier attempt of this very step may have got to its end
        commit.conclude(settings, result.fingerprint, error)
    except ConnectionError:
        raise
    except OSError as error:  # by its own name where it has one: TFDS writes into the machine's temporary folder
        path = error.filename or settings.staging
        raise cannot_write(path, error) from error
    else:
        commit.publish(settings, result.fingerprint, [*shards, *_METADATA, _REPORT, *parts])


def _take_over(job: Job, result: Manifest) -> None:
    """Puts the shards of a version that is only added to, or corrected, beside the new ones, under their new names."""
    if not (job.earlier and (job.settings.replay_quarantine or job.settings.correct)):
        return
    names = [
        (old.file, new.file)
        for name, split in job.earlier.splits.items()
        for old, new in zip(split.shards, result.splits[name].shards, strict=False)  # added ones stand behind them
        if old.sha256 == new.sha256  # a corrected one is written already
    ]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for done in [pool.submit(_take_over_one, job.settings, old, new) for old, new in names]:
            done.result()


def _take_over_one(settings: Settings, old: str, new: str) -> None:
    storage.link_or_copy(storage.join(settings.earlier, old), storage.join(settings.staging, new))


def _complete(settings: Settings, result: Manifest, parts: Sequence[str], page: str) -> None:
    """Raises FileNotFoundError where a file or the folder is not there."""
    for split in result.splits.values():
        for shard in split.shards:
            path = storage.join(settings.staging, shard.file)
            if (found := storage.size_bytes(path)) != shard.bytes:
                raise RuntimeError(f"{path} has {found:,} bytes and was written with {shard.bytes:,}")
    for name in parts:
        storage.size_bytes(storage.join(settings.staging, name))
    _write_metadata(settings, result)
    storage.write_text(storage.join(settings.staging, _REPORT), page, settings.scratch)
    storage.write_json(storage.join(settings.staging, manifest.FILE), result.to_json(), settings.scratch)


def _write_metadata(settings: Settings, result: Manifest) -> None:
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
                storage.write_text(storage.join(settings.staging, name), stream.read(), settings.scratch)
