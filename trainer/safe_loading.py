"""The path or address of a model file that may come from others in; the model out, or one line where it could run code.

The one place where such files are opened. Each is copied first, checked, and loaded from that copy, so that nobody can
exchange it in between. What is refused: all that reaches beyond the model's own numbers and structure. What is not: a
model that takes more time or memory than there is as it runs, and errors in the libraries that read it.

Checkpoints of ours (`trainer.checkpoints`) need no such care: `tf.train.Checkpoint.read` reads numbers into variables
that exist and builds nothing from the file. `.npz` files are read with allow_pickle=False.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from pipeline import storage
from pipeline.errors import InputError
from trainer.loading_checks import graph, hdf5, keras_archive, variables

if TYPE_CHECKING:
    import keras

_GRAPH = "saved_model.pb"
_INDEX, _VALUES = "variables/variables.index", "variables/variables.data-00000-of-00001"
_MAX_GRAPH_BYTES = 256 << 20  # weights lie in files of their own; EfficientNetB7's with its heatmap has some 20 MiB
_MAX_INDEX_BYTES = 64 << 20


def keras_model(path: str) -> keras.Model:
    """Loads a `.keras` archive, uncompiled.

    Args:
      path: local, or an address; its name must end in .keras.

    Raises:
      InputError: where it is missing, damaged, or holds more than known layers and plain weights.
    """
    if not path.endswith(".keras"):
        raise InputError(
            f"{path}: expected a .keras archive; legacy .h5 models may hold code, which Keras runs even in safe mode"
        )
    import keras  # takes a second, and who loads a SavedModel does without

    with _copied(path, "model.keras") as name:
        keras_archive.check(name, path)
        try:
            return keras.saving.load_model(name, compile=False, safe_mode=True)
        # A config that names known layers may still be nonsense, for which Keras raises many types.
        except Exception as error:
            raise InputError(f"{path} can't be loaded ({_first_line(error)}): export it again") from error


@contextlib.contextmanager
def h5_weights(path: str) -> Iterator[str]:
    """Gives the local name of a checked copy of a weights file, for `keras.Model.load_weights`; it goes with the block.

    Args:
      path: local, or an address; its name must end in .h5, and in .weights.h5 where Keras 3 wrote it.

    Raises:
      InputError: where it is missing, damaged, a whole model, or takes data from outside of itself.
    """
    if not path.endswith(".h5"):
        raise InputError(f"{path}: expected weights in a .h5 file")
    name = "copy.weights.h5" if path.endswith(".weights.h5") else "copy.h5"  # by which Keras tells the two formats
    with _copied(path, name) as copy:
        hdf5.check(copy, path)
        yield copy


def saved_model(path: str) -> Any:
    """Loads a SavedModel that `python -m trainer export` wrote, or one made of the same operations.

    Args:
      path: its folder, local or an address. Only graph and variables are read, no assets nor anything else in it.

    Returns:
      As `tf.saved_model.load`.

    Raises:
      InputError: where it is missing or damaged, or holds operations that reach beyond the model, or links.
    """
    content = _limited(_inside(path, _GRAPH), _MAX_GRAPH_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(os.path.join(folder, "variables"))
        storage.write_bytes(os.path.join(folder, _GRAPH), graph.checked(content, storage.join(path, _GRAPH)))
        storage.write_bytes(os.path.join(folder, _INDEX), _limited(_inside(path, _INDEX), _MAX_INDEX_BYTES))
        storage.copy(_inside(path, _VALUES), os.path.join(folder, _VALUES))
        variables.check(os.path.join(folder, "variables", "variables"), path)
        try:
            return tf.saved_model.load(folder)
        # TensorFlow raises many types on damaged models.
        except Exception as error:
            raise InputError(f"{path} can't be loaded ({_first_line(error)}): export it again") from error


@contextlib.contextmanager
def _copied(path: str, name: str) -> Iterator[str]:
    _existing(path)
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, name)
        storage.copy(path, copy)
        yield copy


def _existing(path: str) -> str:
    if not storage.exists(path) or storage.is_directory(path):
        raise InputError(f"{path}: no such file")
    return path


def _inside(folder: str, name: str) -> str:
    path = storage.join(folder, name)
    for part in (os.path.dirname(path), path):
        if storage.is_local(part) and os.path.islink(storage.local_name(part)):
            raise InputError(f"{part} is a symbolic link: expected the model's own files")
    return _existing(path)


def _limited(path: str, limit_bytes: int) -> bytes:
    if storage.size_bytes(path) > limit_bytes:
        raise InputError(
            f"{path} has more than {limit_bytes >> 20} MiB: expected a model as `trainer export` writes it"
        )
    return storage.read_bytes(path)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
