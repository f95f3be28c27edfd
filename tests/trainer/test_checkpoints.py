"""Saving and restoring: everything comes back, also what a layer hides from the checkpoint."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest

from pipeline.errors import InputError
from trainer import checkpoints, model, optimizer

OPTIONS = {
    "num_classes": 3,
    "image_size": 32,
    "width": None,
    "dropout": 0.0,
    "batch_norm_momentum": None,
    "sync_batch_norm": False,
}
PIXELS = np.random.default_rng(0).integers(0, 256, [2, 32, 32, 3], dtype=np.uint8)


def _checkpoints(folder: pathlib.Path, net: keras.Model, opt: keras.optimizers.Optimizer) -> checkpoints.Checkpoints:
    return checkpoints.Checkpoints(str(folder), net, opt, fingerprint="abc")


def _optimizer(net: keras.Model) -> keras.optimizers.Optimizer:
    return optimizer.build(net, name="sgd", momentum=None, weight_decay=0.0, precision="float32")


@pytest.mark.parametrize("backbone", ["mobilenetv2", "efficientnet_b0"])
def test_weights_and_step_come_back(tmp_path: pathlib.Path, backbone: str) -> None:
    keras.utils.set_random_seed(0)
    net = model.build(backbone=backbone, weights="none", **OPTIONS)
    for layer in net.get_layer("backbone").layers:
        if isinstance(layer, keras.layers.Normalization):  # as pretrained weights would set it
            layer.adapt_mean.assign([0.4, 0.5, 0.6])
            layer.adapt_variance.assign([0.2, 0.3, 0.1])
            layer.finalize_state()
    opt = _optimizer(net)
    opt.apply_gradients([(np.ones(variable.shape, np.float32), variable) for variable in net.trainable_variables])
    _checkpoints(tmp_path, net, opt).save(17)
    expected = net(PIXELS, training=False).numpy()
    assert np.isfinite(expected).all()

    keras.utils.set_random_seed(1)
    other = model.build(backbone=backbone, weights="none", **OPTIONS)
    assert (other(PIXELS, training=False).numpy() != expected).any()
    assert checkpoints.load_weights(str(tmp_path), other) == (17, "abc")
    np.testing.assert_array_equal(other(PIXELS, training=False), expected)

    third = model.build(backbone=backbone, weights="none", **OPTIONS)
    third_optimizer = _optimizer(third)
    assert _checkpoints(tmp_path, third, third_optimizer).restore() == 17
    np.testing.assert_array_equal(third(PIXELS, training=False), expected)
    for old, new in zip(opt.variables, third_optimizer.variables, strict=True):
        np.testing.assert_array_equal(old, new, err_msg=old.path)


def test_the_newest_two_are_kept(tmp_path: pathlib.Path) -> None:
    net = model.build(backbone="mobilenetv2", weights="none", **{**OPTIONS, "width": 0.35})
    saved = _checkpoints(tmp_path, net, _optimizer(net))
    assert saved.restore() == 0
    for step in (5, 10, 15):
        saved.save(step)
    indices = sorted(path.name for path in (tmp_path / "checkpoints").glob("*.index"))
    assert indices == ["step-10.index", "step-15.index"]
    assert saved.restore() == 15


def test_no_checkpoint_yet_is_said(tmp_path: pathlib.Path) -> None:
    net = model.build(backbone="mobilenetv2", weights="none", **{**OPTIONS, "width": 0.35})
    with pytest.raises(InputError, match="has no checkpoint yet"):
        checkpoints.load_weights(str(tmp_path), net)


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_a_cut_checkpoint_is_named_and_the_one_before_it_used(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, suffix: str, keep: float
) -> None:
    net = model.build(backbone="mobilenetv2", weights="none", **{**OPTIONS, "width": 0.35})
    opt = _optimizer(net)
    saved = _checkpoints(tmp_path, net, opt)
    saved.save(5)
    expected = [variable.numpy() for variable in net.variables]
    for variable in net.trainable_variables:
        variable.assign_add(np.ones(variable.shape))
    saved.save(10)
    newest = tmp_path / "checkpoints" / f"step-10{suffix}"
    content = newest.read_bytes()
    newest.write_bytes(content[: int(len(content) * keep)])

    assert checkpoints.load_weights(str(tmp_path), net) == (5, "abc")
    assert "step-10 is damaged" in caplog.text
    for old, variable in zip(expected, net.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())
    assert _checkpoints(tmp_path, net, opt).restore() == 5

    (tmp_path / "checkpoints" / f"step-5{suffix}").unlink()
    with pytest.raises(InputError, match="none of the checkpoints can be read"):
        checkpoints.load_weights(str(tmp_path), net)
