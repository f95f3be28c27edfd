"""Model files that run code, read files or open connections where they are loaded without care; one per known way.

Each is built for real: by Keras, h5py or TensorFlow where these still write such a file, else by hand.
"""

from __future__ import annotations

import json
import os
import pathlib
import stat
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import InputError
from trainer import safe_loading

MEMBERS = ("config.json", "metadata.json", "model.weights.h5")


def refused(load: Callable[[str], object], path: pathlib.Path, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        load(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def read_weights(path: str) -> None:
    with safe_loading.h5_weights(path):
        pass


def network() -> keras.Model:
    """The smallest that has weights."""
    inputs = keras.Input([2], name="inputs")
    return keras.Model(inputs, keras.layers.Dense(3, name="dense")(inputs))


def harmless(path: pathlib.Path) -> keras.Model:
    net = network()
    net.save(path)
    return net


def archive(path: pathlib.Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A .keras archive of `network`, whose config was changed."""
    harmless(path)
    with zipfile.ZipFile(path) as source:
        members = {name: source.read(name) for name in source.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as target:
        for name, data in members.items():
            target.writestr(name, data)


def layer(module: str | None, class_name: str, config: dict[str, Any] | str, **more: Any) -> Callable[[dict], None]:
    """A change that puts such a layer in place of the dense one, called with its input as that was."""

    def change(config_of_model: dict[str, Any]) -> None:
        old = config_of_model["config"]["layers"][1]
        new = {"module": module, "class_name": class_name, "config": config, "registered_name": None, "name": "dense"}
        config_of_model["config"]["layers"][1] = {**new, "inbound_nodes": old["inbound_nodes"], **more}

    return change


def function(module: str, name: str) -> dict[str, Any]:
    return {"module": module, "class_name": "function", "config": name, "registered_name": "function"}


def lambda_of(function: Any, arguments: dict[str, Any]) -> Callable[[dict], None]:
    config = {"name": "dense", "function": function, "arguments": arguments, "output_shape": [3]}
    return layer("keras.layers", "Lambda", config)


def bytecode(marker: pathlib.Path) -> keras.Model:
    """A Lambda layer whose Python code makes the file `marker` (CVE-2024-3660)."""
    inputs = keras.Input([2], name="inputs")
    code = eval(f"lambda x: (open({str(marker)!r}, 'w').close(), x)[1]")
    net = keras.Model(inputs, keras.layers.Lambda(code, output_shape=(2,), name="dense")(inputs))
    if marker.exists():
        marker.unlink()  # building it ran it
    return net


def rewrite(path: pathlib.Path, **options: Any) -> Callable[[str, bytes], None]:
    """Empties the archive; the result adds members to it."""
    path.unlink(missing_ok=True)

    def add(name: str, data: bytes, kind: int = stat.S_IFREG, compression: int = zipfile.ZIP_STORED) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr = (kind | 0o600) << 16
        with zipfile.ZipFile(path, "a") as target:
            target.writestr(info, data, compress_type=compression)

    return add


def members(path: pathlib.Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as source:
        return {name: source.read(name) for name in source.namelist()}


def weights(path: pathlib.Path) -> None:
    """What Keras writes, to be made hostile by the functions below."""
    network().save_weights(path)


def in_place_of_kernel(path: pathlib.Path, write: Callable[[h5py.Group, str], None]) -> None:
    with h5py.File(path, "a") as file:
        group = file["layers/dense/vars"]
        del group["0"]
        write(group, "0")


def external_storage(secret: pathlib.Path) -> Callable[[h5py.Group, str], None]:
    def write(group: h5py.Group, name: str) -> None:
        group.create_dataset(name, (2, 3), "f4", external=[(str(secret), 0, 24)])

    return write


def external_link(secret: pathlib.Path) -> Callable[[h5py.Group, str], None]:
    with h5py.File(secret, "w") as file:
        file["data"] = np.full((2, 3), 7, np.float32)

    def write(group: h5py.Group, name: str) -> None:
        group[name] = h5py.ExternalLink(str(secret), "data")

    return write


def virtual_dataset(secret: pathlib.Path) -> Callable[[h5py.Group, str], None]:
    with h5py.File(secret, "w") as file:
        file["data"] = np.full((2, 3), 7, np.float32)

    def write(group: h5py.Group, name: str) -> None:
        layout = h5py.VirtualLayout((2, 3), "f4")
        layout[:] = h5py.VirtualSource(str(secret), "data", (2, 3))
        group.create_virtual_dataset(name, layout)

    return write


def soft_link(group: h5py.Group, name: str) -> None:
    group[name] = h5py.SoftLink("/layers/dense/vars/1")


def shape_bomb(group: h5py.Group, name: str) -> None:
    group.create_dataset(name, (1 << 20, 1 << 20), "f4", chunks=(1 << 10, 1 << 10), compression="gzip")


def never_written(group: h5py.Group, name: str) -> None:
    """Declares 3.9 GiB, below Keras' own limit for one, and stores none; many of them add up."""
    group.create_dataset(name, (1 << 15, 1 << 15), "f4", chunks=(1 << 10, 1 << 10))


def same_data_often(group: h5py.Group, name: str) -> None:
    group[name] = group["1"]  # a second name of one object


def pointers(group: h5py.Group, name: str) -> None:
    group.create_dataset(name, (2, 3), h5py.special_dtype(vlen=np.float32))


def saved(path: pathlib.Path, body: Callable[[tf.Tensor], tf.Tensor], **attributes: Any) -> None:
    """A SavedModel with one function, string [] -> what `body` gives."""
    module = tf.Module()
    module.weight = tf.Variable([1.0, 2.0])
    for name, value in attributes.items():
        setattr(module, name, value)
    module.run = tf.function(body, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    tf.saved_model.save(module, str(path), signatures={"run": tf.function(
        lambda text: {"found": module.run(text)}, input_signature=[tf.TensorSpec([], tf.string, "text")]
    )})  # fmt: skip


def writes(marker: pathlib.Path) -> Callable[[tf.Tensor], tf.Tensor]:
    def body(text: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.io.write_file(str(marker), "run")]):
            return tf.identity(text)

    return body


def writes_in_a_loop(marker: pathlib.Path) -> Callable[[tf.Tensor], tf.Tensor]:
    """Two functions deep, where only the library names the operation."""

    def step(count: tf.Tensor, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return count + 1, tf.cond(tf.strings.length(text) >= 0, lambda: writes(marker)(text), lambda: text)

    def body(text: tf.Tensor) -> tf.Tensor:
        return tf.while_loop(lambda count, _: count < 1, step, (tf.constant(0), text))[1]

    return body


def prints(marker: pathlib.Path) -> Callable[[tf.Tensor], tf.Tensor]:
    def body(text: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.print("run", output_stream=f"file://{marker}")]):
            return tf.identity(text)

    return body


def calls_python(marker: pathlib.Path) -> Callable[[tf.Tensor], tf.Tensor]:
    def python(text: bytes) -> bytes:
        marker.touch()
        return text

    return lambda text: tf.ensure_shape(tf.numpy_function(python, [text], tf.string), [])


def debugs(marker: pathlib.Path) -> Callable[[tf.Tensor], tf.Tensor]:
    """A copy of every value goes to a folder, or to an address."""
    folder = f"file://{marker}"
    return lambda text: tf.raw_ops.DebugIdentityV2(input=text, tfdbg_context_id="x", debug_urls=[folder])


class RunsAsItIsLoaded(tf.saved_model.experimental.TrackableResource):  # type: ignore[misc]
    """TensorFlow calls `_initialize` of what it restores."""

    def __init__(self, marker: pathlib.Path) -> None:
        super().__init__()
        self._marker = str(marker)
        self.resource_handle  # noqa: B018  # made by asking

    def _create_resource(self) -> tf.Tensor:
        return tf.raw_ops.MutableHashTableV2(key_dtype=tf.string, value_dtype=tf.int64)

    def _initialize(self) -> None:
        tf.io.write_file(self._marker, "run")


def link(folder: pathlib.Path, name: str, target: pathlib.Path) -> None:
    target.write_bytes((folder / name).read_bytes())
    (folder / name).unlink()
    os.symlink(target, folder / name)
