"""Grad-CAM against class activation maps, finite differences and objects at known places; on every backbone."""

from __future__ import annotations

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from scipy.ndimage import map_coordinates

from pipeline.errors import InputError
from tests.trainer.explanation import objects
from tests.trainer.explanation.objects import BLUE, RED
from trainer import backbones, model
from trainer.explanation import grad_cam as module
from trainer.explanation.grad_cam import find_layer, grad_cam

RNG = np.random.default_rng(0)
# The last maps before any pooling, as the papers' tables of layers and Keras' source name them.
LAST = {
    "mobilenetv2": "out_relu",
    "resnet50": "conv5_block3_out",
    "vgg16": "block5_conv3",
    **{name: "top_activation" for name in backbones.NAMES if name.startswith("efficientnet")},
}


def _net(backbone: str, *, image_size: int, width: float | None = None, head: str = "linear") -> keras.Model:
    keras.utils.set_random_seed(0)
    return model.build(
        backbone=backbone,
        num_classes=3,
        image_size=image_size,
        width=width,
        weights="none",
        head=head,
        dropout=0.5,
        drop_path=None,
        batch_norm_momentum=None,
        sync_batch_norm=False,
    )


def _noise(count: int, size: int) -> npt.NDArray[np.uint8]:
    return RNG.integers(0, 256, [count, size, size, 3], dtype=np.uint8)


@pytest.fixture(scope="module")
def mobilenet() -> keras.Model:
    """With head weights large enough that all classes differ, and statistics that no batch has."""
    net = _net("mobilenetv2", image_size=96, width=0.35)
    for layer in model.batch_norms(net):
        layer.moving_mean.assign(RNG.normal(0, 0.1, layer.moving_mean.shape))
    net.get_layer("head").set_weights([RNG.normal(size=[1280, 3]), RNG.normal(size=3)])
    return net


def test_below_a_pool_and_a_linear_head_it_is_a_class_activation_map(mobilenet: keras.Model) -> None:
    """Section 3.1 proves it equal to CAM (https://arxiv.org/abs/1512.04150), where the head's weights weight the maps.

    Its places lie at 31 + 32 i: a kernel of 3 that begins at its first pixel has its centre at 1, and each of five
    strides doubles that and adds 1. Six parts of 96 pixels have theirs at 7.5 + 16 j.
    """
    images, labels = _noise(4, 96), np.array([0, 1, 2, 1])
    features = mobilenet.get_layer("backbone")(images / np.float32(127.5) - 1).numpy()
    kernel = mobilenet.get_layer("head").get_weights()[0]
    cam = np.maximum(np.einsum("nhwc,cn->nhw", features, kernel[:, labels]), 0)
    places = (7.5 + 16 * np.mgrid[:6, :6] - 31) / 32
    laid = np.stack([map_coordinates(one, places, order=1, mode="nearest") for one in cam])
    expected = laid / laid.max(axis=(1, 2), keepdims=True)
    found = grad_cam(mobilenet, images, labels).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_no_example_has_a_part_in_another_s_map(mobilenet: keras.Model) -> None:
    images, labels = _noise(3, 96), np.array([2, 0, 1])
    alone = [grad_cam(mobilenet, images[i : i + 1], labels[i : i + 1], "block_3_expand").numpy()[0] for i in range(3)]
    np.testing.assert_allclose(grad_cam(mobilenet, images, labels, "block_3_expand"), alone, atol=1e-5)


def test_a_flat_model_has_the_maps_of_a_nested_one(mobilenet: keras.Model) -> None:
    features, head = mobilenet.get_layer("backbone"), mobilenet.get_layer("head")
    logits = head.get_layer("logits")(keras.layers.GlobalAveragePooling2D()(features.output))
    flat = keras.Model(features.input, logits)
    images, labels = _noise(2, 96), np.array([0, 2])
    for layer in (None, "block_6_expand_relu"):
        nested = grad_cam(mobilenet, images, labels, layer)
        np.testing.assert_allclose(grad_cam(flat, images / np.float32(127.5) - 1, labels, layer), nested, atol=1e-5)


def test_a_layer_in_the_middle_is_weighted_by_finite_differences() -> None:
    """A head that bends, and a connection around the layer, so that no cut through the model would hold it alone."""
    images = keras.Input([6, 6, 3], dtype="float64")
    first = keras.layers.Conv2D(3, 3, padding="same", activation="tanh", dtype="float64", name="first")(images)
    added = keras.layers.Add(dtype="float64")([first, images])
    second = keras.layers.Conv2D(2, 3, strides=2, activation="tanh", dtype="float64", name="second")
    dense = keras.layers.Dense(3, activation="tanh", dtype="float64")
    last = keras.layers.Dense(2, dtype="float64")
    flatten = keras.layers.Flatten(dtype="float64")
    keras.utils.set_random_seed(3)
    net = keras.Model(images, last(dense(flatten(second(added)))))
    image, label = RNG.normal(size=[1, 6, 6, 3]), 1
    features = net.get_layer("first")(image).numpy()

    def score(changed: npt.NDArray[np.float64]) -> float:
        return float(last(dense(flatten(second(changed + image))))[0, label])

    step = np.eye(features.size).reshape(-1, *features.shape) * 1e-5
    gradient = np.reshape([(score(features + e) - score(features - e)) / 2e-5 for e in step], features.shape)
    raw = np.maximum(np.sum(features * gradient.mean(axis=(1, 2), keepdims=True), axis=-1), 0)
    np.testing.assert_allclose(grad_cam(net, image, [label], "first"), raw / raw.max(), atol=1e-5)


