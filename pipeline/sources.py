"""One shard of the manifest in, a local file that holds exactly its bytes (or its pixels) out.

Each class here has `get(index, closed)`, which gives a file that is held, or None where the cache has no room for it
now or `closed()` became true. What is wrong with a shard is an InputError that names it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import stat
import threading
from collections.abc import Callable, Sequence
from typing import IO

from pipeline import buckets, storage
from pipeline.errors import InputError
from pipeline.local_cache import Held, LocalCache
from pipeline.manifest import Shard

PART_BYTES = 32 << 20  # of one request: long enough to hide a bucket's latency, and repeated alone where it fails
# Before each further try of a request that failed.
_BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_ATTEMPTS = 3  # at a whole shard, where all requests succeed and their bytes are not those of the manifest
_PASSING = (408, 425, 429)  # of HTTP's 4xx, those that a later try may not get again
_HASH_BYTES = 1 << 20
_AGAIN = "copy it again from its source, or prepare the dataset again with --overwrite"

Closed = Callable[[], bool]
_Identity = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Local:
    """Shards on a disk, read where they are; hashed once, and again where the file is another than it was.

    A file counts as the same while device, inode, size and both times are: a copy that keeps the modification time
    still has another time of change.
    """

    directory: str
    shards: Sequence[Shard]
    verified: dict[int, _Identity] = dataclasses.field(default_factory=dict)

    def get(self, index: int, closed: Closed) -> Held:
        shard = self.shards[index]
        path = storage.join(self.directory, shard.file)
        name = storage.local_name(path)
        try:
            # A pipe is not waited for.
            descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                self._verify(index, path, descriptor)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            raise _missing(path) from None
        except OSError as error:
            raise InputError(f"shard {path} can't be read ({error}): {_AGAIN}") from error
        return Held(name)

    def _verify(self, index: int, path: str, descriptor: int) -> None:
        shard, found = self.shards[index], os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"shard {path} is not a regular file: {_AGAIN}")
        changed = " since training began" if index in self.verified else ""
        if found.st_size != shard.bytes:
            raise _wrong_size(path, shard, found.st_size, changed)
        identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if self.verified.get(index) != identity:
            with open(descriptor, "rb", closefd=False) as stream:
                sha256 = _sha256(stream)
            if sha256 != shard.sha256:
                raise _wrong_hash(path, shard, sha256, self.shards, changed)
            self.verified[index] = identity


@dataclasses.dataclass(frozen=True)
class Remote:
    """Shards of any address that fsspec knows, copied to the cache under the names of their hashes."""

    directory: str
    shards: Sequence[Shard]
    cache: LocalCache

    def get(self, index: int, closed: Closed) -> Held | None:
        shard = self.shards[index]
        path = storage.join(self.directory, shard.file)

        def fill(stream: IO[bytes]) -> None:
            fetch(path, shard, self.shards, stream, closed)

        def check(local: str) -> bool:
            with open(local, "rb") as stream:
                return os.path.getsize(local) == shard.bytes and _sha256(stream) == shard.sha256

        try:
            return self.cache.add(f"{shard.sha256}.tfrecord", shard.bytes, fill, check, closed)
        except _Stopped:
            return None


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Shards with their images decoded, kept in the cache; `source` is asked only for those that are not there."""

    source: Local | Remote
    cache: LocalCache

    def get(self, index: int, closed: Closed) -> Held | None:
        from pipeline import decoded  # brings TensorFlow

        shard = self.source.shards[index]
        name = decoded.file_name(shard)
        if held := self.cache.find(name, decoded.is_whole):
            return held
        source = self.source.get(index, closed)
        if source is None:
            return None
        try:
            layout = decoded.layout(source.path, shard)

            def fill(stream: IO[bytes]) -> None:
                decoded.write(source.path, shard, layout, stream)

            return self.cache.add(name, decoded.size_bytes(layout), fill, decoded.is_whole, closed)
        finally:
            source.release()


class _Stopped(Exception):  # noqa: N818  # nothing is wrong
    """The reader needs no more shards."""


def fetch(path: str, shard: Shard, shards: Sequence[Shard], stream: IO[bytes], closed: Closed) -> None:
    """Copies a remote shard into `stream`, by requests that are repeated where they fail, and compares its hash.

    Raises:
      InputError: where it is missing, can't be had for about half a minute, or is not what the manifest says.
      ConnectionError: where a bucket can't be reached.
    """
    for _ in range(_ATTEMPTS):
        digest, size = hashlib.sha256(), 0
        stream.seek(0)
        while size <= shard.bytes:
            # One byte more than is due shows a file that is too long.
            limit = min(PART_BYTES, shard.bytes - size + 1)
            part = _read_part(path, size, limit, closed)[: shard.bytes - size + 1]
            digest.update(part)
            size += len(part)
            if size <= shard.bytes:
                stream.write(part)
            # A short part may be a connection that was cut, and is continued; an empty one is the file's end.
            if not part or (size == shard.bytes and len(part) < limit):
                break
        if size == shard.bytes and digest.hexdigest() == shard.sha256:
            return
    if size != shard.bytes:
        raise _wrong_size(path, shard, size, "", at_least=size > shard.bytes)
    raise _wrong_hash(path, shard, digest.hexdigest(), shards, "")


def _read_part(path: str, start_byte: int, limit_bytes: int, closed: Closed) -> bytes:
    waiting = threading.Event()
    for backoff_s in (*_BACKOFF_S, None):
        if closed():
            raise _Stopped
        try:
            part = storage.read_part(path, start_byte, limit_bytes)
            # An HTTP server without ranges sends everything each time.
            return part if len(part) <= limit_bytes else part[start_byte:]
        except FileNotFoundError:
            raise _missing(path) from None
        except Exception as error:  # drivers raise what their libraries raise, aiohttp's and requests' among them
            if buckets.holds(path) and isinstance(error, ConnectionError):  # was tried again all the time
                raise
            if backoff_s is None or _is_final(error):
                raise InputError(
                    f"shard {path} can't be fetched ({type(error).__name__}: {error}): "
                    "look at the network and at who may read it, and start again; training resumes"
                ) from error
            waiting.wait(backoff_s * random.uniform(0.5, 1.0))  # so that many workers don't come back at once
    raise AssertionError("the last try returns or raises")


def _is_final(error: Exception) -> bool:
    """Whether the answer would be the same again."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    client_error = str(status).isdigit() and 400 <= int(str(status)) < 500 and int(str(status)) not in _PASSING
    return isinstance(error, PermissionError | ImportError) or client_error


def _sha256(stream: IO[bytes]) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_HASH_BYTES))
    while count := stream.readinto(buffer):  # type: ignore[attr-defined]
        digest.update(buffer[:count])  # lets other threads run meanwhile
    return digest.hexdigest()


def _missing(path: str) -> InputError:
    return InputError(f"shard {path} is missing: copy it back, or prepare the dataset again with --overwrite")


def _wrong_size(path: str, shard: Shard, found: int, changed: str, *, at_least: bool = False) -> InputError:
    more = "at least " if at_least else ""
    return InputError(
        f"shard {path} has changed{changed}: it has {more}{found:,} bytes, the manifest says {shard.bytes:,}: {_AGAIN}"
    )


def _wrong_hash(path: str, shard: Shard, found: str, shards: Sequence[Shard], changed: str) -> InputError:
    others = [other.file for other in shards if other.sha256 == found]
    whose = f" (that of {others[0]})" if others else ""
    return InputError(
        f"shard {path} has changed{changed}: its SHA-256 is {found}{whose}, the manifest says {shard.sha256}: {_AGAIN}"
    )
