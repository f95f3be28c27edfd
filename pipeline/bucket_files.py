"""Google Cloud Storage as fsspec's interface has it, so that `storage` needs no second way; names keep their gs://.

Not gcsfs: that checks nothing that it downloads, gives up after six tries whatever time they took, and its errors don't
name the object.
"""

from __future__ import annotations

import contextlib
import tempfile
from typing import IO, Any

from fsspec import AbstractFileSystem

from pipeline import buckets


class BucketFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec ships no types
    """As much of it as `storage` calls; an object is written by `buckets.upload`."""

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        if found := buckets.look(path):
            return _entry(path, found)
        if buckets.is_folder(path):
            return {"name": path, "type": "directory", "size": 0}
        raise FileNotFoundError(f"{path}: there is no such object")

    def exists(self, path: str, **_: Any) -> bool:
        """Raises OSError where the bucket doesn't say; fsspec's own takes that for a no."""
        return buckets.look(path) is not None or buckets.is_folder(path)

    def isdir(self, path: str) -> bool:
        return buckets.look(path) is None and buckets.is_folder(path)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Raises FileNotFoundError where there is nothing; a listing is never kept."""
        folder = path.rstrip("/")
        entries = [_entry(f"{folder}/{found.name}", found) for found in buckets.children(folder)]
        if not entries and not buckets.is_folder(folder):
            entries = [self.info(folder)]
        return entries if detail else [entry["name"] for entry in entries]

    def ukey(self, path: str) -> str:
        version = self.info(path).get("version")
        if not version:
            raise FileNotFoundError(f"{path}: there is no such object")
        return str(version)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        if start is None or end is None:
            return buckets.read_bytes(path)
        return buckets.read_part(path, start, end - start)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> IO[bytes]:
        """Whole and checked, on the local disk, before the first byte is handed out."""
        if mode != "rb":
            raise ValueError(f"{path}: an object is written whole, by storage.whole_file")
        with contextlib.ExitStack() as unless_sound:
            stream = unless_sound.enter_context(tempfile.TemporaryFile())
            buckets.download(path, stream)
            stream.seek(0)
            unless_sound.pop_all()
        return stream


def _entry(path: str, found: buckets.Found) -> dict[str, Any]:
    kind = "directory" if found.is_folder else "file"
    return {"name": path, "type": kind, "size": found.size_bytes, "version": found.version}
