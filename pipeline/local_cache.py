"""Files that cost time to get, kept on a local disk within a bound: a name and what fills it go in, a held file out.

Several processes of one machine share a folder. They agree by `flock`, which the kernel lets go of when a process dies,
so that no crash leaves anything locked:

    .lock          held while somebody counts bytes and removes files
    NAME.partial   being written by whoever has it locked; has its full size from the start, so that it counts
    NAME           whole, since it comes by one rename; locked, shared, by everyone who uses it

A `.partial` that nobody has locked was left by a crash; it is removed or written anew, and never read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from typing import IO

from pipeline import storage
from pipeline.errors import InputError

# The other half is for checkpoints, logs and whatever else lives on that disk.
_DISK_SHARE = 1 / 2
_PARTIAL = ".partial"
_OURS = re.compile(r"[0-9a-f]{64}\.[a-z0-9-]+(\.partial)?")  # a folder that somebody shares with us holds other files
_POLL_S = 0.05


@dataclasses.dataclass(frozen=True)
class Held:
    """A file that stays until it is released, also when other processes need room."""

    path: str
    descriptor: int | None = None  # its lock; None where the file is not the cache's

    def release(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)


class LocalCache:
    """Whole files of at most `max_bytes` together; the least recently used ones go first.

    The bound counts files that are being written too. Each process keeps to its own bound; give all the same.

    Args:
      directory: on a local disk; made where there is none.
      max_bytes: None for half of what the disk has free, files already in the cache counted as free.

    Raises:
      InputError: where the folder can't be written or its file system has no locks.
    """

    def __init__(self, directory: str, max_bytes: int | None) -> None:
        if not storage.is_local(directory):
            raise InputError(f"the shard cache {directory} is not on a local disk: give a folder of this machine")
        self.directory = storage.local_name(directory)
        try:
            os.makedirs(self.directory, exist_ok=True)
            with self._counting():
                held = sum(status.st_size for _, status in self._entries())
        except OSError as error:
            raise InputError(
                f"the shard cache {directory} can't be used ({error}): give a folder on a local disk that you may write"
            ) from error
        free = shutil.disk_usage(self.directory).free
        self.max_bytes = int((free + held) * _DISK_SHARE) if max_bytes is None else max_bytes
        self._checked: dict[str, tuple[int, int, int]] = {}

    def find(self, name: str, check: Callable[[str], bool]) -> Held | None:
        """The file called `name`, held, or None where there is none.

        `check` sees a path once per process, and again where the file was changed since; one that it refuses is
        removed.
        """
        path = os.path.join(self.directory, name)
        while (descriptor := _open(path)) is not None:
            try:
                # Waits no longer than it takes somebody to remove it; then there is no such file, or another.
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if _is(path, descriptor):
                    if self._checked.get(name) != _identity(descriptor):
                        self._check(name, path, descriptor, check)
                    if _is(path, descriptor):
                        with contextlib.suppress(PermissionError):  # another user's, who says himself when he needs it
                            os.utime(path, ns=(time.time_ns(), os.fstat(descriptor).st_mtime_ns))
                        return Held(path, descriptor)
            except FileNotFoundError:  # removed by hand between two calls
                pass
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        return None

    def _check(self, name: str, path: str, descriptor: int, check: Callable[[str], bool]) -> None:
        identity = _identity(descriptor)
        if check(path):
            self._checked[name] = identity
            return
        logging.warning("input: %s is damaged; it is removed from the cache and made again", path)
        with self._counting():
            if _is(path, descriptor):  # and not what somebody else has put in its place meanwhile
                os.unlink(path)

    def add(
        self,
        name: str,
        size_bytes: int,
        fill: Callable[[IO[bytes]], None],
        check: Callable[[str], bool],
        closed: Callable[[], bool] = lambda: False,
    ) -> Held | None:
        """Writes the file called `name`, of `size_bytes`, unless somebody else is quicker; waits for whoever is at it.

        `fill` gets a stream at the start of the file and leaves it at its end. Where it raises nothing is left.

        Returns:
          None where it would not fit now, because everything else in the cache is in use, or where `closed`.

        Raises:
          InputError: for a file larger than the cache, or where the disk is full.
        """
        if size_bytes > self.max_bytes:
            raise InputError(
                f"the shard cache {self.directory} may hold {_mib(self.max_bytes)}, and one file of it needs "
                f"{_mib(size_bytes)}: allow more with input.cache_gib"
            )
        path = os.path.join(self.directory, name)
        while not closed():
            if held := self.find(name, check):
                return held
            descriptor = os.open(path + _PARTIAL, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if not (_lock(descriptor) and _is(path + _PARTIAL, descriptor)):
                    time.sleep(_POLL_S)
                    continue
                if os.path.exists(path):  # appeared since we looked
                    _unlink(path + _PARTIAL)
                    continue
                if not self._write(path, descriptor, size_bytes, fill):
                    return None
                # One kind of lock becomes the other with a moment in between, in which somebody who needs room may
                # remove the file.
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if _is(path, descriptor):
                    self._checked[name] = _identity(descriptor)
                    return Held(path, os.dup(descriptor))  # a copy shares the lock
            finally:
                os.close(descriptor)
        return None

    def _write(self, path: str, descriptor: int, size_bytes: int, fill: Callable[[IO[bytes]], None]) -> bool:
        """Fills the partial file behind `descriptor` and publishes it; False where there is no room."""
        try:
            if not self._reserve(path + _PARTIAL, descriptor, size_bytes):
                _unlink(path + _PARTIAL)
                return False
            with os.fdopen(descriptor, "r+b", closefd=False) as stream:
                fill(stream)
                if stream.tell() != size_bytes:
                    raise ValueError(f"{stream.tell():,} bytes were written, {size_bytes:,} were announced")
            os.fsync(descriptor)
            os.replace(path + _PARTIAL, path)
        except BaseException as error:
            _unlink(path + _PARTIAL)
            if not isinstance(error, OSError):
                raise
            why = "its disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
            raise InputError(
                f"the shard cache {self.directory} can't take {_mib(size_bytes)} more ({why}): free some space, or "
                "choose another folder with input.cache_dir"
            ) from error
        return True

    def _reserve(self, partial: str, descriptor: int, size_bytes: int) -> bool:
        """Makes room within the bound by removing what nobody uses, the least recently used first."""
        with self._counting():
            entries = [(path, status) for path, status in self._entries() if path != partial]
            excess = sum(status.st_size for _, status in entries) + size_bytes - self.max_bytes
            # What a crash has left goes in any case.
            abandoned = [entry for entry in entries if entry[0].endswith(_PARTIAL)]
            whole = [entry for entry in entries if not entry[0].endswith(_PARTIAL)]
            for path, status in abandoned + sorted(whole, key=lambda entry: entry[1].st_atime_ns):
                if (path.endswith(_PARTIAL) or excess > 0) and _remove_unused(path):
                    excess -= status.st_size
            if excess > 0:
                return False
            os.ftruncate(descriptor, 0)
            if size_bytes:
                os.posix_fallocate(descriptor, 0, size_bytes)  # a full disk shows now and not in the middle
        return True

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        descriptor = os.open(os.path.join(self.directory, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _entries(self) -> Iterator[tuple[str, os.stat_result]]:
        with os.scandir(self.directory) as entries:
            for entry in entries:
                if _OURS.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        yield entry.path, entry.stat(follow_symlinks=False)


def _remove_unused(path: str) -> bool:
    descriptor = _open(path)
    if descriptor is None:
        return True
    try:
        unused = _lock(descriptor) and _is(path, descriptor)
        if unused:
            _unlink(path)
        return unused
    finally:
        os.close(descriptor)


def _open(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(path: str, descriptor: int) -> bool:
    """Whether the name still stands for the file that was opened."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def _identity(descriptor: int) -> tuple[int, int, int]:
    found = os.fstat(descriptor)
    return found.st_ino, found.st_size, found.st_mtime_ns


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"
