"""Hostile SavedModels run nothing and read nothing; where they are loaded without care, they do."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from pipeline.errors import InputError
from tests.trainer.loading_checks import hostile_models as hostile
from tests.trainer.loading_checks.hostile_models import refused
from trainer import safe_loading
from trainer.loading_checks import graph


def test_a_harmless_saved_model_is_loaded(tmp_path: pathlib.Path) -> None:
    names = tf.constant(["a", "b"])
    hostile.saved(tmp_path / "good", lambda text: tf.strings.length(text) + tf.size(names) - 2, names=names)
    loaded = safe_loading.saved_model(str(tmp_path / "good"))
    assert loaded.signatures["run"](text=tf.constant("abc"))["found"] == 3
    assert loaded.weight.numpy().tolist() == [1, 2]


@pytest.mark.parametrize(
    ("payload", "operation"),
    [
        (hostile.writes, "WriteFile"),
        (hostile.writes_in_a_loop, "WriteFile"),
        (hostile.prints, "PrintV2"),
        (hostile.calls_python, "PyFunc"),
        (hostile.debugs, "DebugIdentityV2"),
    ],
)
def test_operations_that_reach_beyond_a_saved_model(
    tmp_path: pathlib.Path, marker: pathlib.Path, payload: Callable, operation: str
) -> None:
    hostile.saved(tmp_path / "evil", payload(marker))
    refused(safe_loading.saved_model, tmp_path / "evil", f"runs the operation {operation} ")
    assert not marker.exists()
    tf.saved_model.load(str(tmp_path / "evil")).signatures["run"](text=tf.constant(""))
    assert marker.exists()


def test_a_saved_model_that_reads_files(tmp_path: pathlib.Path, secret: pathlib.Path) -> None:
    folder = tmp_path / "evil"
    hostile.saved(folder, tf.io.read_file)
    refused(safe_loading.saved_model, folder, "runs the operation ReadFile ")
    found = tf.saved_model.load(str(folder)).signatures["run"](text=tf.constant(str(secret)))["found"]
    assert found.numpy() == secret.read_bytes()


def test_a_saved_model_that_runs_as_it_is_loaded(tmp_path: pathlib.Path, marker: pathlib.Path) -> None:
    folder = tmp_path / "evil"
    hostile.saved(folder, tf.identity, resource=hostile.RunsAsItIsLoaded(marker))
    marker.unlink(missing_ok=True)
    refused(safe_loading.saved_model, folder, "object of kind 'resource'")
    assert not marker.exists()
    tf.saved_model.load(str(folder))
    assert marker.exists()


def test_a_saved_model_s_files(tmp_path: pathlib.Path, secret: pathlib.Path) -> None:
    folder = tmp_path / "evil"
    hostile.saved(folder, tf.identity, asset=tf.saved_model.Asset(str(secret)))
    safe_loading.saved_model(str(folder))
    for name in ("../../secret", str(secret), ".."):
        (folder / "saved_model.pb").write_bytes(_changed(folder, functools.partial(_rename_asset, name)))
        assert tf.saved_model.load(str(folder)).asset.asset_path.numpy().decode().endswith(name)
        refused(safe_loading.saved_model, folder, f"names the file '{name}'")

    hostile.saved(tmp_path / "good", tf.identity)
    for name in ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"):
        hostile.saved(folder, tf.identity)
        hostile.link(folder, name, tmp_path / "elsewhere")
        refused(safe_loading.saved_model, folder, "symbolic link")
        (folder / name).unlink()
        refused(safe_loading.saved_model, folder, "no such file")
        (folder / name).write_bytes(b"\0damaged")
        refused(safe_loading.saved_model, folder, "damaged|can't be loaded")
    values = tmp_path / "good" / "variables" / "variables.data-00000-of-00001"
    values.write_bytes(values.read_bytes()[:4])
    refused(safe_loading.saved_model, tmp_path / "good", "declare 8 bytes and store 4")


def _rename_asset(name: str, content: saved_model_pb2.SavedModel) -> None:
    content.meta_graphs[0].asset_file_def[0].filename = name


def _changed(folder: pathlib.Path, change: Callable[[saved_model_pb2.SavedModel], None]) -> bytes:
    content = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    change(content)
    return content.SerializeToString()


def test_what_hides_in_a_saved_model_s_description(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "good"
    hostile.saved(folder, lambda text: tf.strings.length(text))

    def like_an_operation(content: saved_model_pb2.SavedModel) -> None:
        content.meta_graphs[0].graph_def.library.function.add().signature.name = "ReadFile"

    def twice(content: saved_model_pb2.SavedModel) -> None:
        library = content.meta_graphs[0].graph_def.library
        library.function.add().CopyFrom(library.function[0])

    def of_a_class(content: saved_model_pb2.SavedModel) -> None:
        content.meta_graphs[0].object_graph_def.nodes[0].user_object.identifier = "_tf_keras_model"

    def registered(content: saved_model_pb2.SavedModel) -> None:
        content.meta_graphs[0].object_graph_def.nodes[0].registered_name = "Package.Class"

    def of_version_1(content: saved_model_pb2.SavedModel) -> None:
        content.meta_graphs[0].ClearField("object_graph_def")

    def huge(content: saved_model_pb2.SavedModel) -> None:
        node = content.meta_graphs[0].graph_def.node.add(name="huge", op="Const")
        tensor = node.attr["value"].tensor
        tensor.float_val.append(1.0)
        tensor.tensor_shape.dim.add(size=1 << 40)

    for change, reason in (
        (huge, "a constant huge of 1,099,511,627,776 elements"),
        (like_an_operation, "as an operation is called"),
        (twice, "two functions of the same name"),
        (of_a_class, "of class '_tf_keras_model'"),
        (registered, "of class 'Package.Class'"),
        (of_version_1, "no SavedModel of TensorFlow 2"),
    ):
        with pytest.raises(InputError, match=reason):
            graph.checked(_changed(folder, change), "x")


def test_what_nothing_calls_is_not_loaded(tmp_path: pathlib.Path) -> None:
    """Saving and restoring are graphs of operations on files, in every SavedModel; the loader has its own."""
    hostile.saved(tmp_path / "good", lambda text: tf.strings.length(text))
    whole = (tmp_path / "good" / "saved_model.pb").read_bytes()
    assert b"SaveV2" in whole
    assert b"RestoreV2" in whole
    kept = graph.checked(whole, "x")
    operations = {
        node.op
        for function in saved_model_pb2.SavedModel.FromString(kept).meta_graphs[0].graph_def.library.function
        for node in function.node_def
    }
    assert operations
    assert operations <= graph.OPERATIONS
    assert b"SaveV2" not in kept
    assert b"RestoreV2" not in kept
