"""Settings in, this job's own empty folder out, and no leftovers of dead jobs beside it.

On a local disk a job holds a lock in its folder, which the kernel drops however the job ends: a folder whose lock is
free is a leftover. A bucket has no such locks, so folders of other jobs are named there and never touched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import platform
from collections.abc import Iterator

from pipeline import manifest, storage, versions
from pipeline.errors import InputError
from preprocess.settings import Settings

_LOCK = "LOCK"
_STARTED = "STARTED"
_REPLACED = "replaced"


@dataclasses.dataclass(frozen=True)
class Places:
    settings: Settings  # with the version of the manifest that it may replace
    cleared: tuple[str, ...]  # folders of jobs that ended without publishing
    left: tuple[str, ...]  # one sentence about each folder that may belong to a running job


@contextlib.contextmanager
def prepare(settings: Settings, *, overwrite: bool) -> Iterator[Places]:
    """Makes this job's folder and keeps it from being cleared for as long as the block lasts.

    A finished dataset stays until `publish`. An InputError ends the job for good, so it removes the folder; whatever
    else ends it leaves the folder, because a remote runner may still be working in it.

    Raises:
      InputError: where a finished dataset stands and may not be overwritten, or a folder of somebody else.
    """
    with contextlib.ExitStack() as held:
        try:
            if storage.is_local(settings.output):
                places = _prepare_folder(settings, overwrite, held)
            else:
                places = _prepare_bucket(settings, overwrite)
        except storage.NoDriverError as error:
            raise InputError(f"--output={settings.output} cannot be written: {error}") from None
        except InputError:
            raise
        except Exception as error:
            if storage.is_local(settings.output) and not isinstance(error, OSError):
                raise
            # A bucket's driver raises many types: no network, no credentials, no driver for the scheme.
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            raise InputError(f"--output={settings.output} cannot be written: {reason}") from None
        try:
            yield places
        except InputError:
            discard(settings)
            raise


def discard(settings: Settings) -> None:
    """Removes this job's folder, if there is one."""
    if not storage.is_local(settings.output):
        storage.remove_tree(settings.place)
        return
    with contextlib.suppress(FileNotFoundError):
        _take_away(settings, settings.place, settings.job)
    _delete(_doomed(settings, settings.job))


def replaced(settings: Settings) -> str:
    """Where a local job keeps the dataset it replaces for the moment between two renames."""
    return storage.join(settings.place, _REPLACED)


def _prepare_folder(settings: Settings, overwrite: bool, held: contextlib.ExitStack) -> Places:
    parent = pathlib.Path(storage.local_name(settings.directory)).parent
    parent.mkdir(parents=True, exist_ok=True)
    cleared: list[str] = []
    left: list[str] = []
    # What was taken away is deleted after the lock is given back, and even where this job is refused.
    with contextlib.ExitStack() as in_the_end, storage.exclusive(str(parent)):
        for path in sorted(parent.glob(f"{settings.version}.incomplete-*")):
            with contextlib.ExitStack() as owned:
                if reason := _hold(str(path), owned):
                    left.append(reason)
                    continue
                _restore(settings, path)
                in_the_end.callback(_delete, _take_away(settings, str(path), path.name.rpartition("-")[2]))
                cleared.append(str(path))
        for doomed in parent.glob(f"{settings.version}.discarded-*"):  # of a job killed in `_delete`, too
            in_the_end.callback(_delete, str(doomed))
        replaces = check_directory(settings, overwrite)
        os.makedirs(storage.local_name(settings.staging))
        os.mkdir(storage.local_name(settings.scratch))
        _hold(settings.place, held)  # where this fails, it fails for others too, and they leave the folder alone
    return Places(dataclasses.replace(settings, replaces=replaces), tuple(cleared), tuple(left))


def _prepare_bucket(settings: Settings, overwrite: bool) -> Places:
    replaces = check_directory(settings, overwrite)
    parent = storage.join(settings.output, settings.name)
    names = [name for name, _ in storage.children(parent)] if storage.exists(parent) else []
    left = tuple(
        f"{storage.join(parent, name)} belongs to another job: delete it if that job is dead"
        for name in names
        if name.startswith(f"{settings.version}.incomplete-")
    )
    storage.write_text(storage.join(settings.place, _STARTED), "")  # fails now rather than after the inspection
    return Places(dataclasses.replace(settings, replaces=replaces), (), left)


def check_directory(settings: Settings, overwrite: bool) -> str:
    """Returns the version of the manifest that stands there, "" where there is none.

    Raises:
      InputError: where a finished dataset stands and may not be overwritten, or a folder of somebody else.
    """
    directory = settings.directory
    if version := versions.version(storage.join(directory, manifest.FILE)):
        if overwrite:
            return version
        raise InputError(
            f"{directory} already holds a finished dataset: give another --version, or --overwrite to replace it"
        )
    # A folder becomes a dataset at once, by one rename. In a bucket, whoever ended amid publishing left a claim.
    unfinished = not storage.is_local(directory) and storage.exists(claim_path(settings))
    if storage.exists(directory) and not unfinished and (strangers := storage.children(directory)):
        raise InputError(
            f"{directory} is no dataset of ours, having no {manifest.FILE}, and holds {strangers[0][0]}: move it away, "
            "or give another --output, --name or --version"
        )
    return ""


def claim_path(settings: Settings) -> str:
    """What a job holds while it publishes into a bucket; see `commit`."""
    return settings.directory + ".claim"


def _hold(place: str, held: contextlib.ExitStack) -> str:
    """Locks a job's folder until `held` closes; returns why it can't, in one sentence, or "" where it could."""
    place = storage.local_name(place)
    try:
        descriptor = os.open(os.path.join(place, _LOCK), os.O_RDWR | os.O_CREAT, 0o666)
        held.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return f"{place} belongs to a running job for the same dataset; whichever ends first will publish"
    except OSError as error:
        return f"{place} cannot be locked ({error.strerror}): delete it if no job for this dataset is running"
    # Some network mounts grant every machine its own lock on the same file: trust it only where its owner ran here.
    owner = os.read(descriptor, 1000).decode(errors="replace").split()
    here = _this_machine()
    if owner and not set(owner) & set(here):
        return f"{place} is of a job on {owner[0]}, which can't be seen from here: delete it if that job is dead"
    os.pwrite(descriptor, " ".join(here).encode(), 0)
    return ""


def _this_machine() -> tuple[str, ...]:
    """Its name, and what tells its running kernel from any other: containers share the second, reboots the first."""
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id")
    return (platform.node() or "?", *((boot.read_text().strip(),) if boot.exists() else ()))


def _restore(settings: Settings, place: pathlib.Path) -> None:
    """Puts a dataset back whose replacement was interrupted between the two renames (see `commit`)."""
    directory = storage.local_name(settings.directory)
    if (place / _REPLACED / manifest.FILE).exists() and not os.path.exists(directory):
        os.rename(place / _REPLACED, directory)


def _take_away(settings: Settings, path: str, job: str) -> str:
    """Renames a folder, so that from one moment to the next nobody can publish it or write into it."""
    os.rename(storage.local_name(path), _doomed(settings, job))
    return _doomed(settings, job)


def _doomed(settings: Settings, job: str) -> str:
    return f"{storage.local_name(settings.directory)}.discarded-{job}"


def _delete(doomed: str) -> None:
    """The manifests go first: a dataset that lacks shards must not look like one."""
    for folder in ("", "dataset", _REPLACED):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(doomed, folder, manifest.FILE))
    storage.remove_tree(doomed)
