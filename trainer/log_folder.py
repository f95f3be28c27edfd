"""A folder of logs, on a disk or in a bucket, in; one on the local disk for libraries to write to, and its upload, out.

A bucket has no appending, and TensorFlow's own file layer checks nothing that it moves and finds no store but a few. So
what TensorBoard and the profiler write lies on a disk, and a file that has grown is uploaded again, whole.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading

from pipeline import storage

_SEND_S = 60.0  # between two looks at what is new: somebody watches, and a checkpoint may be far


class LogFolder:
    """Attributes: local: the folder to write to."""

    def __init__(self, folder: str) -> None:
        self._target = "" if storage.is_local(folder) else folder
        self.local = tempfile.mkdtemp(prefix="shardline-logs-") if self._target else storage.local_name(folder)
        self._sent: dict[str, str] = {}
        self._sending = threading.Lock()
        self._closed = threading.Event()

    def send(self) -> None:
        """Uploads what has changed since the last time; nothing to do on a disk.

        Raises:
          OSError: where the bucket doesn't take it; the next call tries again.
        """
        if not self._target:
            return
        with self._sending:
            for name in storage.files_under(self.local):
                path = storage.join(self.local, name)
                found = storage.identity(path)
                if self._sent.get(name) != found:
                    storage.copy(path, storage.join(self._target, name))
                    self._sent[name] = found

    def keep_sending(self) -> None:
        """Does that once a minute from here on, beside the caller's work."""
        if self._target:
            # A daemon, so that a bucket that doesn't answer keeps no process from ending.
            threading.Thread(target=self._keep_sending, name="logs", daemon=True).start()

    def _keep_sending(self) -> None:
        while not self._closed.wait(_SEND_S):
            with contextlib.suppress(OSError):  # said by the caller's own `send`
                self.send()

    def close(self) -> None:
        """Uploads the rest and deletes the local folder of a bucket's."""
        self._closed.set()
        try:
            self.send()
        finally:
            if self._target:
                shutil.rmtree(self.local, ignore_errors=True)
