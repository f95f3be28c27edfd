"""Weights that 8 bits hold, means that stay what they were, and answers that come nearer to those of floats."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline import decode
from tests.trainer.export import tiny
from trainer import backbones
from trainer.classifier import Classifier
from trainer.export import about as about_lib
from trainer.export import bias_correction, export

SIDE = 96
IMAGES = np.random.default_rng(0).integers(0, 256, [40, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3]).astype(np.uint8)


@pytest.fixture
def model() -> Classifier:
    return tiny.classifier()


def test_every_channel_has_255_levels_and_the_largest_weight_stays(model: Classifier) -> None:
    layers = {layer.name: layer for layer in backbones.leaves(model.net) if layer.name in ("first", "last")}
    before = {name: np.asarray(layer.kernel) for name, layer in layers.items()}
    with bias_correction.corrected(model.net, IMAGES):
        for name, layer in layers.items():
            kernel, scale = np.asarray(layer.kernel), np.abs(before[name]).max(axis=(0, 1, 2)) / 127
            np.testing.assert_allclose(kernel / scale, np.round(kernel / scale), atol=1e-4)
            np.testing.assert_allclose(np.abs(kernel).max(axis=(0, 1, 2)), 127 * scale, rtol=1e-6)
            assert np.abs(kernel - before[name]).max() <= 0.5001 * scale.max()
            assert (kernel != before[name]).any()


def test_the_mean_of_every_layer_is_kept_and_so_are_the_weights_afterwards(model: Classifier) -> None:
    weights, floats = model.net.get_weights(), np.asarray(model.net(IMAGES, training=False))
    with bias_correction.corrected(model.net, IMAGES):
        found = np.asarray(model.net(IMAGES, training=False))
        calls = [layer.name for layer in backbones.leaves(model.net) if "call" in vars(layer)]
    assert not calls
    np.testing.assert_allclose(found.mean(axis=0), floats.mean(axis=0), atol=1e-4)
    assert np.abs(found - floats).max() > 1e-3  # they are other weights
    for before, after in zip(weights, model.net.get_weights(), strict=True):
        np.testing.assert_array_equal(after, before)
    np.testing.assert_array_equal(np.asarray(model.net(IMAGES, training=False)), floats)


def test_weights_come_back_after_a_failure(model: Classifier) -> None:
    weights = model.net.get_weights()
    with pytest.raises(RuntimeError, match="full"), bias_correction.corrected(model.net, IMAGES):
        raise RuntimeError("the disk is full")
    for before, after in zip(weights, model.net.get_weights(), strict=True):
        np.testing.assert_array_equal(after, before)


def test_features_of_mobilenetv2_come_nearer_to_those_of_floats(shared: pathlib.Path) -> None:
    """With ImageNet's weights and photos that were enlarged, so smooth ones, where rounding moves the means most."""
    net = backbones.build("mobilenetv2", image_size=SIDE, width=None)
    weights = str(shared / "weights/mobilenet_v2_1.0_no_top.weights.h5")
    backbones.load_published(net, "mobilenetv2", image_size=SIDE, width=None, weights=weights)
    small = np.stack([np.asarray(decode.decode(tf.constant(record.image)))[:32, :32] for record in tiny.photos(36)])
    levels = tf.image.resize(small, [SIDE, SIDE]) / 127.5 - 1
    seen, others = levels[:24], levels[24:]

    norms = [layer for layer in backbones.leaves(net) if isinstance(layer, keras.layers.BatchNormalization)]
    offsets = {layer.path: np.asarray(layer.beta) for layer in norms}
    floats = net(others, training=False)
    with bias_correction.corrected(net, seen):
        with_biases = net(others, training=False)
        for layer in norms:
            layer.beta.assign(offsets[layer.path])
        rounded = net(others, training=False)

    def apart(found: tf.Tensor) -> float:
        return float(tf.norm(found - floats) / tf.norm(floats))

    assert apart(with_biases) < 0.7 * apart(rounded)


def test_an_export_of_integers_is_of_corrected_weights_and_one_of_floats_is_not(model: Classifier) -> None:
    tflite_file = pytest.importorskip("trainer.export.tflite_file", reason="needs ai-edge-litert, of the extra export")
    photos, about = tiny.photos(), about_lib.describe(model, "tiny")
    images = export._pixels(model, photos)
    labels = np.array([photo.label for photo in photos])
    probabilities = np.asarray(model.probabilities(images))

    def logits(content: bytes) -> np.ndarray:
        return np.asarray(tflite_file.answers(content, images)["logits"])

    with tflite_file.source(model, about) as plain:
        with bias_correction.corrected(model.net, images), tflite_file.source(model, about) as corrected:
            integer = logits(tflite_file.convert(corrected, "int8", images))
        assert (logits(tflite_file.convert(plain, "int8", images)) != integer).any()
        floats = logits(tflite_file.convert(plain, "float16"))
        for budget, kind, expected in ((100.0, "int8", integer), (-101.0, "float16", floats)):
            material = export._Material(None, images, labels, probabilities, budget)
            chosen = export._quantized(plain, model, about, material, photos)
            assert chosen.kind == kind
            np.testing.assert_array_equal(logits(chosen.content), expected)
