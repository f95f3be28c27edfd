"""The one client for Google Cloud Storage: how long a request is repeated, and what is raised where that didn't help.

https://cloud.google.com/storage/docs/retry-strategy
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError

if TYPE_CHECKING:
    from google.cloud import storage

# No new try after that. The service's own stalls last seconds, a router's restart a minute or two; who waits longer is
# better told. A try that is never answered takes `_ANSWER_S` more.
PATIENCE_S = 120.0
_ANSWER_S = 60.0
# Between two tries at random up to so much, doubling: some thirty tries fit, so that 40 % failures end nothing.
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 8.0
_CONNECTIONS = 64  # kept open: preparation reads with 32 threads, and a new one costs a handshake


@functools.lru_cache(maxsize=1)
def client() -> storage.Client:
    try:
        import requests.adapters
        from google.auth.exceptions import DefaultCredentialsError
        from google.cloud import storage
    except ImportError as error:
        raise InputError(f"gs:// needs Google's client ({error}): pip install 'shardline[gcp]'") from error

    try:
        made = storage.Client()
    except DefaultCredentialsError:  # public buckets can be read all the same, and others say who may
        made = storage.Client.create_anonymous_client()
    # The client has no setting for it: https://github.com/googleapis/python-storage/issues/253
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS)
    for scheme in ("https://", "http://"):
        made._http.mount(scheme, adapter)
    return made


def patiently() -> dict[str, Any]:
    """Keywords of every request. All may be repeated: what must happen once carries a version that fits only once."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    pauses = DEFAULT_RETRY.with_delay(initial=_FIRST_PAUSE_S, maximum=_LONGEST_PAUSE_S)
    return {"retry": pauses.with_timeout(PATIENCE_S), "timeout": _ANSWER_S}


@contextlib.contextmanager
def as_os_error(path: str) -> Iterator[None]:
    """Says what went wrong as the same operation on a disk would, in one line.

    What may be well later is a ConnectionError.
    """
    client()  # says what is missing
    import requests
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError, TransportError
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

    try:
        yield
    except exceptions.NotFound as error:
        raise FileNotFoundError(f"{path}: {error.message}") from error
    except exceptions.PreconditionFailed as error:
        raise FileExistsError(f"{path} is not what it was: {error.message}") from error
    except (exceptions.Unauthorized, exceptions.Forbidden) as error:
        raise PermissionError(f"{path}: {_one_line(error)}") from error
    except exceptions.RetryError as error:
        last = error.cause or error
        raise ConnectionError(f"{path} can't be reached for {PATIENCE_S:g} s ({_one_line(last)})") from error
    except (exceptions.ServerError, requests.RequestException, TransportError) as error:
        raise ConnectionError(f"{path} can't be reached ({_one_line(error)})") from error
    except (exceptions.GoogleAPIError, GoogleAuthError, DataCorruption, InvalidResponse) as error:
        raise OSError(f"{path}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)  # the rest says how the client is made
    return f"status {status}" if status else " ".join(str(error).split()) or type(error).__name__
