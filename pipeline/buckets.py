"""Google Cloud Storage where it can do more than fsspec's interface: changes that happen only if nobody was quicker.

An object's version is its generation as text, "" where there is no object.
https://cloud.google.com/storage/docs/request-preconditions
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.cloud import storage

_THREADS = 16
_SCHEMES = ("gs://", "gcs://")


def holds(path: str) -> bool:
    return path.startswith(_SCHEMES)


def version(path: str) -> str:
    blob = _blob(path)
    try:
        with _as_os_error(path):
            blob.reload(retry=_retry())
    except FileNotFoundError:
        return ""
    return str(blob.generation)


def read(path: str) -> tuple[bytes, str] | None:
    """The content and the version it belongs to."""
    while found := version(path):
        with contextlib.suppress(FileNotFoundError), _as_os_error(path):  # replaced or deleted since: look again
            data = _blob(path, int(found)).download_as_bytes(retry=_retry())
            return data, found
    return None


def write(path: str, data: bytes, expected: str) -> None:
    """Raises FileExistsError where the object's version is not `expected`."""
    with _as_os_error(path):
        _blob(path).upload_from_string(data, if_generation_match=int(expected or 0), retry=_retry())


def remove(path: str, expected: str) -> None:
    """Raises FileExistsError where the object has another version; no error where there is none."""
    with contextlib.suppress(FileNotFoundError), _as_os_error(path):
        _blob(path).delete(if_generation_match=int(expected), retry=_retry())


def copy(source: str, target: str, *, new: bool = False) -> None:
    """Copies inside the service. With `new` it raises FileExistsError where there is a target.

    Raises:
      FileNotFoundError: where there is no source at the moment of copying.
    """
    copied, token = _blob(target), None
    only_if = {"if_generation_match": 0} if new else {}
    with _as_os_error(source):
        while True:  # a large object may take several calls where the two places differ in location or class
            token, _, _ = copied.rewrite(_blob(source), token=token, retry=_retry(), **only_if)
            if token is None:
                return


def remove_tree(path: str) -> None:
    """Deletes the object `path` and all below `path`/; only an empty listing counts as done."""
    bucket, name = _split(path)

    def delete(blob: Any) -> None:
        with contextlib.suppress(FileNotFoundError), _as_os_error(blob.name):
            blob.delete(retry=_retry())

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        while True:
            with _as_os_error(path):
                found = [
                    blob
                    for blob in _client().list_blobs(bucket, prefix=name, retry=_retry())
                    if blob.name == name or blob.name.startswith(name.rstrip("/") + "/")
                ]
            if not found:
                return
            list(pool.map(delete, found))


@functools.lru_cache(maxsize=1)
def _client() -> storage.Client:
    from google.cloud import storage

    return storage.Client()


def _retry() -> Any:
    """Every call here may be repeated: what must not happen twice carries a version that only fits once."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY


def _split(path: str) -> tuple[str, str]:
    bucket, _, name = path.split("://", 1)[1].partition("/")
    return bucket, name


def _blob(path: str, generation: int | None = None) -> storage.Blob:
    bucket, name = _split(path)
    return _client().bucket(bucket).blob(name, generation=generation)


@contextlib.contextmanager
def _as_os_error(path: str) -> Iterator[None]:
    """Says what went wrong as the same operation on a disk would."""
    from google.api_core import exceptions

    try:
        yield
    except exceptions.NotFound as error:
        raise FileNotFoundError(f"{path}: {error.message}") from error
    except exceptions.PreconditionFailed as error:
        raise FileExistsError(f"{path} is not what it was: {error.message}") from error
    except exceptions.GoogleAPIError as error:
        raise OSError(f"{path}: {error}") from error
