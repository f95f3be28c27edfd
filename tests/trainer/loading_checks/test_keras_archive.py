"""Hostile .keras and .h5 models run nothing, read nothing and call nobody; where they can be, they are shown alive."""

from __future__ import annotations

import json
import pathlib
import socket
import zipfile
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.loading_checks import hostile_models as hostile
from tests.trainer.loading_checks.hostile_models import read_weights, refused
from trainer import batch_norm, model, safe_loading
from trainer.loading_checks import keras_archive


def test_a_harmless_archive_is_loaded(tmp_path: pathlib.Path) -> None:
    net = hostile.harmless(tmp_path / "net.keras")
    loaded = safe_loading.keras_model(str(tmp_path / "net.keras"))
    images = np.array([[1.0, -2.0]], np.float32)
    np.testing.assert_array_equal(loaded(images), net(images))


def test_python_code_in_an_archive(tmp_path: pathlib.Path, marker: pathlib.Path) -> None:
    """CVE-2024-3660, and CVE-2026-12481, where safe mode was not asked for."""
    path = tmp_path / "net.keras"
    hostile.bytecode(marker).save(path)
    refused(safe_loading.keras_model, path, r"keras.layers.Lambda")
    assert not marker.exists()
    keras.saving.load_model(path, safe_mode=False)(np.zeros((1, 2)))
    assert marker.exists()


def test_python_code_in_a_legacy_model(tmp_path: pathlib.Path, marker: pathlib.Path) -> None:
    """CVE-2025-9905: safe mode was ignored."""
    path = tmp_path / "net.h5"
    hostile.bytecode(marker).save(path)
    refused(safe_loading.keras_model, path, "legacy .h5 models may hold code")
    refused(read_weights, path, "whole model in the legacy")
    path.rename(tmp_path / "renamed.keras")
    refused(safe_loading.keras_model, tmp_path / "renamed.keras", "no sound .keras archive")
    assert not marker.exists()
    (tmp_path / "renamed.keras").rename(path)
    keras.saving.load_model(path, safe_mode=False, compile=False)(np.zeros((1, 2)))
    assert marker.exists()


def _calls_get_file(url: str, **options: bool) -> Callable[[dict], None]:
    return hostile.lambda_of(hostile.function("keras.utils", "get_file"), {"origin": url, **options})


def test_a_config_that_downloads(tmp_path: pathlib.Path, server: socket.socket) -> None:
    """CVE-2025-8747, and CVE-2025-12060, whose download is an archive that writes outside of its folder."""
    url = f"http://127.0.0.1:{server.getsockname()[1]}/x.tar"
    path = tmp_path / "net.keras"
    for options in ({}, {"extract": True}):
        hostile.archive(path, _calls_get_file(url, **options))
        refused(safe_loading.keras_model, path, "keras.layers.Lambda|get_file")
        hostile.archive(path, hostile.layer("keras.utils", "get_file", {"origin": url, **options}))
        refused(safe_loading.keras_model, path, "keras.utils.get_file")
    with pytest.raises(TimeoutError):
        server.accept()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        # CVE-2025-1550: any module's functions.
        (hostile.layer("os", "system", {"command": "touch x"}), "os.system"),
        (hostile.layer("builtins", "function", "eval"), "builtins.function"),
        (
            hostile.lambda_of(hostile.function("subprocess", "run"), {"args": ["touch", "{marker}"]}),
            "Lambda|subprocess",
        ),
        # CVE-2025-9906: first a layer that switches safe mode off.
        (hostile.lambda_of(hostile.function("keras.config", "enable_unsafe_deserialization"), {}), "Lambda|enable"),
        (hostile.layer("keras.config", "enable_unsafe_deserialization", {}), "enable_unsafe_deserialization"),
        (hostile.lambda_of(hostile.function("keras.models", "load_model"), {"safe_mode": False}), "Lambda|load_model"),
        # CVE-2025-49655: unpickles.
        (hostile.layer("keras.layers", "TorchModuleWrapper", {"module": "gASVAAAA"}), "TorchModuleWrapper"),
        (hostile.layer("keras.src.utils.torch_utils", "TorchModuleWrapper", {}), "TorchModuleWrapper"),
        (hostile.layer("keras.layers", "JaxLayer", {}), "JaxLayer"),
        # Names that somebody's own registered class would answer to, and old configs without a module.
        (hostile.layer("keras.layers", "Dense", {"units": 3}, registered_name="package>Evil"), "package>Evil"),
        (hostile.layer(None, "Lambda", {}), "None.Lambda"),
        (
            hostile.layer("keras.layers", "Dense", {"units": 3, "activation": {"class_name": "__lambda__"}}),
            "__lambda__",
        ),
        (hostile.layer("keras.layers", "Dense", {"units": 3}, compile_config={"optimizer": "adam"}), "compile_config"),
        (hostile.layer("keras.layers", ["Dense"], {"units": 3}), "Dense"),  # type: ignore[arg-type]
    ],
)
def test_a_config_that_names_more_than_layers(
    tmp_path: pathlib.Path, marker: pathlib.Path, change: Callable[[dict], None], named: str
) -> None:
    hostile.archive(tmp_path / "net.keras", change)
    refused(safe_loading.keras_model, tmp_path / "net.keras", f"net.keras/config.json.*({named})")
    assert not marker.exists()


