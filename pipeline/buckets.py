"""Objects of Google Cloud Storage by their gs:// addresses: checked bytes, and changes only if nobody was quicker.

An object's version is its generation as text, "" where there is no object. What can't be had within
`bucket_client.PATIENCE_S` is a ConnectionError that names the object.
https://cloud.google.com/storage/docs/request-preconditions
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import io
import os
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import google_crc32c

from pipeline.bucket_client import as_os_error, client, patiently

if TYPE_CHECKING:
    from google.cloud import storage

# Bytes that arrive and are not the object's: on its way one flipped bit is bad luck, five times is a broken machine.
_ARRIVALS = 5
_THREADS = 16
_CRC_BYTES = 1 << 20
_SCHEMES = ("gs://", "gcs://")


class Found(NamedTuple):
    """One line of a listing."""

    name: str  # its last part
    is_folder: bool
    size_bytes: int
    version: str  # "" for a folder


def holds(path: str) -> bool:
    return path.startswith(_SCHEMES)


def version(path: str) -> str:
    found = look(path)
    return found.version if found else ""


def look(path: str) -> Found | None:
    """The object itself, None where there is none; folders are only in the names of others."""
    if not _split(path)[1]:
        return None
    blob = _blob(path)
    try:
        with as_os_error(path):
            blob.reload(**patiently())
    except FileNotFoundError:
        return None
    return Found(path.rpartition("/")[2], False, int(blob.size), str(blob.generation))


def is_folder(path: str) -> bool:
    """Whether there are objects below `path`/; a bucket itself is one, too."""
    bucket, name = _split(path.rstrip("/"))
    try:
        with as_os_error(path):
            first = next(iter(_list(bucket, prefix=name and f"{name}/", max_results=1)), None)
    except FileNotFoundError:
        return False
    return first is not None or not name


def children(path: str) -> list[Found]:
    """What lies directly inside the folder `path`, sorted; nothing where there is no such folder.

    A folder that somebody made by hand is an empty object of its own name, and is not inside itself.
    """
    bucket, name = _split(path.rstrip("/"))
    prefix = name and f"{name}/"
    with as_os_error(path):
        listed = _list(bucket, prefix=prefix, delimiter="/")
        objects = [
            Found(blob.name[len(prefix) :], False, int(blob.size), str(blob.generation))
            for blob in listed
            if blob.name != prefix
        ]
    return sorted(objects + [Found(folder[len(prefix) : -1], True, 0, "") for folder in listed.prefixes])


def read(path: str) -> tuple[bytes, str] | None:
    """The content and the version it belongs to."""
    while found := version(path):
        with contextlib.suppress(FileNotFoundError):  # replaced or deleted since: look again
            return read_bytes(path, found), found
    return None


def read_bytes(path: str, expected: str = "") -> bytes:
    """Raises FileNotFoundError where there is no object, or none of the version `expected`."""
    stream = io.BytesIO()
    download(path, stream, expected)
    return stream.getvalue()


def download(path: str, stream: IO[bytes], expected: str = "") -> None:
    """Writes the content into the empty `stream`, where it has the object's checksum; see `read_bytes`."""
    for _ in range(_ARRIVALS):
        blob = _blob(path, int(expected) if expected else None)
        stream.seek(0)
        stream.truncate()
        with as_os_error(path):
            # Its own check ends with the first try that breaks off: the rest is asked for by range.
            blob.download_to_file(stream, checksum=None, **patiently())
        stream.seek(0)
        if _is_sound(blob, stream):
            return
    raise _damaged(path)


def read_part(path: str, start_byte: int, limit_bytes: int) -> bytes:
    """At most `limit_bytes` bytes from `start_byte` on, fewer where the object ends.

    The service tells a checksum of whole objects only, so that nothing but an answer that holds all can be checked.
    """
    from google.api_core import exceptions

    for _ in range(_ARRIVALS):
        blob = _blob(path)
        try:
            with as_os_error(path):
                end = start_byte + limit_bytes - 1
                data: bytes = blob.download_as_bytes(start=start_byte, end=end, checksum=None, **patiently())
        except OSError as error:
            if isinstance(error.__cause__, exceptions.RequestRangeNotSatisfiable):
                return b""
            raise
        if start_byte or len(data) >= limit_bytes or _is_sound(blob, io.BytesIO(data)):
            return data
    raise _damaged(path)


def _is_sound(blob: storage.Blob, stream: IO[bytes]) -> bool:
    """Whether `stream` holds what the checksum in the answer's header is of."""
    if blob.crc32c is None or blob.content_encoding == "gzip":  # that is of the compressed bytes
        return True
    found = google_crc32c.Checksum()
    while block := stream.read(_CRC_BYTES):
        found.update(block)
    return base64.b64encode(found.digest()).decode() == blob.crc32c


def _damaged(path: str) -> ConnectionError:
    return ConnectionError(f"{path} arrived damaged {_ARRIVALS} times: look at this machine's memory and network")


def upload(path: str, stream: IO[bytes]) -> None:
    """Writes the object from all that `stream` holds; the service compares the checksum before there is an object."""
    size = stream.seek(0, os.SEEK_END)
    with as_os_error(path):
        _blob(path).upload_from_file(stream, rewind=True, size=size, checksum="crc32c", **patiently())


def write(path: str, data: bytes, expected: str) -> None:
    """Raises FileExistsError where the object's version is not `expected`."""
    with as_os_error(path):
        _blob(path).upload_from_string(data, checksum="crc32c", if_generation_match=int(expected or 0), **patiently())


def remove(path: str, expected: str) -> None:
    """Raises FileExistsError where the object has another version; no error where there is none."""
    with contextlib.suppress(FileNotFoundError), as_os_error(path):
        _blob(path).delete(if_generation_match=int(expected), **patiently())


def copy(source: str, target: str, *, new: bool = False) -> None:
    """Copies inside the service. With `new` it raises FileExistsError where there is a target.

    Raises:
      FileNotFoundError: where there is no source at the moment of copying.
    """
    copied, token = _blob(target), None
    only_if = {"if_generation_match": 0} if new else {}
    with as_os_error(source):
        while True:  # a large object may take several calls where the two places differ in location or class
            token, _, _ = copied.rewrite(_blob(source), token=token, **patiently(), **only_if)
            if token is None:
                return


def remove_tree(path: str) -> None:
    """Deletes the object `path` and all below `path`/; only an empty listing counts as done."""
    bucket, name = _split(path.rstrip("/"))

    def delete(blob: Any) -> None:
        with contextlib.suppress(FileNotFoundError), as_os_error(f"gs://{bucket}/{blob.name}"):
            blob.delete(**patiently())

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        while True:
            with as_os_error(path):
                listed = _list(bucket, prefix=name)
                found = [blob for blob in listed if blob.name == name or blob.name.startswith(name and f"{name}/")]
            if not found:
                return
            list(pool.map(delete, found))


def _list(bucket: str, **options: Any) -> Any:
    fields = "items(name,size,generation),prefixes,nextPageToken"  # of an object's thirty
    return client().list_blobs(bucket, fields=fields, **patiently(), **options)


def _split(path: str) -> tuple[str, str]:
    bucket, _, name = path.split("://", 1)[1].partition("/")
    return bucket, name


def _blob(path: str, generation: int | None = None) -> storage.Blob:
    bucket, name = _split(path)
    return client().bucket(bucket).blob(name, generation=generation)
