"""Starting TensorFlow from a command: nothing in, TensorFlow imported out, without its notes."""

from __future__ import annotations

import os
import sys
import tempfile


def import_tensorflow(*, gpus: bool = True) -> None:
    """Imports TensorFlow and finds its devices without the notes it writes on machines that have no GPU.

    They come from C++ before its log level is read, so only the descriptor can hold them back. Everything is shown with
    TF_CPP_MIN_LOG_LEVEL set, with a GPU's driver there, or when the import fails.

    Args:
      gpus: False leaves them to other processes: TensorFlow takes all of a GPU's memory with the first tensor.
    """
    shown = "TF_CPP_MIN_LOG_LEVEL" in os.environ or os.path.exists("/dev/nvidiactl")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
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
