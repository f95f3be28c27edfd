"""The loss against Keras, and class weights against scikit-learn, eagerly and inside `Dataset.map`."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from pipeline.errors import InputError
from trainer import loss

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 4, [32, 5]).astype(np.float32)
LABELS = RNG.integers(0, 5, 32)
SOFT_LABELS = RNG.dirichlet(np.ones(5), 32).astype(np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_cross_entropy_is_keras(smoothing: float) -> None:
    reference = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing, reduction="none")
    expected = reference(tf.one_hot(LABELS, 5), LOGITS).numpy()
    found = loss.cross_entropy(tf.constant(LABELS), tf.constant(LOGITS), label_smoothing=smoothing, class_weights=None)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    dataset = tf.data.Dataset.from_tensors((LABELS, LOGITS)).map(
        lambda labels, logits: loss.cross_entropy(labels, logits, label_smoothing=smoothing, class_weights=None)
    )
    np.testing.assert_allclose(next(iter(dataset)), expected, rtol=1e-5)


def test_class_weights_multiply_each_example() -> None:
    weights = [1.0, 2.0, 0.5, 4.0, 3.0]
    plain = loss.cross_entropy(tf.constant(LABELS), tf.constant(LOGITS), label_smoothing=0.1, class_weights=None)
    found = loss.cross_entropy(tf.constant(LABELS), tf.constant(LOGITS), label_smoothing=0.1, class_weights=weights)
    np.testing.assert_allclose(found, plain.numpy() * np.array(weights)[LABELS], rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_distribution_is_keras(smoothing: float) -> None:
    reference = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing, reduction="none")
    expected = reference(SOFT_LABELS, LOGITS).numpy()
    found = loss.cross_entropy(
        tf.constant(SOFT_LABELS), tf.constant(LOGITS), label_smoothing=smoothing, class_weights=None
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    dataset = tf.data.Dataset.from_tensors((SOFT_LABELS, LOGITS)).map(
        lambda labels, logits: loss.cross_entropy(labels, logits, label_smoothing=smoothing, class_weights=None)
    )
    np.testing.assert_allclose(next(iter(dataset)), expected, rtol=1e-5)


def test_a_mixed_example_weighs_what_its_parts_weigh() -> None:
    weights = [1.0, 2.0, 0.5, 4.0, 3.0]
    settings = {"label_smoothing": 0.1, "class_weights": weights}
    plain = loss.cross_entropy(tf.constant(SOFT_LABELS), tf.constant(LOGITS), label_smoothing=0.1, class_weights=None)
    found = loss.cross_entropy(tf.constant(SOFT_LABELS), tf.constant(LOGITS), **settings)
    np.testing.assert_allclose(found, plain.numpy() * (SOFT_LABELS @ np.array(weights)), rtol=1e-5)
    certain = loss.cross_entropy(tf.one_hot(LABELS, 5), tf.constant(LOGITS), **settings)
    expected = loss.cross_entropy(tf.constant(LABELS), tf.constant(LOGITS), **settings)
    np.testing.assert_allclose(certain, expected, rtol=1e-5)


def test_the_settings_arrive_in_the_loss() -> None:
    made = loss.make(label_smoothing=0.2, class_weights="balanced", counts=[3, 1, 1, 1, 4], classes=list("abcde"))
    weights = [2 / 3, 2.0, 2.0, 2.0, 0.5]
    expected = loss.cross_entropy(tf.constant(LABELS), tf.constant(LOGITS), label_smoothing=0.2, class_weights=weights)
    np.testing.assert_allclose(made(tf.constant(LABELS), tf.constant(LOGITS)), expected, rtol=1e-6)


def test_balanced_weights_are_scikit_learns() -> None:
    counts = np.bincount(LABELS, minlength=5).tolist()
    expected = compute_class_weight("balanced", classes=np.arange(5), y=LABELS)
    assert loss.weights_of_classes("balanced", counts, list("abcde")) == pytest.approx(expected)
    assert loss.weights_of_classes("none", counts, list("abcde")) is None


def test_a_class_without_examples_is_named() -> None:
    with pytest.raises(InputError, match="no training examples of b"):
        loss.weights_of_classes("balanced", [3, 0], ["a", "b"])
