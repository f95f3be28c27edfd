"""A .keras archive in; nothing out, or why it is refused, by rules of ours that hold before Keras sees the file.

Keras' safe mode refuses Python bytecode; most advisories since are ways around it, by classes and functions that a
config may name and that load, download or run something. So classes are allowed by name, those that image classifiers
are built of.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
import zipfile
from typing import Any

from pipeline.errors import InputError
from trainer.loading_checks import hdf5

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_ABOUT = "shardline.json"  # what `trainer export` adds, and Keras does not read
# Others are assets: files that layers read, vocabularies for instance, and which images have no need of.
_MEMBERS = (_CONFIG, _METADATA, _WEIGHTS)
_MAX_CONFIG_BYTES = 64 << 20  # EfficientNetB7's has 0.7 MiB

_LAYERS = (
    "Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv2D",
    "DepthwiseConv2D", "Dense", "Dropout", "ELU", "Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling2D",
    "GroupNormalization", "InputLayer", "LayerNormalization", "LeakyReLU", "MaxPooling2D", "Maximum", "Multiply",
    "Normalization", "PReLU", "Permute", "ReLU", "Rescaling", "Reshape", "SeparableConv2D", "Softmax",
    "SpatialDropout2D", "Subtract", "UpSampling2D", "ZeroPadding2D",
)  # fmt: skip
_INITIALIZERS = (
    "Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform", "Ones",
    "Orthogonal", "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling", "Zeros",
)  # fmt: skip
_CLASSES = frozenset(
    [
        *(("keras.layers", name) for name in _LAYERS),
        *(("keras.initializers", name) for name in _INITIALIZERS),
        *(("keras.regularizers", name) for name in ("L1", "L1L2", "L2")),
        ("keras", "DTypePolicy"),
        ("keras", "Sequential"),
        ("keras.models", "Sequential"),
        ("keras.src.models.functional", "Functional"),
        ("keras.src.ops.numpy", "Flip"),  # from RGB to BGR, for ResNet50 and VGG16
        (None, "__keras_tensor__"),  # which layer's output a layer takes
    ]
)


def check(path: str, name: str) -> None:
    """Reads the archive's list and its config, and looks at the headers of its weights.

    Args:
      path: a local file, read from here on.
      name: how messages call it.

    Raises:
      InputError: where it is no sound archive, or holds anything but a model of known layers and its plain weights.
    """
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            _check_members(archive, os.path.getsize(path), name)
            check_config(json.loads(archive.read(_CONFIG)), name)
            # By a name of ours; the member's own has been compared, but needs not be trusted.
            with archive.open(_WEIGHTS) as packed, open(os.path.join(folder, "weights"), "wb") as unpacked:
                while block := packed.read(1 << 20):
                    unpacked.write(block)
            hdf5.check(os.path.join(folder, "weights"), f"{name}/{_WEIGHTS}")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} is no sound .keras archive ({error}): export it again") from error


def _check_members(archive: zipfile.ZipFile, size_bytes: int, name: str) -> None:
    found = archive.infolist()
    for member in found:
        where = f"{name}: its member {member.filename!r}"
        if member.filename not in (*_MEMBERS, _ABOUT):
            raise InputError(f"{where} is not one of {', '.join(_MEMBERS)}: save the model again, without assets")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(f"{where} is a symbolic link: expected a file")
        # Keras stores them as they are, so that nothing can grow.
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise InputError(f"{where} is compressed: expected it stored, as Keras does it")
    names = [member.filename for member in found if member.filename != _ABOUT]
    if sorted(names) != sorted(_MEMBERS) or len(found) > len(names) + 1:
        raise InputError(f"{name} holds {len(found)} members: expected {', '.join(_MEMBERS)}, each once")
    if sum(member.file_size for member in found) > size_bytes:
        raise InputError(f"{name}: its members overlap: expected each in a place of its own")
    if max(archive.getinfo(part).file_size for part in (_CONFIG, _METADATA)) > _MAX_CONFIG_BYTES:
        raise InputError(f"{name}: its config or metadata has more than {_MAX_CONFIG_BYTES >> 20} MiB")


def check_config(config: Any, name: str) -> None:
    """Raises InputError where a model's config names anything but the classes that are allowed."""
    if not isinstance(config, dict):
        raise InputError(f"{name}/{_CONFIG} describes no model")
    # How it was compiled for training: of the outermost Keras reads none with compile=False.
    waiting: list[Any] = [{key: value for key, value in config.items() if key != "compile_config"}]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            _check_node(node, name)
            waiting += node.values()


def _check_node(node: dict[str, Any], name: str) -> None:
    if node.get("compile_config"):
        raise InputError(f"{name}/{_CONFIG}: a layer has a compile_config: expected none")
    if not {"class_name", "registered_name", "module"} & node.keys():
        return
    module, class_name, registered = (node.get(key) for key in ("module", "class_name", "registered_name"))
    if (module, class_name) not in _CLASSES if isinstance(class_name, str) else True:
        raise InputError(
            f"{name}/{_CONFIG} asks for {module}.{class_name}, which is none of the layers that image classifiers are "
            "built of: expected a model that holds no code, as `python -m trainer export` writes it"
        )
    # Code that somebody registered under this name would come before Keras' own.
    if registered not in (None, class_name):
        raise InputError(f"{name}/{_CONFIG} calls {module}.{class_name} {registered!r}: expected its own name or none")
