"""A folder of finished files in; the next version of a working directory's exports, whole or not at all, out."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline import storage, versions

FOLDER = "exports"
CARD_FILE = "export.json"  # written last: without it an export is not there yet
_SCRATCH = ".partial-"
_CLAIM = ".claimed"


def complete(workdir: str) -> list[int]:
    """Numbers of the complete exports, the oldest first."""
    return [n for n in _numbers(workdir) if storage.exists(storage.join(workdir, FOLDER, str(n), CARD_FILE))]


def newest(workdir: str) -> dict[str, Any] | None:
    """The card of the newest complete export, None where there is none."""
    numbers = complete(workdir)
    return read(workdir, numbers[-1]) if numbers else None


def read(workdir: str, number: int) -> dict[str, Any]:
    """The card of a complete export."""
    card: dict[str, Any] = storage.read_json(storage.join(workdir, FOLDER, str(number), CARD_FILE))
    return card


@contextlib.contextmanager
def scratch(workdir: str) -> Iterator[str]:
    """A local folder to write an export into: beside where it will be, or anywhere for a bucket. Gone afterwards.

    What killed exports left behind is deleted first; a folder that is still being written to is locked, and stays.
    """
    root = None
    if storage.is_local(workdir):
        root = storage.local_name(storage.join(workdir, FOLDER))
        os.makedirs(root, exist_ok=True)
        _tidy(root)
    folder = tempfile.mkdtemp(prefix=_SCRATCH, dir=root)
    os.chmod(folder, 0o777 & ~_umask())
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # where the file system has no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: str, workdir: str, card: Mapping[str, Any]) -> int:
    """Makes the files in a local `folder` the next version, and returns its number.

    Args:
      card: of `export.json`, without `version` and `files`.

    Raises:
      OSError: where it can't be written; nothing appears then.
    """
    card = {**card, "files": {name: _described(os.path.join(folder, name)) for name in storage.files_under(folder)}}
    number = max(_numbers(workdir), default=0) + 1
    if not storage.is_local(workdir):
        return _upload(folder, workdir, card, number)
    while True:
        storage.write_json(os.path.join(folder, CARD_FILE), {**card, "version": number})
        for name in storage.files_under(folder):
            _sync(os.path.join(folder, name))
        storage.sync_folder(folder)
        root = storage.local_name(storage.join(workdir, FOLDER))
        try:
            os.rename(folder, os.path.join(root, str(number)))
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            number += 1  # somebody else was quicker
            continue
        storage.sync_folder(root)
        return number


def _upload(folder: str, workdir: str, card: Mapping[str, Any], number: int) -> int:
    while True:
        target = storage.join(workdir, FOLDER, str(number))
        try:
            versions.replace(storage.join(target, _CLAIM), folder.encode(), "")
            break
        except FileExistsError:
            number += 1
    for name in storage.files_under(folder):
        storage.copy(os.path.join(folder, name), storage.join(target, name))
    storage.write_json(storage.join(target, CARD_FILE), {**card, "version": number})
    return number


def _numbers(workdir: str) -> list[int]:
    root = storage.join(workdir, FOLDER)
    if not storage.is_directory(root):
        return []
    return sorted(int(name) for name, is_folder in storage.children(root) if is_folder and name.isdecimal())


def _described(path: str) -> dict[str, Any]:
    with open(path, "rb") as stream:
        digest = hashlib.sha256()
        while part := stream.read(1 << 20):
            digest.update(part)
    return {"bytes": os.path.getsize(path), "sha256": digest.hexdigest()}


def _tidy(root: str) -> None:
    for name in os.listdir(root):
        if not name.startswith(_SCRATCH):
            continue
        descriptor = os.open(os.path.join(root, name), os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        finally:
            os.close(descriptor)
        shutil.rmtree(os.path.join(root, name), ignore_errors=True)


def _sync(path: str) -> None:
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
