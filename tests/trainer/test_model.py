"""The whole model: what trains in a phase, batch norm, weights of an earlier run."""

from __future__ import annotations

import functools
import logging
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline import storage
from pipeline.errors import InputError
from trainer import checkpoints, model, run

SETTINGS = {
    "backbone": "mobilenetv2",
    "num_classes": 3,
    "image_size": 64,
    "width": 0.35,
    "weights": "none",
    "head": "linear",
    "dropout": None,
    "drop_path": None,
    "batch_norm_momentum": None,
    "sync_batch_norm": False,
}
PIXELS = np.random.default_rng(0).integers(0, 256, [2, 64, 64, 3], dtype=np.uint8)


def _build(**changed: object) -> keras.Model:
    keras.utils.set_random_seed(0)
    return model.build(**{**SETTINGS, **changed})


@functools.cache
def _mobilenet() -> keras.Model:
    """For tests that only set what trains, and set all of it."""
    return _build(head="mlp")


@functools.cache
def _efficientnet() -> keras.Model:
    return _build(backbone="efficientnet_b0", width=None, drop_path=0.9)


def _trainable_layers(net: keras.Model) -> list[str]:
    """Names of the layers of the backbone that have something to train now."""
    in_backbone = {id(variable) for variable in net.get_layer("backbone").variables}
    paths = [variable.path for variable in net.trainable_variables if id(variable) in in_backbone]
    return list(dict.fromkeys(path.split("/")[0] for path in paths))


@pytest.mark.parametrize(
    ("trainable", "freeze_batch_norm", "layers"),
    [
        ("head", False, []),
        ("last:1", False, ["Conv_1", "Conv_1_bn"]),
        ("last:2", False, ["block_16_project", "block_16_project_BN", "Conv_1", "Conv_1_bn"]),
        ("last:2", True, ["block_16_project", "Conv_1"]),
        ("from:block_16_project_BN", False, ["block_16_project_BN", "Conv_1", "Conv_1_bn"]),
        (
            "from:block_16",
            True,
            ["block_16_expand", "block_16_depthwise", "block_16_project", "Conv_1"],
        ),
        ("from:top", False, ["Conv_1", "Conv_1_bn"]),
    ],
)
def test_a_phase_trains_what_it_names_and_the_head(trainable: str, freeze_batch_norm: bool, layers: list[str]) -> None:
    net = _mobilenet()
    model.set_trainable(net, trainable=trainable, freeze_batch_norm=freeze_batch_norm)
    assert _trainable_layers(net) == layers
    head = {"norm_1", "dense_512", "dense_256", "norm_2", "logits"}
    assert head <= {variable.path.split("/")[0] for variable in net.trainable_variables}


def test_all_layers_with_weights_are_the_papers() -> None:
    """MobileNetV2 has 1 + 2 + 16 * 3 + 1 = 52 convolutions in its backbone (paper, table 2), each with a batch norm."""
    net = _mobilenet()
    model.set_trainable(net, trainable="all", freeze_batch_norm=False)
    assert len(_trainable_layers(net)) == 104
    model.set_trainable(net, trainable="all", freeze_batch_norm=True)
    assert len(_trainable_layers(net)) == 52
    model.set_trainable(net, trainable="last:52", freeze_batch_norm=False)
    assert len(_trainable_layers(net)) == 104
    with pytest.raises(InputError, match="'last:53': the backbone has 52 layers with weights; use all"):
        model.set_trainable(net, trainable="last:53", freeze_batch_norm=False)


def _moved(net: keras.Model) -> set[str]:
    """Names of the batch norm layers whose statistics a training pass moves."""
    norms = model.batch_norms(net)
    before = [norm.moving_mean.numpy() for norm in norms]
    net(PIXELS, training=True)
    return {norm.name for norm, old in zip(norms, before, strict=True) if (norm.moving_mean.numpy() != old).any()}


