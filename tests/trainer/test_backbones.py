"""Backbones: what they see against keras.applications' own way, published weights, stochastic depth, blocks."""

from __future__ import annotations

import functools
import os
import pathlib
import warnings
from collections.abc import Callable

import fsspec
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_image

from configs import schema
from pipeline.errors import InputError
from trainer import backbones, heads, model

SETTINGS = {
    "num_classes": 3,
    "image_size": 64,
    "width": None,
    "weights": "none",
    "head": "linear",
    "dropout": None,
    "drop_path": None,
    "batch_norm_momentum": None,
    "sync_batch_norm": False,
}
# keras.applications' files with the classifier for 1,000 classes, as it calls them in $KERAS_HOME/models.
PUBLISHED = {
    "mobilenetv2": ("MobileNetV2", "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"),
    **{f"efficientnet_b{n}": (f"EfficientNetB{n}", f"efficientnetb{n}.h5") for n in range(8)},
    **{
        f"efficientnetv2_{n}": (f"EfficientNetV2{n.upper()}", f"efficientnetv2-{n}.h5")
        for n in ("b0", "b1", "b2", "b3", "s", "m", "l")
    },
    "resnet50": ("ResNet50", "resnet50_weights_tf_dim_ordering_tf_kernels.h5"),
    "vgg16": ("VGG16", "vgg16_weights_tf_dim_ordering_tf_kernels.h5"),
}
SUMMER_PALACE = 698  # ImageNet's class "palace"
PUBLISHED_MEAN, PUBLISHED_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def _photo(size: int) -> np.ndarray:
    """A tower of the Summer Palace, uint8 [1, size, size, 3]."""
    image = Image.fromarray(load_sample_image("china.jpg"))
    left = (image.width - image.height) // 2
    square = image.crop((left, 0, left + image.height, image.height))
    return np.asarray(square.resize((size, size)))[None]


def _build(backbone: str, **changed: object) -> keras.Model:
    return model.build(**{"backbone": backbone, **SETTINGS, **changed})


def _pooled(net: keras.Model, images: np.ndarray) -> np.ndarray:
    return np.asarray(keras.Model(net.inputs, net.get_layer("pool").output)([images]))


def _assert_same_features(found: np.ndarray, expected: np.ndarray) -> None:
    largest = np.abs(expected).max()
    assert largest > 0
    np.testing.assert_allclose(found / largest, expected / largest, atol=1e-4)


@functools.cache
def _shared_net(backbone: str) -> keras.Model:
    """For tests that look at it or load other weights into it: building one takes a second."""
    keras.utils.set_random_seed(0)
    return _build(backbone, head="mlp")


def test_the_schema_offers_what_there_is() -> None:
    assert schema.BACKBONES == backbones.NAMES
    assert schema.HEADS == heads.NAMES


@pytest.mark.parametrize(
    ("backbone", "module", "constructor"),
    [
        ("mobilenetv2", "mobilenet_v2", "MobileNetV2"),
        ("resnet50", "resnet50", "ResNet50"),
        ("vgg16", "vgg16", "VGG16"),
        ("efficientnetv2_b0", "efficientnet_v2", "EfficientNetV2B0"),
        pytest.param("efficientnetv2_s", "efficientnet_v2", "EfficientNetV2S", marks=pytest.mark.soak),
    ],
)
def test_features_of_a_photo_are_those_of_keras(backbone: str, module: str, constructor: str) -> None:
    reference = getattr(keras.applications, constructor)(include_top=False, weights=None, input_shape=(64, 64, 3))
    net = _shared_net(backbone)
    net.get_layer("backbone").set_weights(reference.get_weights())
    photo = _photo(64)
    preprocessed = getattr(keras.applications, module).preprocess_input(photo.astype(np.float32))
    _assert_same_features(_pooled(net, photo), np.mean(reference(preprocessed), axis=(1, 2)))


def _save_with_statistics(
    make: Callable[..., keras.Model], mean: list[float], variance: list[float], path: str
) -> None:
    """As Keras itself saves its network, with these statistics where the network has any in its weights."""
    net = make(include_top=False, weights=None, input_shape=(64, 64, 3))
    for layer in net.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            layer.adapt_mean.assign(mean)
            layer.adapt_variance.assign(variance)
    net.save_weights(path)


