"""A complete dataset in the job's own folder in, the same in its final place out; of racing jobs exactly one wins.

On a local disk a folder is renamed, which fails where a dataset stands. To replace one, the old folder is first renamed
into the job's own; a job that is killed between the two renames leaves it there, and the next run puts it back.

A bucket renames no folders, so files are copied, the manifest last, by the job that holds the claim DIRECTORY.claim:
  1. Whoever comes to publish writes its claim, conditional on the claim it saw. Before it displaces one of other
     content it deletes everything that job could copy from; since copying needs its source, the displaced job can
     change nothing any more, dead or alive. So claims of dead jobs stop nobody, and the last to claim wins.
  2. With the claim it looks at the manifest. One that was not there when the job began means it lost. The one it
     may replace is deleted under its generation: from here on readers find no dataset, never a mixture.
  3. It deletes other files (each under the generation seen before the claim was looked at again), copies its own, and
     last copies the manifest on condition that there is none.
  4. It deletes its folder, then its claim. Jobs of equal content join a claim instead of displacing it.
Every step may be repeated, by a runner or after an answer that got lost: a failed condition is followed by a look at
what is there. A reader that goes on reading the old dataset while it is replaced is protected in neither place.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Collection, Sequence

from pipeline import manifest, storage, versions
from pipeline.errors import InputError
from preprocess import places
from preprocess.settings import Settings

# Requests to a bucket wait far more than they work.
_THREADS = 16


def publish(settings: Settings, fingerprint: str, files: Collection[str]) -> None:
    """Publishes what lies complete in `settings.staging`: `files` and the manifest.

    Raises:
      InputError: where another job published other content while this one ran, or is about to.
    """
    try:
        if storage.is_local(settings.output):
            _rename(settings, fingerprint, files)
        else:
            _copy(settings, fingerprint, files)
    except FileNotFoundError as error:  # another job displaced this one, or published the same
        conclude(settings, fingerprint, error)
    places.discard(settings)


def conclude(settings: Settings, fingerprint: str, cause: Exception) -> None:
    """Ends a job whose files are gone: well where the dataset is published, by an earlier attempt or another job.

    Raises:
      InputError: where it is not, saying who was quicker.
    """
    _settle(settings, fingerprint, cause)
    claim = None if storage.is_local(settings.output) else _read_claim(settings)
    if claim and settings.job in claim.jobs:
        _end(settings, claim)
    places.discard(settings)


def _settle(settings: Settings, fingerprint: str, cause: Exception | None = None) -> None:
    """Returns where a dataset of equal content is published."""
    if (there := versions.version(_target(settings))) and there != settings.replaces:
        found = manifest.load(settings.directory)
        if found.fingerprint == fingerprint:
            return
        raise InputError(
            f"another job published {settings.directory} (fingerprint {found.fingerprint[:12]}) while this one "
            f"({fingerprint[:12]}) ran: give another --version, or --overwrite to replace that one"
        ) from cause
    claim = None if storage.is_local(settings.output) else _read_claim(settings)
    if claim and settings.job not in claim.jobs:
        raise InputError(
            f"job {claim.jobs[-1]} publishes {settings.directory} (fingerprint {claim.fingerprint[:12]}, see "
            f"{places.claim_path(settings)}) and displaced this one ({fingerprint[:12]}): run again if that job is dead"
        ) from cause
    raise InputError(
        f"{settings.place} was deleted while it was being published, by another job for this dataset or by hand: "
        f"see what stands in {settings.directory}, then run again"
    ) from cause


def _target(settings: Settings) -> str:
    return storage.join(settings.directory, manifest.FILE)


def _rename(settings: Settings, fingerprint: str, files: Collection[str]) -> None:
    staging, directory = storage.local_name(settings.staging), storage.local_name(settings.directory)
    for name in {*os.listdir(staging)} - {*files, manifest.FILE}:
        storage.remove_tree(os.path.join(staging, name))
    storage.sync_folder(staging)
    with storage.exclusive(os.path.dirname(directory)):
        current = versions.version(_target(settings))
        if current and current != settings.replaces:
            _settle(settings, fingerprint)
            return
        if current:
            os.rename(directory, storage.local_name(places.replaced(settings)))
        try:
            os.rename(staging, directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise InputError(f"{directory} appeared while the job ran: move it away and run again") from error
        storage.sync_folder(os.path.dirname(directory))


@dataclasses.dataclass(frozen=True)
class _Claim:
    jobs: Sequence[str]  # of equal content; the last one wrote the claim
    fingerprint: str
    version: str  # of the object


def _read_claim(settings: Settings) -> _Claim | None:
    found = versions.read(places.claim_path(settings))
    return _Claim(**json.loads(found[0]), version=found[1]) if found else None


def _copy(settings: Settings, fingerprint: str, files: Collection[str]) -> None:
    claim = _take_claim(settings, fingerprint)
    try:
        _copy_all(settings, fingerprint, files)
    except InputError:
        _end(settings, claim)
        raise
    _end(settings, claim)  # not after what failed for a moment: the runner repeats it and needs files and claim


def _end(settings: Settings, claim: _Claim) -> None:
    for job in claim.jobs:
        places.discard(dataclasses.replace(settings, job=job))
    with contextlib.suppress(FileExistsError):  # joined or displaced: theirs to delete
        versions.remove(places.claim_path(settings), claim.version)


def _copy_all(settings: Settings, fingerprint: str, files: Collection[str]) -> None:
    target = _target(settings)
    current = versions.version(target)
    if current and current != settings.replaces:
        _settle(settings, fingerprint)
        return
    if current:
        with contextlib.suppress(FileExistsError):  # replaced since, by a job that displaced or joined this one
            versions.remove(target, current)
    _remove_others(settings, files)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for done in [pool.submit(_copy_one, settings, name) for name in files]:
            done.result()
    try:
        versions.copy_new(storage.join(settings.staging, manifest.FILE), target)
    except FileExistsError as error:  # this very copy, whose answer got lost, or one by a job of equal content
        _settle(settings, fingerprint, error)


def _take_claim(settings: Settings, fingerprint: str) -> _Claim:
    staged = storage.join(settings.staging, manifest.FILE)
    while True:
        held = _read_claim(settings)
        if held and settings.job in held.jobs:
            return held
        # Only after the claim was read: whoever displaced this job deleted its manifest before writing that claim.
        if not storage.exists(staged):
            raise FileNotFoundError(f"{staged} is gone")
        jobs = [settings.job]
        if held and held.fingerprint == fingerprint:
            jobs = [*held.jobs, settings.job]
        elif held:
            for job in held.jobs:
                storage.remove_tree(storage.join(dataclasses.replace(settings, job=job).staging, manifest.FILE))
                places.discard(dataclasses.replace(settings, job=job))
        data = json.dumps({"jobs": jobs, "fingerprint": fingerprint}).encode()
        with contextlib.suppress(FileExistsError):  # somebody was quicker, or the answer got lost: look again
            versions.replace(places.claim_path(settings), data, held.version if held else "")


def _remove_others(settings: Settings, files: Collection[str]) -> None:
    folder = settings.directory
    names = [name for name, _ in storage.children(folder)] if storage.exists(folder) else []
    paths = [storage.join(folder, name) for name in names if name not in {*files, manifest.FILE}]
    seen = {path: versions.version(path) for path in paths}
    claim = _read_claim(settings)
    if claim is None or settings.job not in claim.jobs:
        raise FileNotFoundError(f"the claim {places.claim_path(settings)} is another job's")
    for path, version in seen.items():
        with contextlib.suppress(FileExistsError):
            versions.remove(path, version)


def _copy_one(settings: Settings, name: str) -> None:
    source, target = storage.join(settings.staging, name), storage.join(settings.directory, name)
    storage.copy(source, target)
    if storage.size_bytes(target) != storage.size_bytes(source):
        raise OSError(f"{target} is not as long as {source}")