@pytest.mark.parametrize(
    ("trainable", "freeze_batch_norm", "moving"),
    [
        ("head", False, {"norm_1", "norm_2"}),
        ("last:1", False, {"Conv_1_bn", "norm_1", "norm_2"}),
        ("all", True, {"norm_1", "norm_2"}),
    ],
)
def test_frozen_batch_norm_keeps_its_statistics(trainable: str, freeze_batch_norm: bool, moving: set[str]) -> None:
    net = _mobilenet()
    model.set_trainable(net, trainable=trainable, freeze_batch_norm=freeze_batch_norm)
    assert _moved(net) == moving


def test_a_frozen_block_is_not_left_out() -> None:
    """With a rate of 0.9, stochastic depth shows in the features of every training pass that it is on in."""
    net = _efficientnet()
    features = keras.Model(net.inputs, net.get_layer("pool").output)
    evaluated = features([PIXELS], training=False)
    model.set_trainable(net, trainable="head", freeze_batch_norm=False)
    np.testing.assert_array_equal(features([PIXELS], training=True), evaluated)
    model.set_trainable(net, trainable="from:block6b", freeze_batch_norm=True)
    assert np.abs(features([PIXELS], training=True) - evaluated).max() > 0
    rates = {layer.name: layer.rate for layer in net.get_layer("backbone").layers if hasattr(layer, "rate")}
    assert [name for name, rate in rates.items() if rate] == ["block6b_drop", "block6c_drop", "block6d_drop"]
    assert rates["block6d_drop"] == pytest.approx(0.9 * 14 / 15)