@pytest.mark.parametrize(
    ("backbone", "constructor", "file"),
    [
        ("efficientnet_b0", "EfficientNetB0", "efficientnetb0_notop.h5"),
        pytest.param("efficientnetv2_b0", "EfficientNetV2B0", "efficientnetv2-b0_notop.h5", marks=pytest.mark.soak),
    ],
)
def test_published_weights_act_by_path_as_keras_has_them_act_by_name(
    backbone: str, constructor: str, file: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The download is replaced by random weights that hold the statistics of the published ones."""
    make = getattr(keras.applications, constructor)
    path = str(tmp_path / "no_top.weights.h5")
    _save_with_statistics(make, PUBLISHED_MEAN, PUBLISHED_STD, path)
    asked = []
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda name, *_, **__: asked.append(name) or path)
    net, photo = _shared_net(backbone), _photo(64)
    by_name = make(include_top=False, weights="imagenet", input_shape=(64, 64, 3))
    expected = np.mean(by_name(photo.astype(np.float32)), axis=(1, 2))
    for weights in (path, "imagenet"):
        backbones.load_published(net.get_layer("backbone"), backbone, image_size=64, width=None, weights=weights)
        _assert_same_features(_pooled(net, photo), expected)
    assert asked == [file, file]


def test_efficientnet_of_somebody_elses_statistics_keeps_them(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "own.weights.h5")
    _save_with_statistics(keras.applications.EfficientNetB0, [0.1, 0.2, 0.3], [4.0, 9.0, 16.0], path)
    features = _shared_net("efficientnet_b0").get_layer("backbone")
    backbones.load_published(features, "efficientnet_b0", image_size=64, width=None, weights=path)
    seen = keras.Model(features.inputs, features.get_layer("stem_conv_pad").input)
    white = seen([np.full([1, 64, 64, 3], 255, np.float32)])[0, 0, 0]
    np.testing.assert_allclose(white, [0.9 / 2, 0.8 / 3, 0.7 / 4], rtol=1e-5)


def _find_published(file: str) -> pathlib.Path:
    home = pathlib.Path(os.environ.get("KERAS_HOME", pathlib.Path.home() / ".keras"))
    folders = (home / "models", pathlib.Path(__file__).parents[3] / "shared" / "weights")
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    pytest.skip(f"needs {file} in $KERAS_HOME/models or ../shared/weights")


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_imagenet_weights_see_a_palace(backbone: str, tmp_path: pathlib.Path) -> None:
    """The published network's own classifier, put on our features, has the right class among its first five."""
    constructor, file = PUBLISHED[backbone]
    make = getattr(keras.applications, constructor)
    full = make(weights=str(_find_published(file)))
    bare = make(include_top=False, weights=None, input_shape=(224, 224, 3))
    bare.set_weights(full.get_weights()[: len(bare.weights)])
    bare.save_weights(tmp_path / "no_top.weights.h5")
    net = _build(backbone, image_size=224, weights=str(tmp_path / "no_top.weights.h5"))
    x = keras.Model(net.inputs, net.get_layer("pool").input)([_photo(224)])
    for layer in full.layers[len(bare.layers) :]:
        x = layer(x)
    assert SUMMER_PALACE in np.argsort(x[0])[-5:]


def test_mobilenetv2_at_a_size_that_nobody_published_takes_224s_without_a_warning(
    shared: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def get_file(name: str, *_: object, **__: object) -> str:
        asked.append(name)
        return str(shared / "weights" / "mobilenet_v2_1.0_no_top.weights.h5")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    features = _shared_net("mobilenetv2").get_layer("backbone")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*input_shape.*")
        backbones.load_published(features, "mobilenetv2", image_size=100, width=None, weights="imagenet")
    assert asked == ["mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"]


def test_stochastic_depth_rises_by_block_to_the_last() -> None:
    """EfficientNetB0's 16 blocks (paper, table 1) by hand: 0.3 / 15 = 0.02 more with each.

    The first block of a stage changes the shape, so there is nothing to skip to.
    """
    rates = {
        layer.name: layer.rate
        for layer in _build("efficientnet_b0", drop_path=0.3).get_layer("backbone").layers
        if isinstance(layer, keras.layers.Dropout)
    }
    by_hand = {
        "2b": 0.04,
        "3b": 0.08,
        "4b": 0.12,
        "4c": 0.14,
        "5b": 0.18,
        "5c": 0.2,
        "6b": 0.24,
        "6c": 0.26,
        "6d": 0.28,
    }
    assert rates == pytest.approx({f"block{name}_drop": rate for name, rate in by_hand.items()})


def test_stochastic_depth_is_kerass_own_where_none_is_given() -> None:
    """0.2 * block / 21, blocks counted from 0 (keras.applications' drop_connect_rate)."""
    rates = {
        layer.name: getattr(layer, "rate", None)
        for layer in _shared_net("efficientnetv2_b0").get_layer("backbone").layers
    }
    assert rates["block2b_drop"] == pytest.approx(0.2 * 2 / 21)
    assert rates["block6h_drop"] == pytest.approx(0.2 * 20 / 21)


def _named(pattern: str, *repeats: int) -> list[str]:
    """`pattern` with stages and the numbers or letters of their blocks, as the papers' tables repeat them."""
    return [
        pattern.format(stage=stage, number=index + 1, letter="abcdefgh"[index])
        for stage, repeat in enumerate(repeats, start=1)
        for index in range(repeat)
    ]


@pytest.mark.parametrize(
    ("backbone", "blocks"),
    [
        ("mobilenetv2", ["stem", "expanded_conv", *(f"block_{number}" for number in range(1, 17)), "top"]),
        ("efficientnet_b0", ["stem", *_named("block{stage}{letter}", 1, 2, 2, 3, 3, 4, 1), "top"]),
        ("efficientnetv2_b0", ["stem", *_named("block{stage}{letter}", 1, 2, 2, 3, 5, 8), "top"]),
        ("resnet50", ["stem", *_named("conv{stage}_block{number}", 0, 3, 4, 6, 3)]),
        ("vgg16", _named("block{stage}", 1, 1, 1, 1, 1)),
    ],
)
def test_blocks_are_the_papers_and_hold_every_variable_once(backbone: str, blocks: list[str]) -> None:
    net = _shared_net(backbone)
    groups = model.blocks(net)
    assert len(groups) == len(blocks) + 1
    for block, group in zip(blocks, groups, strict=False):
        assert group
        if block not in ("stem", "top"):
            assert all(variable.path.startswith(f"{block}_") for variable in group)
    assert [id(variable) for variable in groups[-1]] == list(map(id, net.get_layer("head").trainable_variables))
    assert sorted(id(variable) for group in groups for variable in group) == sorted(map(id, net.trainable_variables))


def test_a_frozen_block_keeps_its_place_in_the_depth() -> None:
    net = _build("vgg16")
    model.set_trainable(net, trainable="from:block4", freeze_batch_norm=False)
    assert [len(group) for group in model.blocks(net)] == [0, 0, 0, 6, 6, 2]


def test_width_is_part_of_what_weights_belong_to() -> None:
    assert backbones.same("mobilenetv2", None, "mobilenetv2", 1.0)
    assert not backbones.same("mobilenetv2", 0.5, "mobilenetv2", None)
    assert not backbones.same("resnet50", None, "vgg16", None)


def test_what_does_not_exist_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="'alexnet': expected one of mobilenetv2, "):
        _build("alexnet")
    with pytest.raises(InputError, match=r"width=0\.5: efficientnet_b0 has one width"):
        _build("efficientnet_b0", width=0.5)
    features = _shared_net("mobilenetv2").get_layer("backbone")
    with pytest.raises(InputError, match=r"width=0\.6: no ImageNet weights .* 0\.35, 0\.5, 0\.75, 1\.0, 1\.3, 1\.4"):
        backbones.load_published(features, "mobilenetv2", image_size=64, width=0.6, weights="imagenet")
    with pytest.raises(InputError, match=r"drop_path=0\.1"):
        _build("vgg16", drop_path=0.1)
    with pytest.raises(InputError, match="no such file"):
        _build("vgg16", weights="/nowhere/weights.h5")
    with pytest.raises(InputError, match=r"without run\.json"):
        _build("vgg16", weights=str(tmp_path))


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # Keras' own notes on the way to its error
def test_weights_of_another_network_are_refused_in_one_line(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "other.weights.h5")
    _shared_net("mobilenetv2").get_layer("backbone").save_weights(path)
    features = _shared_net("vgg16").get_layer("backbone")
    with pytest.raises(InputError, match="can't be loaded into vgg16") as caught:
        backbones.load_published(features, "vgg16", image_size=64, width=None, weights=path)
    assert "\n" not in str(caught.value)


def test_weights_come_from_remote_storage_too(tmp_path: pathlib.Path) -> None:
    features = _shared_net("mobilenetv2").get_layer("backbone")
    donor = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(64, 64, 3))
    donor.save_weights(tmp_path / "remote.weights.h5")
    with fsspec.open("memory://weights/remote.weights.h5", "wb") as file:
        file.write((tmp_path / "remote.weights.h5").read_bytes())
    address = "memory://weights/remote.weights.h5"
    backbones.load_published(features, "mobilenetv2", image_size=64, width=None, weights=address)
    np.testing.assert_array_equal(features.get_layer("Conv_1").kernel, donor.get_layer("Conv_1").kernel)


@pytest.mark.parametrize(("backbone", "head"), [("efficientnet_b0", "linear"), ("vgg16", "mlp")])
def test_logits_and_scaling_are_float32_under_a_mixed_policy(backbone: str, head: str) -> None:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        net = _build(backbone, head=head)
        logits = net(_photo(64))
        assert net.get_layer("pool").compute_dtype == "bfloat16"
        assert net.get_layer("scale").compute_dtype == "float32"
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert logits.shape == (1, 3)
    assert logits.dtype == tf.float32
