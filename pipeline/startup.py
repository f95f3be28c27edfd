"""Starting TensorFlow from a command: nothing in, TensorFlow imported out, without its notes."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def import_tensorflow(*, gpus: bool = True) -> None:
    """Imports TensorFlow and finds its devices without the notes it writes on machines that have no GPU.

    They come from C++ before its log level is read, so only the descriptor can hold them back. Everything is shown with
    TF_CPP_MIN_LOG_LEVEL set, with a GPU's driver there, or when the import fails.

    Args:
      gpus: False leaves them to other processes: TensorFlow takes all of a GPU's memory with the first tensor.
    """
    shown = _LOG_LEVEL in os.environ or os.path.exists("/dev/nvidiactl")
    stderr = os.dup(2)
    with keep_log_level(), tempfile.TemporaryFile() as held:
        os.environ.setdefault(_LOG_LEVEL, "2")  # for this process, which reads it once
        os.dup2(held.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
            if not gpus:
                tf.config.set_visible_devices([], "GPU")
        except BaseException:
            shown = True
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            if shown:
                held.seek(0)
                sys.stderr.buffer.write(held.read())


@contextlib.contextmanager
def keep_log_level() -> Iterator[None]:
    """Leaves the environment's log level as it was: a process started later would take it for the user's wish."""
    before = os.environ.get(_LOG_LEVEL)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_LOG_LEVEL, None)
        else:
            os.environ[_LOG_LEVEL] = before