@pytest.mark.parametrize(
    ("trainable", "freeze_batch_norm", "message"),
    [
        ("from:block_13_exp", False, "did you mean block_13_expand or "),
        ("from:xyz", False, "no such layer or block; its blocks are stem, expanded_conv, block_1, "),
        ("from:out_relu", False, "no weights to train from there on; use head"),
        ("from:Conv_1_bn", True, "no weights to train from there on; use head"),
        ("last:0", False, "expected all, head, last:N or from:LAYER"),
        ("some", False, "expected all, head, last:N or from:LAYER"),
        ("head", True, "trains no batch norm of the backbone; leave it False"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_first_step(
    trainable: str, freeze_batch_norm: bool, message: str
) -> None:
    net = _mobilenet()
    model.set_trainable(net, trainable="last:1", freeze_batch_norm=False)
    for refuse in (model.check_trainable, model.set_trainable):
        with pytest.raises(InputError, match=message) as caught:
            refuse(net, trainable=trainable, freeze_batch_norm=freeze_batch_norm)
        assert "\n" not in str(caught.value)
    model.check_trainable(net, trainable="all", freeze_batch_norm=False)
    assert _trainable_layers(net) == ["Conv_1", "Conv_1_bn"]


def test_what_batch_norm_the_model_lacks_cannot_be_set() -> None:
    for changed in ({"sync_batch_norm": True}, {"batch_norm_momentum": 0.9}):
        with pytest.raises(InputError, match="have no batch norm"):
            _build(backbone="vgg16", width=None, **changed)
    net = _build(backbone="vgg16", width=None, head="mlp", sync_batch_norm=True)
    assert [norm.name for norm in model.batch_norms(net)] == ["norm_1", "norm_2"]
    with pytest.raises(InputError, match="freeze_batch_norm=True"):
        model.set_trainable(net, trainable="all", freeze_batch_norm=True)


def test_batch_norm_settings_reach_backbone_and_head() -> None:
    net = _build(head="mlp", batch_norm_momentum=0.25, sync_batch_norm=True)
    norms = model.batch_norms(net)
    assert len(norms) == 52 + 2
    assert all(norm.synchronized for norm in norms)
    inner = net.get_layer("backbone")
    scaled = PIXELS.astype(np.float32) / 127.5 - 1
    first = inner.get_layer("Conv1")(scaled)
    pooled = keras.Model(net.inputs, net.get_layer("pool").output)([PIXELS], training=True)
    np.testing.assert_allclose(
        inner.get_layer("bn_Conv1").moving_mean, 0.75 * tf.reduce_mean(first, axis=[0, 1, 2]), rtol=1e-3, atol=1e-5
    )
    head = net.get_layer("head")
    head(pooled, training=True)
    np.testing.assert_allclose(head.get_layer("norm_1").moving_mean, 0.75 * np.mean(pooled, axis=0), rtol=1e-3)


def _write_run(workdir: pathlib.Path, classes: list[str], **settings: object) -> None:
    fields = {name: SETTINGS[name] for name in SETTINGS if name not in ("num_classes", "image_size")}
    content = {
        "data": "/data/1.0.0",
        "dataset_fingerprint": "d",
        "classes": classes,
        "config": {"model": {**fields, **settings}},
        "code": "1",
        "packages": {},
        "storing": {},
    }
    storage.write_json(str(workdir / run.FILE), content)


def _train(workdir: pathlib.Path, backbone: str) -> keras.Model:
    """Leaves a working directory as training does, and returns the model in it."""
    net = _build(backbone=backbone, width=None)
    for variable in net.weights:
        variable.assign(np.random.default_rng(1).uniform(0.5, 1, variable.shape))
    _write_run(workdir, ["a", "b", "c"], backbone=backbone, width=None)
    about = run.load(str(workdir)).about()
    checkpoints.Checkpoints(str(workdir), content={"model": net}, about=about, keep=1).save({"step": 7}, best=True)
    return net


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, keras.Model]:
    workdir = tmp_path_factory.mktemp("vgg")
    return str(workdir), _train(workdir, "vgg16")


def _assert_same_weights(found: keras.Model, expected: keras.Model) -> None:
    for ours, theirs in zip(found.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_earlier_run_gives_its_backbone_and_the_head_of_the_same_classes(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    workdir, net = str(tmp_path), _train(tmp_path, "efficientnet_b0")
    caplog.set_level(logging.INFO)
    settings = {"backbone": "efficientnet_b0", "width": None, "weights": workdir, "image_size": 96}
    found = _build(**settings, classes=["a", "b", "c"])
    _assert_same_weights(found, net)
    assert f"backbone and head of {workdir}, step 7" in caplog.text
    # Its input statistics are in force, too.
    features = found.get_layer("backbone")
    normalization = next(layer for layer in features.layers if isinstance(layer, keras.layers.Normalization))
    black = keras.Model(features.inputs, features.get_layer("stem_conv_pad").input)([np.zeros([1, 96, 96, 3])])
    by_hand = -normalization.adapt_mean.numpy() / np.sqrt(normalization.adapt_variance.numpy())
    np.testing.assert_allclose(black[0, 0, 0], by_hand, rtol=1e-5)


@pytest.mark.parametrize(("classes", "head"), [(["a", "c", "b"], "linear"), (["a", "b", "c"], "mlp")])
def test_an_earlier_run_of_other_classes_or_another_head_gives_its_backbone(
    vgg: tuple[str, keras.Model], classes: list[str], head: str
) -> None:
    workdir, net = vgg
    found = _build(backbone="vgg16", width=None, weights=workdir, classes=classes, head=head)
    _assert_same_weights(found.get_layer("backbone"), net.get_layer("backbone"))
    np.testing.assert_array_equal(found.get_layer("head").get_layer("logits").bias, 0)  # as drawn


def test_an_earlier_run_of_another_backbone_or_without_checkpoint_is_refused(
    vgg: tuple[str, keras.Model], tmp_path: pathlib.Path
) -> None:
    with pytest.raises(InputError, match=r"run of vgg16 with width=None, this one is mobilenetv2 with width=0\.35"):
        _build(weights=vgg[0])
    _write_run(tmp_path, ["a", "b", "c"], backbone="vgg16", width=None)
    with pytest.raises(InputError, match="no checkpoint yet"):
        _build(backbone="vgg16", width=None, weights=str(tmp_path))


def test_a_resumed_run_does_not_read_the_weights_it_began_with() -> None:
    _build(backbone="vgg16", width=None, weights="/gone/run", load_weights=False)
