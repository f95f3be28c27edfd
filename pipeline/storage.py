"""Files on local disks and in buckets behind one set of functions; a path goes in, bytes or names come out.

Everything goes through fsspec, so `s3://…` or `memory://…` work wherever their drivers are installed; gs:// has one of
ours. What has to happen once, or only if nobody else was quicker, is in `versions`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline import bucket_files, buckets
from pipeline.errors import InputError

_COPY_BYTES = 16 << 20


class NoDriverError(InputError):
    """An address of a kind that can't be read here."""


def join(root: str, *parts: str) -> str:
    """Joins with forward slashes, which is right for POSIX paths and for bucket addresses."""
    return "/".join([root.rstrip("/") or "/", *parts]).replace("//", "/", 1 if root == "/" else 0)


def is_local(path: str) -> bool:
    return "://" not in path or path.startswith(("file://", "local://"))


def _resolve(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The driver and the path as it wants it; local names may hold `::`, which fsspec would read as a chain."""
    if "://" not in path:
        return LocalFileSystem(), os.path.abspath(path)
    if buckets.holds(path):
        return bucket_files.BucketFiles(), path
    try:
        # A cached listing still shows what another job has deleted, and does not show what it has written.
        filesystem, name = fsspec.core.url_to_fs(path, use_listings_cache=False)
    except (ImportError, ValueError) as error:  # a driver that isn't installed, or that nobody knows
        raise NoDriverError(f"{path}: {error}; use a local path or gs://") from error
    return filesystem, name


def local_name(path: str) -> str:
    """The operating system's name of a local path."""
    return _resolve(path)[1]


def open_file(path: str, mode: str = "rb") -> IO[Any]:
    """Opens `path`; writing creates the folders above it.

    Raises:
      OSError: where it cannot be opened. Pipes, devices and sockets count as such: reading one may never end.
    """
    filesystem, name = _resolve(path)
    if "w" in mode:
        filesystem.makedirs(filesystem._parent(name), exist_ok=True)
    elif isinstance(filesystem, LocalFileSystem) and os.path.exists(name) and not os.path.isfile(name):
        raise OSError(errno.EINVAL, "not a regular file", name)
    stream: IO[Any] = filesystem.open(name, mode, **({} if "b" in mode else {"encoding": "utf-8"}))
    return stream


def read_bytes(path: str) -> bytes:
    filesystem, name = _resolve(path)
    if not isinstance(filesystem, LocalFileSystem):  # one request; opening would first ask for the size
        return bytes(filesystem.cat_file(name))
    with open_file(path) as stream:
        data: bytes = stream.read()
    return data


def read_json(path: str) -> Any:
    return json.loads(read_bytes(path))


@contextlib.contextmanager
def whole_file(path: str, scratch: str = "") -> Iterator[IO[bytes]]:
    """Opens `path` for writing. It appears when the block ends, complete and on disk; if the block raises, not at all.

    Several may write the same path at once: each writes a file of its own, and the last to end is what stays. On a
    local disk that file lies in the folder `scratch` until then, or beside `path`; only without `scratch` are the
    folders above it created. In a bucket an object appears when its upload is complete.
    """
    filesystem, name = _resolve(path)
    if buckets.holds(path):
        with tempfile.TemporaryFile() as stream:
            yield stream
            buckets.upload(path, stream)
        return
    if not isinstance(filesystem, LocalFileSystem):
        with open_file(path, "wb") as stream:
            try:
                yield stream
            except BaseException:
                _give_up(stream)
                raise
        return
    if not scratch:
        os.makedirs(os.path.dirname(name), exist_ok=True)
    folder = local_name(scratch) if scratch else os.path.dirname(name)
    partial = os.path.join(folder, f".{uuid.uuid4().hex}.partial")  # the name itself may be as long as names can be
    try:
        with open(partial, "x+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, name)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def _give_up(stream: IO[Any]) -> None:
    """Ends an upload without an object; closing alone would publish the part that was written."""
    with contextlib.suppress(Exception):  # an upload that nobody continues vanishes by itself after a week
        stream.discard()  # type: ignore[attr-defined]  # fsspec's
    stream.closed = True  # type: ignore[misc]  # fsspec's close() does nothing then


def write_bytes(path: str, data: bytes, scratch: str = "") -> None:
    """Writes whole or not at all: a reader sees the old content or the new, never half of it."""
    with whole_file(path, scratch) as stream:
        stream.write(data)


def write_text(path: str, text: str, scratch: str = "") -> None:
    write_bytes(path, text.encode(), scratch)


def write_json(path: str, value: Any, scratch: str = "") -> None:
    # ASCII only: file and class names need not be valid Unicode on disk, and escapes carry even those.
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n", scratch)


def exists(path: str) -> bool:
    filesystem, name = _resolve(path)
    return bool(filesystem.exists(name))


def is_directory(path: str) -> bool:
    filesystem, name = _resolve(path)
    return bool(filesystem.isdir(name))


def size_bytes(path: str) -> int:
    """Raises FileNotFoundError where there is no such file."""
    filesystem, name = _resolve(path)
    return int(filesystem.size(name))


def identity(path: str) -> str:
    """Tells this file from what may stand there later, even with the same content.

    Raises FileNotFoundError where there is no such file.
    """
    filesystem, name = _resolve(path)
    if isinstance(filesystem, LocalFileSystem):
        found = os.stat(name)
        return f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}"
    return str(filesystem.ukey(name))


def children(path: str) -> list[tuple[str, bool]]:
    """(name, is a folder or a link to one) of everything directly inside `path`, sorted by name."""
    filesystem, name = _resolve(path)
    return sorted(
        (
            os.path.basename(entry["name"].rstrip("/")),
            entry["type"] == "directory" or bool(entry.get("islink") and filesystem.isdir(entry["name"])),
        )
        for entry in filesystem.ls(name, detail=True)
        if entry["name"].rstrip("/") != name.rstrip("/")  # a bucket's folder may be listed inside itself
    )


def files_under(path: str) -> Iterator[str]:
    """Paths, relative to `path`, of all files in it and below, in sorted order.

    Links to folders below `path` are not followed, since they may form a circle; they are yielded like files, which
    fail to open, so that nobody loses them without a word.
    """
    filesystem, root = _resolve(path)

    def walk(folder: str, prefix: str) -> Iterator[str]:
        for entry in sorted(filesystem.ls(folder, detail=True), key=lambda entry: entry["name"]):
            name = os.path.basename(entry["name"].rstrip("/"))
            if entry["type"] == "directory" and not entry.get("islink"):
                yield from walk(entry["name"], f"{prefix}{name}/")
            else:
                yield prefix + name

    yield from walk(root, "")


def scan(path: str, enter: Callable[[str], bool] = lambda folder: True) -> Iterator[tuple[str, bool, OSError | None]]:
    """(file relative to `path`, whether it is a link, None) of everything in `path` and below that is no folder.

    Links are never followed. A folder that cannot be listed comes as ("folder/", False, why), and the rest goes on; in
    a bucket it raises, because there it is the bucket's failure. Files come in sorted order, folders after them.

    Args:
      enter: takes a folder below `path` as "folder/"; where it says False, the folder is not listed.
    """
    filesystem, root = _resolve(path)
    lister = _list_local if isinstance(filesystem, LocalFileSystem) else functools.partial(_list_remote, filesystem)
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            entries = lister(f"{root}/{folder}")
        except OSError as error:
            if not isinstance(filesystem, LocalFileSystem):
                raise
            yield folder, False, error
            continue
        for name, is_folder, is_link in entries:
            if not is_folder:
                yield folder + name, is_link, None
        below = [f"{folder}{name}/" for name, is_folder, _ in reversed(entries) if is_folder]
        waiting += filter(enter, below)


def _list_local(folder: str) -> list[tuple[str, bool, bool]]:
    """(name, is a folder, is a link), sorted. The kinds come with the names, so no file is asked for anything."""
    with os.scandir(folder) as entries:
        return sorted((entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in entries)


def _list_remote(filesystem: fsspec.AbstractFileSystem, folder: str) -> list[tuple[str, bool, bool]]:
    folder = folder.rstrip("/")
    entries = filesystem.ls(folder, detail=True)
    filesystem.invalidate_cache(folder)  # drivers keep listings for ever, and ten million names fill a worker's memory
    names = ((entry["name"].rstrip("/"), entry["type"] == "directory") for entry in entries)
    # A folder made by hand in a bucket is an empty object of its own name, which is listed inside itself.
    return sorted((name[len(folder) + 1 :], is_folder, False) for name, is_folder in names if name != folder)


def read_part(path: str, start_byte: int, limit_bytes: int) -> bytes:
    """At most `limit_bytes` bytes from `start_byte` on, by one request; fewer where the file ends.

    Raises:
      OSError: where it cannot be read. Pipes, devices and sockets count as such, and are not waited for.
    """
    filesystem, name = _resolve(path)
    if not isinstance(filesystem, LocalFileSystem):
        try:
            data: bytes = filesystem.cat_file(name, start=start_byte, end=start_byte + limit_bytes)
        except (FileNotFoundError, PermissionError):
            raise
        except Exception:
            if filesystem.size(name) <= start_byte:  # HTTP has no range for nothing and answers 416
                return b""
            raise
        return data
    file = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        end = min(status.st_size, start_byte + limit_bytes)
        parts = []
        while start_byte < end and (part := os.pread(file, end - start_byte, start_byte)):
            parts.append(part)
            start_byte += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(file)


def copy(source: str, target: str) -> None:
    """Copies one file; inside Google Cloud Storage no byte leaves it."""
    if buckets.holds(source) and buckets.holds(target):
        buckets.copy(source, target)
    elif buckets.holds(source):
        with whole_file(target) as writer:
            buckets.download(source, writer)
    elif buckets.holds(target):
        with open_file(source) as reader:
            buckets.upload(target, reader)
    else:
        with open_file(source) as reader, whole_file(target) as writer:
            shutil.copyfileobj(reader, writer, _COPY_BYTES)


def link_or_copy(source: str, target: str) -> None:
    """Puts the content of `source` at `target`: as a second name of the same file where the disk can, else as a copy.

    Nothing of ours writes into a file that exists, so the two names can't come to differ by surprise.
    """
    if is_local(source) and is_local(target):
        name = local_name(target)
        os.makedirs(os.path.dirname(name), exist_ok=True)
        partial = os.path.join(os.path.dirname(name), f".{uuid.uuid4().hex}.partial")
        try:
            os.link(local_name(source), partial)
        except FileNotFoundError:
            raise
        except OSError:  # another disk, a file system without links, or somebody else's file
            pass
        else:
            os.replace(partial, name)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)  # rename does nothing where both are names of one file already
            return
    copy(source, target)


def sync_folder(path: str) -> None:
    """Returns when the names in a local folder are on disk; files have to be synced before."""
    descriptor = os.open(local_name(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def exclusive(folder: str) -> Iterator[None]:
    """Waits until no other process of this machine is inside such a block for the same local folder.

    Where the file system has no locks it does not wait.
    """
    descriptor = os.open(local_name(folder), os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_tree(path: str) -> None:
    """Deletes `path` and all below it; no error where there is nothing, or where somebody else deletes it as well."""
    if buckets.holds(path):
        buckets.remove_tree(path)
        return
    filesystem, name = _resolve(path)
    while filesystem.exists(name):
        try:
            filesystem.rm(name, recursive=True)
        except FileNotFoundError:
            continue
