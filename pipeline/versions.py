"""Changes to one file that happen only if nobody else was quicker; a path and the version last seen go in.

A version is an opaque text, "" where there is no file. On Google Cloud Storage it is the generation, and the service
itself decides who was first. Elsewhere it is what `storage.identity` says, and a check followed by a change: processes
of one machine exclude each other on a local disk, threads of one process in `memory://`; on other stores two jobs in
one moment can both seem to be first.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from pipeline import buckets, storage

_one_at_a_time = threading.Lock()


def read(path: str) -> tuple[bytes, str] | None:
    """The content and the version it belongs to, None where there is no file."""
    if buckets.holds(path):
        return buckets.read(path)
    while found := version(path):
        with contextlib.suppress(FileNotFoundError):  # replaced or deleted since: look again
            data = storage.read_bytes(path)
            if version(path) == found:
                return data, found
    return None


def version(path: str) -> str:
    if buckets.holds(path):
        return buckets.version(path)
    try:
        return storage.identity(path)
    except FileNotFoundError:
        return ""


def replace(path: str, data: bytes, expected: str) -> None:
    """Writes `path` if its version is `expected`; with "" it creates it.

    Raises:
      FileExistsError: where it is another. After an answer that got lost this may be this very change: compare.
    """
    if buckets.holds(path):
        buckets.write(path, data, expected)
        return
    with _exclusive(path):
        _check(path, expected)
        storage.write_bytes(path, data)


def remove(path: str, expected: str) -> None:
    """Deletes `path` if its version is `expected`; no error where there is no file.

    Raises:
      FileExistsError: where it is another.
    """
    if buckets.holds(path):
        buckets.remove(path, expected)
        return
    with _exclusive(path):
        if storage.exists(path):
            _check(path, expected)
            storage.remove_tree(path)


def copy_new(source: str, target: str) -> None:
    """Copies a file to where there is none yet.

    Raises:
      FileExistsError: where there is one. After an answer that got lost this may be this very copy: compare.
      FileNotFoundError: where there is no source at the moment of copying.
    """
    if buckets.holds(target):
        buckets.copy(source, target, new=True)
        return
    with _exclusive(target):
        _check(target, "")
        storage.copy(source, target)


def _check(path: str, expected: str) -> None:
    if version(path) != expected:
        raise FileExistsError(f"{path} is not what it was")


@contextlib.contextmanager
def _exclusive(path: str) -> Iterator[None]:
    if not storage.is_local(path):
        with _one_at_a_time:
            yield
        return
    folder = os.path.dirname(storage.local_name(path))
    os.makedirs(folder, exist_ok=True)
    with storage.exclusive(folder):
        yield
