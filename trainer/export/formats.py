"""Names of formats in; those to write, once it is sure that they can be written here, out. TensorFlow is not needed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from pipeline.errors import InputError

FILES = {
    "saved_model": "saved_model.pb",
    "keras": "model.keras",
    "tflite_float32": "model_float32.tflite",
    "tflite_float16": "model_float16.tflite",
    "tflite_dynamic": "model_dynamic.tflite",
    "tflite_int8": "model_int8.tflite",
    "onnx": "model.onnx",
}
DEFAULT = ("saved_model", "keras")  # which need nothing beyond the base installation
_PACKAGES = {"tflite": ("ai_edge_litert",), "onnx": ("onnx", "onnxruntime", "tf2onnx")}


def check(names: Sequence[str]) -> tuple[str, ...]:
    """The formats to write, in their order: those named, and the SavedModel, which serving and statistics need.

    Raises:
      InputError: for an unknown one, or one whose packages are not installed.
    """
    if unknown := [name for name in names if name not in FILES]:
        raise InputError(f"--formats: {', '.join(unknown)} is unknown; expected some of {', '.join(FILES)}")
    for name in names:
        packages = _PACKAGES.get(name.partition("_")[0], ())
        if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
            raise InputError(
                f"--formats={name} needs {', '.join(missing)}, not installed here: pip install 'shardline[export]'"
            )
    return tuple(name for name in FILES if name in names or name == "saved_model")
