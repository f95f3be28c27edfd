"""Files on local disks and in buckets behind one set of functions; a path goes in, bytes or names come out.

Everything goes through fsspec, so `gs://…`, `s3://…` or `memory://…` work wherever its driver is installed.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


def join(root: str, *parts: str) -> str:
    """Joins with forward slashes, which is right for POSIX paths and for bucket addresses."""
    return "/".join([root.rstrip("/") or "/", *parts]).replace("//", "/", 1 if root == "/" else 0)


def is_local(path: str) -> bool:
    return "://" not in path or path.startswith(("file://", "local://"))


def _resolve(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The driver and the path as it wants it; local names may hold `::`, which fsspec would read as a chain."""
    if "://" not in path:
        return LocalFileSystem(), os.path.abspath(path)
    filesystem, name = fsspec.core.url_to_fs(path)
    return filesystem, name


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
    with open_file(path) as stream:
        data: bytes = stream.read()
    return data


def read_json(path: str) -> Any:
    return json.loads(read_bytes(path))


def write_text(path: str, text: str) -> None:
    """Writes whole or not at all: a reader sees the old content or the new, never half of it."""
    filesystem, name = _resolve(path)
    if isinstance(filesystem, LocalFileSystem):
        partial = f"{name}.partial-{os.getpid()}"
        with open_file(partial, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, name)
    else:  # an object appears only when its upload is complete
        with open_file(path, "w") as stream:
            stream.write(text)


def write_json(path: str, value: Any) -> None:
    # ASCII only: file and class names need not be valid Unicode on disk, and escapes carry even those.
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


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


def children(path: str) -> list[tuple[str, bool]]:
    """(name, is a folder or a link to one) of everything directly inside `path`, sorted by name."""
    filesystem, name = _resolve(path)
    return sorted(
        (
            os.path.basename(entry["name"].rstrip("/")),
            entry["type"] == "directory" or bool(entry.get("islink") and filesystem.isdir(entry["name"])),
        )
        for entry in filesystem.ls(name, detail=True)
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


def move(source: str, target: str) -> None:
    filesystem, name = _resolve(source)
    target_name = _resolve(target)[1]
    filesystem.makedirs(filesystem._parent(target_name), exist_ok=True)
    if isinstance(filesystem, LocalFileSystem):
        os.replace(name, target_name)
    else:
        filesystem.mv(name, target_name)


def remove_tree(path: str) -> None:
    """Deletes `path` and all below it; no error where there is nothing."""
    filesystem, name = _resolve(path)
    if filesystem.exists(name):
        filesystem.rm(name, recursive=True)
