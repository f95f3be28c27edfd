"""Fused batch norm against Keras' own, in everything it gives: outputs, gradients, statistics."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.replicas import cluster
from trainer import batch_norm, strategies

RNG = np.random.default_rng(0)


def _network(dtype: str) -> keras.Model:
    """Batch norm in a model inside the model, and behind the pooling."""
    keras.utils.set_random_seed(0)
    inner = keras.Input([6, 6, 3])
    x = keras.layers.Conv2D(4, 3, dtype=dtype)(inner)
    x = keras.layers.BatchNormalization(momentum=0.8, epsilon=0.01, dtype=dtype, name="norm")(x)
    images = keras.Input([6, 6, 3])
    x = keras.layers.GlobalAveragePooling2D(dtype=dtype)(keras.Model(inner, x, name="backbone")(images))
    net = keras.Model(images, keras.layers.BatchNormalization(dtype=dtype, name="pooled_norm")(x))
    draws = np.random.default_rng(1)
    for variable in net.variables:
        variable.assign(draws.uniform(0.5, 1.5, variable.shape))
    return net


def _run(net: keras.Model, *, training: bool) -> list[np.ndarray]:
    images = tf.constant(np.random.default_rng(2).normal(1, 2, [5, 6, 6, 3]), tf.float32)
    weights = [variable.value for variable in net.trainable_variables]

    @tf.function
    def step() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = tf.cast(net(images, training=training), tf.float32)
            loss = tf.reduce_sum(tf.sin(outputs))
        return [outputs, *tape.gradient(loss, [images, *weights])]

    return [value.numpy() for value in (*step(), *net.non_trainable_variables)]


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("mixed_bfloat16", 0.1)])
def test_fused_batch_norm_gives_what_keras_gives(dtype: str, tolerance: float, training: bool, trainable: bool) -> None:
    plain, fused = _network(dtype), _network(dtype)
    batch_norm.fuse(fused)
    for net in (plain, fused):
        net.get_layer("backbone").get_layer("norm").trainable = trainable
    expected, found = _run(plain, training=training), _run(fused, training=training)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def test_only_the_fused_operation_runs() -> None:
    net = _network("float32")
    batch_norm.fuse(net)
    graph = tf.function(lambda images: net(images, training=True)).get_concrete_function(tf.zeros([5, 6, 6, 3])).graph
    operations = [operation.type for operation in graph.get_operations()]
    assert operations.count("FusedBatchNormV3") == 2
    assert "SquaredDifference" not in operations


def test_unfused_weights_are_files_for_keras(tmp_path: pathlib.Path) -> None:
    net = _network("float32")
    batch_norm.fuse(net)
    net.get_layer("backbone").get_layer("norm").moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    batch_norm.unfuse(net)
    net.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    assert type(loaded.get_layer("pooled_norm")) is keras.layers.BatchNormalization
    np.testing.assert_array_equal(loaded.get_layer("backbone").get_layer("norm").moving_mean, [1.0, 2.0, 3.0, 4.0])


def test_a_synchronised_layer_normalises_over_all_replicas() -> None:
    strategy = cluster(2).strategy
    images = np.random.default_rng(3).normal(3, 2, [4, 6, 5, 7]).astype(np.float32)
    with strategy.scope():
        layer = batch_norm.FusedBatchNormalization(synchronized=True)
        layer.build(images.shape)
    halves = np.split(images, 2)
    inputs = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(halves[context.replica_id_in_sync_group])
    )
    outputs = strategy.experimental_local_results(strategy.run(lambda x: layer(x, training=True), args=(inputs,)))
    expected = (images - images.mean(axis=(0, 1, 2))) / np.sqrt(images.var(axis=(0, 1, 2)) + layer.epsilon)
    np.testing.assert_allclose(np.concatenate(outputs), expected, rtol=1e-4, atol=1e-4)


def test_synchronised_moments_are_exact_where_a_channel_varies_little() -> None:
    """Keras' own, which subtracts a square of a hundred from another one, are wrong by more than half here."""
    at, draws = cluster(2), np.random.default_rng(0)
    inputs = (10 + 1e-3 * draws.standard_normal([8, 6])).astype(np.float32)
    with at.strategy.scope():
        layer = keras.layers.BatchNormalization(synchronized=True, momentum=0.0)
        net = keras.Sequential([keras.Input([6]), layer])
        batch_norm.fuse(net)
    dealt = strategies.distributor(at)([tf.constant(inputs)])
    tf.function(lambda own: at.strategy.run(lambda part: net(part, training=True), args=(own,)))(*dealt)
    expected = inputs.astype(np.float64)
    np.testing.assert_allclose(layer.moving_mean.numpy(), expected.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance.numpy(), expected.var(axis=0), rtol=1e-2)