@pytest.mark.parametrize("nested", [True, False])
def test_the_map_moves_with_the_object_of_its_class(nested: bool) -> None:
    """One of each colour: what is asked for is found, wherever it and the other are."""
    net = objects.net(nested=nested)
    for red, blue in (((4, 4), (20, 20)), ((4, 20), (12, 4)), ((20, 12), (4, 12)), ((12, 20), (4, 8))):
        pixels = objects.image((RED, *red), (BLUE, *blue))[np.newaxis]
        for label, corner in ((RED, red), (BLUE, blue)):
            heat = grad_cam(net, pixels, [label])[0].numpy()
            centre = np.sum(np.indices(heat.shape) * heat, axis=(1, 2)) / heat.sum() + 0.5
            np.testing.assert_allclose(centre * objects.SIZE / len(heat), np.array(corner) + 4, atol=1e-3)


def test_what_speaks_against_a_class_leaves_nothing() -> None:
    pixels = objects.image((BLUE, 4, 4))[np.newaxis]
    found = grad_cam(objects.net(), np.concatenate([pixels, pixels]), [RED, BLUE]).numpy()
    assert not found[0].any()
    assert found[1].max() == 1


def test_random_weights_see_something_else() -> None:
    """The model parameter randomization test of https://arxiv.org/abs/1810.03292, section 3.1."""
    net, pixels = objects.net(), objects.image((RED, 8, 12), (BLUE, 20, 20))[np.newaxis]
    noisy = np.clip(pixels + RNG.normal(0, 20, pixels.shape), 0, 255).astype(np.uint8)
    trained = grad_cam(net, noisy, [RED]).numpy()
    assert objects.rank_correlation(trained, grad_cam(objects.net(), noisy, [RED]).numpy()) > 0.999
    correlations = []
    for _ in range(10):
        net.set_weights([RNG.normal(size=weight.shape) for weight in net.get_weights()])
        random = grad_cam(net, noisy, [RED]).numpy()
        correlations.append(objects.rank_correlation(trained, random) if random.any() else 0.0)
    assert np.mean(np.abs(correlations)) < 0.5


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_points_at_the_same_place(policy: str) -> None:
    """With a head whose gradients, 1e-5 over 64 places, are 0 in float16 unless the score is scaled."""
    pixels = objects.image((RED, 4, 20), (BLUE, 20, 4))[np.newaxis]
    maps = []
    for chosen in ("float32", policy):
        net = objects.net(policy=chosen)
        head = net.get_layer("head")
        head.set_weights([head.get_weights()[0] * 1e-6, head.get_weights()[1]])
        maps.append(grad_cam(net, pixels, [RED]).numpy())
    assert maps[1].dtype == np.float32
    np.testing.assert_allclose(maps[1], maps[0], atol=0.02)


def test_it_is_traced_as_it_is_computed(mobilenet: keras.Model) -> None:
    specs = [tf.TensorSpec([None, 96, 96, 3], tf.uint8), tf.TensorSpec([None], tf.int64)]
    traced = tf.function(lambda images, labels: grad_cam(mobilenet, images, labels), specs, autograph=False)
    for count in (1, 3):
        images, labels = _noise(count, 96), np.arange(count)
        np.testing.assert_allclose(traced(images, labels), grad_cam(mobilenet, images, labels), atol=1e-5)


def test_the_model_is_left_as_it_was(mobilenet: keras.Model) -> None:
    images = _noise(2, 96)
    before = mobilenet(images).numpy()
    grad_cam(mobilenet, images, [0, 1])
    with pytest.raises(Exception, match=r"(?i)shape|dimension"):
        grad_cam(mobilenet, _noise(2, 96)[:, :, :, :2], [0, 1])
    assert "call" not in vars(find_layer(mobilenet, None))
    np.testing.assert_array_equal(mobilenet(images), before)
    assert not module._ONE_AT_A_TIME.locked()


@pytest.mark.parametrize("name", ["block_3_expnd", "pool", "images"])
def test_an_unknown_layer_is_answered_with_the_nearest(mobilenet: keras.Model, name: str) -> None:
    nearest = {"block_3_expnd": "block_3_expand", "pool": "out_relu", "images": "out_relu"}[name]
    with pytest.raises(InputError, match=f"layer '{name}': no layer .*{nearest}"):
        grad_cam(mobilenet, _noise(1, 96), [0], name)


def test_a_single_place_is_passed_over() -> None:
    """MobileNetV2 halves 32 pixels five times; with 2x2 places, that is block 13 before its last halving."""
    assert find_layer(_net("mobilenetv2", image_size=32, width=0.35), None).name == "block_13_expand_relu"


@pytest.mark.parametrize(
    ("backbone", "head"),
    [("mobilenetv2", "mlp"), ("efficientnet_b0", "linear"), ("vgg16", "linear")]
    + [pytest.param(name, "mlp", marks=pytest.mark.soak) for name in backbones.NAMES],
)
def test_every_backbone_is_explained_at_its_last_convolution(backbone: str, head: str) -> None:
    net = _net(backbone, image_size=64, width=0.35 if backbone == "mobilenetv2" else None, head=head)
    assert find_layer(net, None).name == LAST[backbone]
    images = _noise(2, 64)
    found = grad_cam(net, images, [0, 1]).numpy()
    assert found.shape == ((2, 8, 8) if backbone == "vgg16" else (2, 4, 4))  # VGG16 is halved once more behind it
    assert found.min() >= 0
    assert set(found.max(axis=(1, 2)).tolist()) <= {0.0, 1.0}
    both = np.concatenate([grad_cam(net, images[:1], [label]).numpy() for label in range(3)])
    assert both.any()
