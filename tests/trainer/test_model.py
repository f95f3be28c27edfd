"""Backbones: shapes and types, scaling against keras.applications, what trains, and real ImageNet weights."""

from __future__ import annotations

import pathlib
import tarfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.errors import InputError
from trainer import model

OPTIONS = {
    "num_classes": 3,
    "image_size": 64,
    "width": None,
    "weights": "none",
    "dropout": 0.2,
    "batch_norm_momentum": None,
    "sync_batch_norm": False,
}
PIXELS = np.random.default_rng(0).integers(0, 256, [2, 64, 64, 3], dtype=np.uint8)


def _build(**changed: object) -> keras.Model:
    return model.build(**{"backbone": "mobilenetv2", **OPTIONS, **changed})


def test_mobilenetv2_scales_as_its_paper_code_does() -> None:
    keras.utils.set_random_seed(0)
    net = _build()
    features = net.get_layer("backbone")
    expected = features(keras.applications.mobilenet_v2.preprocess_input(PIXELS.astype(np.float32)))
    found = keras.Model(net.inputs, net.get_layer("pool").output)(PIXELS)
    np.testing.assert_allclose(found, tf.reduce_mean(expected, axis=[1, 2]), rtol=1e-4, atol=1e-5)


def test_pretrained_efficientnet_sees_what_keras_shows_it(tmp_path: pathlib.Path) -> None:
    """The published files cannot be had here, so the same statistics are put into random weights."""
    keras.utils.set_random_seed(0)
    donor = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(64, 64, 3))
    normalization = next(layer for layer in donor.layers if isinstance(layer, keras.layers.Normalization))
    normalization.adapt_mean.assign(model._IMAGENET_MEAN)
    normalization.adapt_variance.assign(model._IMAGENET_STD)
    normalization.finalize_state()
    donor.save_weights(tmp_path / "donor.weights.h5")
    net = _build(backbone="efficientnet_b0", weights=str(tmp_path / "donor.weights.h5"))

    # What Keras' network computes behind its normalisation, from pixels standardised by the textbook.
    first = next(layer for layer in donor.layers if layer.name == "stem_conv_pad")
    standardized = (PIXELS / 255 - np.array(model._IMAGENET_MEAN)) / np.array(model._IMAGENET_STD)
    x = standardized.astype(np.float32)
    stem = keras.Model(donor.inputs, first.input)
    scaled = net.get_layer("scale")(PIXELS.astype(np.float32))
    np.testing.assert_allclose(stem(scaled), x, rtol=1e-4, atol=1e-4)


def test_weights_by_name_bring_their_statistics_into_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """The download is replaced by a network with the statistics of one; what happens to it afterwards is ours."""
    original = keras.applications.EfficientNetB0

    def published(weights: str | None, **options: object) -> keras.Model:
        net = original(weights=None, **options)
        if weights == "imagenet":
            normalization = next(layer for layer in net.layers if isinstance(layer, keras.layers.Normalization))
            normalization.adapt_mean.assign(model._IMAGENET_MEAN)
            normalization.adapt_variance.assign(model._IMAGENET_STD)
            normalization.finalize_state()
        return net

    monkeypatch.setattr(keras.applications, "EfficientNetB0", published)
    features = _build(backbone="efficientnet_b0", weights="imagenet").get_layer("backbone")
    stem = keras.Model(features.inputs, features.get_layer("stem_conv_pad").input)
    expected = (0.5 - np.array(model._IMAGENET_MEAN)) / np.sqrt(model._IMAGENET_STD)
    grey = np.full([1, 64, 64, 3], 127.5, np.float32)
    np.testing.assert_allclose(stem(grey)[0, 0, 0], expected, rtol=1e-4)


@pytest.mark.parametrize("backbone", ["mobilenetv2", "efficientnet_b0"])
def test_logits_are_float32_under_a_mixed_policy(backbone: str) -> None:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        net = _build(backbone=backbone)
        logits = net(PIXELS)
        assert net.get_layer("pool").compute_dtype == "bfloat16"
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert logits.shape == (2, 3)
    assert logits.dtype == tf.float32


def test_a_frozen_backbone_keeps_weights_and_statistics() -> None:
    net = _build()
    model.set_trainable(net, trainable="head", freeze_batch_norm=False)
    assert [v.path for v in net.trainable_variables] == ["head/kernel", "head/bias"]
    before = [v.numpy() for v in net.get_layer("backbone").variables]
    net(PIXELS, training=True)
    for old, new in zip(before, net.get_layer("backbone").variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())


def test_frozen_batch_norm_leaves_the_rest_free() -> None:
    net = _build()
    model.set_trainable(net, trainable="all", freeze_batch_norm=False)
    everything = len(net.trainable_variables)
    model.set_trainable(net, trainable="all", freeze_batch_norm=True)
    norms = sum(isinstance(layer, keras.layers.BatchNormalization) for layer in net.get_layer("backbone").layers)
    assert len(net.trainable_variables) == everything - 2 * norms
    model.set_trainable(net, trainable="all", freeze_batch_norm=False)
    assert len(net.trainable_variables) == everything


def test_batch_norm_momentum_is_what_moves_the_statistics() -> None:
    net = _build(batch_norm_momentum=0.25)
    norm = next(v for v in net.get_layer("backbone").layers if isinstance(v, keras.layers.BatchNormalization))
    first = keras.Model(net.get_layer("backbone").inputs, norm.input)
    inputs = net.get_layer("scale")(PIXELS.astype(np.float32))
    batch_mean = tf.reduce_mean(first(inputs), axis=[0, 1, 2])
    net(PIXELS, training=True)
    np.testing.assert_allclose(norm.moving_mean, 0.75 * batch_mean, rtol=1e-3, atol=1e-5)


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="no such file"):
        _build(weights="/nowhere/weights.h5")
    with pytest.raises(InputError, match=r"'efficientnet_b0' with width=0\.5"):
        _build(backbone="efficientnet_b0", width=0.5)
    with pytest.raises(InputError, match="'alexnet'"):
        _build(backbone="alexnet")


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # Keras' own notes on the way to its error
def test_weights_of_another_network_are_refused_in_one_line(tmp_path: pathlib.Path) -> None:
    _build(width=0.5).get_layer("backbone").save_weights(tmp_path / "half.weights.h5")
    with pytest.raises(InputError, match="can't be loaded into mobilenetv2") as caught:
        _build(weights=str(tmp_path / "half.weights.h5"))
    assert "\n" not in str(caught.value)


def test_imagenet_weights_recognise_bottles(shared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The features must be those of the published network: its own classifier, put on top, has to recognise photos."""
    full = keras.applications.MobileNetV2(
        weights=str(shared / "weights" / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5")
    )
    net = _build(image_size=224, weights=str(shared / "weights" / "mobilenet_v2_1.0_no_top.weights.h5"))
    with tarfile.open(shared / "data" / "trashnet.tar") as tar:
        photos = [member for member in tar if member.isfile() and "plastic" in member.name][:8]
        pixels = np.stack(
            [np.asarray(Image.open(tar.extractfile(member)).convert("RGB").resize((224, 224))) for member in photos]
        )
    pooled = keras.Model(net.inputs, net.get_layer("pool").output)(pixels)
    found = full.layers[-1](pooled).numpy()
    expected = full(keras.applications.mobilenet_v2.preprocess_input(pixels.astype(np.float32))).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    bottles = {440, 720, 737, 898, 899, 907}  # beer, pill, pop, water bottle, water jug, wine bottle
    hits = [bool(bottles & set(np.argsort(row)[-5:].tolist())) for row in found]
    assert sum(hits) >= 6