def test_a_layer_that_reads_a_file(tmp_path: pathlib.Path, secret: pathlib.Path) -> None:
    """CVE-2025-12058: a vocabulary is the name of a file, or an address."""
    path = tmp_path / "net.keras"
    inputs = keras.Input([2], dtype="string", name="inputs")
    keras.Model(inputs, keras.layers.StringLookup(vocabulary=["a"], name="dense")(inputs)).save(path)
    members = hostile.members(path)
    config = json.loads(members["config.json"])
    config["config"]["layers"][1]["config"].update(vocabulary=str(secret), vocabulary_size=None)
    add = hostile.rewrite(path)
    for name in hostile.MEMBERS:
        add(name, json.dumps(config).encode() if name == "config.json" else members[name])
    refused(safe_loading.keras_model, path, "keras.layers.StringLookup")
    found = keras.saving.load_model(path, safe_mode=False, compile=False).layers[1].get_vocabulary()
    assert secret.read_text() in found


def test_a_layer_that_loads_a_saved_model(tmp_path: pathlib.Path, marker: pathlib.Path) -> None:
    """CVE-2026-1462: another model, of any operations, that lies elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    hostile.saved(elsewhere, hostile.writes(marker))
    path = tmp_path / "net.keras"
    config = {"filepath": str(elsewhere), "call_endpoint": "run", "name": "dense"}
    hostile.archive(path, hostile.layer("keras.layers", "TFSMLayer", config))
    refused(safe_loading.keras_model, path, "keras.layers.TFSMLayer")
    assert not marker.exists()
    tf.saved_model.load(str(elsewhere)).signatures["run"](text=tf.constant(""))
    assert marker.exists()


def test_members_that_do_not_belong_in_an_archive(tmp_path: pathlib.Path) -> None:
    """GHSA-hqp4-2352-xf5r among them: members that are written outside of where they are unpacked."""
    path = tmp_path / "net.keras"
    hostile.harmless(path)
    good = hostile.members(path)

    def rewritten(*, without: str = "") -> Callable[..., None]:
        add = hostile.rewrite(path)
        for name in hostile.MEMBERS:
            if name != without:
                add(name, good[name])
        return add

    rewritten()
    safe_loading.keras_model(str(path))  # else nothing below would show anything
    for name in ("../../evil", "/tmp/evil", "assets/vocabulary.txt", "config.json/x", "model.weights.npz", "a\nb"):
        rewritten()(name, b"x")
        refused(safe_loading.keras_model, path, r"its member .* is not one of")
    rewritten(without="config.json")("config.json", good["config.json"], kind=0o120000)
    refused(safe_loading.keras_model, path, "symbolic link")
    rewritten(without="config.json")("config.json", b" " * (50 << 20), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    refused(safe_loading.keras_model, path, "'config.json' is compressed")
    with pytest.warns(UserWarning, match="Duplicate name"):
        rewritten()("config.json", good["config.json"])
    refused(safe_loading.keras_model, path, "holds 4 members")
    rewritten(without="metadata.json")
    refused(safe_loading.keras_model, path, "holds 2 members")
    rewritten(without="config.json")("config.json", b'{"a":' * 100_000)
    refused(safe_loading.keras_model, path, "no sound .keras archive")
    path.write_bytes(b"PK\x03\x04 but no archive")
    refused(safe_loading.keras_model, path, "no sound .keras archive")


@pytest.mark.parametrize(
    "backbone",
    [
        "mobilenetv2",
        *(
            pytest.param(name, marks=pytest.mark.soak)
            for name in ("efficientnet_b0", "efficientnetv2_b0", "efficientnetv2_s", "resnet50", "vgg16")
        ),
    ],
)
def test_every_backbone_s_layers_are_allowed(backbone: str) -> None:
    net = model.build(
        backbone=backbone,
        num_classes=3,
        image_size=32,
        width=0.35 if backbone == "mobilenetv2" else None,
        weights="none",
        head="mlp",
        dropout=None,
        drop_path=None,
        batch_norm_momentum=None,
        sync_batch_norm=False,
    )
    batch_norm.unfuse(net)
    for layer in net._flatten_layers():
        if type(layer).__name__ == "PlacedDropout":
            layer.__class__ = keras.layers.Dropout
    keras_archive.check_config(keras.saving.serialize_keras_object(net), "x")
