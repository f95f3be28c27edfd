"""One global step on real replicas: two CPU devices must do what one does, also when float16 overflows on only one."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.augmentations.augment import Augment
from trainer import loss, model, optimizer, step, strategies

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, [8, 32, 32, 3], dtype=np.uint8)
LABELS = RNG.integers(0, 3, 8)
PLACES = np.arange(100, 108)
LOSS = functools.partial(loss.cross_entropy, label_smoothing=0.1, class_weights=[1.0, 2.0, 0.5])


@functools.cache  # TensorFlow's collectives number their groups per strategy: two over the same devices collide
def _cluster(replicas: int) -> strategies.Cluster:
    if replicas == 1:
        return strategies.connect("one")
    return strategies.Cluster(tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]), 0, 1)


def _net(dtype: str = "float32") -> keras.Model:
    """Small, and without batch norm in training mode, whose statistics rightly differ between replicas."""
    keras.utils.set_random_seed(0)
    images = keras.Input([32, 32, 3], dtype="uint8")
    x = keras.layers.Rescaling(1 / 255, dtype=dtype)(images)
    inner = keras.Input([32, 32, 3])
    y = keras.layers.Conv2D(8, 3, strides=4, activation="relu", dtype=dtype)(inner)
    y = keras.layers.BatchNormalization(dtype=dtype)(y)
    x = keras.Model(inner, y, name="backbone")(x)
    x = keras.layers.GlobalAveragePooling2D(dtype=dtype)(x)
    return keras.Model(images, keras.layers.Dense(3, dtype="float32")(x))


def _train(
    replicas: int,
    *,
    steps: int = 3,
    name: str = "adamw",
    images: np.ndarray = IMAGES,
    labels: np.ndarray = LABELS,
    augment: step.Augment | None = None,
) -> tuple[list[float], list[np.ndarray]]:
    cluster = _cluster(replicas)
    with cluster.strategy.scope():
        net = _net()
        net.get_layer("backbone").layers[-1].trainable = False
        opt = optimizer.build(net, name=name, momentum=None, weight_decay=0.01, precision="float32")
        train_step = step.make_train_step(cluster.strategy, net, opt, LOSS, global_batch=8, augment=augment)
    deal = strategies.distributor(cluster)
    batch = deal([tf.constant(images), tf.constant(labels), tf.constant(PLACES)])
    losses = [float(train_step(batch, tf.constant(0.1))) for _ in range(steps)]
    return losses, [variable.numpy() for variable in net.trainable_variables]


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adamw"])
def test_two_replicas_take_the_step_that_one_takes(name: str) -> None:
    one_losses, one_weights = _train(1, name=name)
    two_losses, two_weights = _train(2, name=name)
    assert two_losses == pytest.approx(one_losses, rel=1e-5)
    for one, two in zip(one_weights, two_weights, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)


def test_two_replicas_take_the_step_that_one_takes_with_mixed_labels() -> None:
    labels = RNG.dirichlet(np.ones(3), 8).astype(np.float32)
    one_losses, one_weights = _train(1, name="sgd", labels=labels)
    two_losses, two_weights = _train(2, name="sgd", labels=labels)
    assert two_losses == pytest.approx(one_losses, rel=1e-5)
    for one, two in zip(one_weights, two_weights, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_step_augments_each_image_by_its_own_place(replicas: int) -> None:
    def darken(images: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
        return images // tf.cast(places - 99, tf.uint8)[:, None, None, None]

    darker = IMAGES // (PLACES - 99).astype(np.uint8)[:, None, None, None]
    expected_losses, expected_weights = _train(1, images=darker)
    losses, weights = _train(replicas, augment=darken)
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    for expected, found in zip(expected_weights, weights, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_two_replicas_draw_a_policy_as_the_host_does() -> None:
    settings = {"policy": "randaugment", "num_ops": 1}
    host = Augment(**settings)
    augmented = [
        host.image(tf.constant(image), tf.constant([7, place], tf.int64)).numpy()
        for image, place in zip(IMAGES, PLACES, strict=True)
    ]
    assert (np.stack(augmented) != IMAGES).any()
    expected, _ = _train(1, images=np.stack(augmented))
    losses, _ = _train(2, augment=functools.partial(Augment(**settings, where="step").batch, seed=7))
    assert losses == pytest.approx(expected, rel=1e-5)


def test_first_sgd_step_is_the_gradient_by_hand() -> None:
    """Without momentum's past, Nesterov's first step is lr * (1 + momentum) * gradient of the global mean."""
    net = _net()
    net.get_layer("backbone").trainable = False
    with tf.GradientTape() as tape:
        losses = LOSS(tf.constant(LABELS), net(IMAGES, training=False))
        mean = tf.reduce_mean(losses)
    kernel = net.layers[-1].kernel
    expected = kernel.numpy() - 0.5 * 1.9 * tape.gradient(mean, kernel.value).numpy()
    opt = optimizer.build(net, name="sgd", momentum=0.9, weight_decay=0.0, precision="float32")
    train_step = step.make_train_step(_cluster(1).strategy, net, opt, LOSS, global_batch=8)
    found = float(train_step([tf.constant(IMAGES), tf.constant(LABELS)], tf.constant(0.5)))
    assert found == pytest.approx(float(mean), rel=1e-6)
    np.testing.assert_allclose(kernel.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_weight_decay_spares_biases_and_norms() -> None:
    cluster = _cluster(1)
    with cluster.strategy.scope():
        net = _net()
        for variable in net.trainable_variables:
            variable.assign(tf.ones_like(variable))
        opt = optimizer.build(net, name="sgd", momentum=0.0, weight_decay=0.1, precision="float32")
        no_loss = lambda labels, logits: 0.0 * tf.reduce_sum(logits, axis=-1)  # noqa: E731
        train_step = step.make_train_step(cluster.strategy, net, opt, no_loss, global_batch=8)
    train_step([tf.constant(IMAGES), tf.constant(LABELS)], tf.constant(0.5))
    for variable in net.trainable_variables:
        expected = 0.95 if len(variable.shape) > 1 else 1.0
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6, err_msg=variable.path)


def test_synchronised_batch_norm_sees_the_global_batch() -> None:
    def one_step(replicas: int, *, sync_batch_norm: bool) -> tuple[float, np.ndarray]:
        cluster = _cluster(replicas)
        keras.utils.set_random_seed(0)
        with cluster.strategy.scope():
            net = model.build(
                backbone="mobilenetv2",
                num_classes=3,
                image_size=32,
                width=0.35,
                weights="none",
                dropout=0.0,
                batch_norm_momentum=0.5,
                sync_batch_norm=sync_batch_norm,
            )
            opt = optimizer.build(net, name="sgd", momentum=None, weight_decay=0.0, precision="float32")
            train_step = step.make_train_step(cluster.strategy, net, opt, LOSS, global_batch=8)
            average = step.make_average_moving_statistics(cluster.strategy, net)
        deal = strategies.distributor(cluster)
        found = float(train_step(deal([tf.constant(IMAGES), tf.constant(LABELS)]), tf.constant(0.0)))
        average()
        norm = net.get_layer("backbone").get_layer("bn_Conv1")
        return found, norm.moving_variance.numpy()

    expected_loss, expected_variance = one_step(1, sync_batch_norm=False)
    loss_value, variance = one_step(2, sync_batch_norm=True)
    assert loss_value == pytest.approx(expected_loss, rel=1e-3)
    np.testing.assert_allclose(variance, expected_variance, rtol=1e-4)
    assert one_step(2, sync_batch_norm=False)[0] != pytest.approx(expected_loss, rel=1e-2)


@pytest.mark.parametrize("bad_replica", [0, 1])
def test_an_overflow_on_one_replica_skips_the_step_on_all(bad_replica: int) -> None:
    cluster = _cluster(2)
    with cluster.strategy.scope():
        net = _net("mixed_float16")
        opt = optimizer.build(net, name="sgd", momentum=None, weight_decay=0.0, precision="mixed_float16")

        def explode(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
            # Label 2 stands for an example whose gradient overflows.
            return LOSS(labels, logits) * tf.where(labels == 2, float("inf"), 1.0)

        train_step = step.make_train_step(cluster.strategy, net, opt, explode, global_batch=8)
    deal = strategies.distributor(cluster)
    before = [variable.numpy() for variable in net.trainable_variables]
    scale = float(opt.dynamic_scale.numpy())
    labels = np.zeros(8, np.int64)
    labels[4 * bad_replica] = 2
    train_step(deal([tf.constant(IMAGES), tf.constant(labels)]), tf.constant(0.1))
    for old, variable in zip(before, net.trainable_variables, strict=True):
        for replica in cluster.strategy.experimental_local_results(variable.value):
            np.testing.assert_array_equal(old, replica.numpy(), err_msg=variable.path)
    assert float(opt.dynamic_scale.numpy()) < scale
    train_step(deal([tf.constant(IMAGES), tf.constant(np.zeros(8, np.int64))]), tf.constant(0.1))
    assert any((old != variable.numpy()).any() for old, variable in zip(before, net.trainable_variables, strict=True))


@pytest.mark.parametrize("replicas", [1, 2])
def test_evaluation_sums_leave_the_padding_out(replicas: int) -> None:
    cluster = _cluster(replicas)
    with cluster.strategy.scope():
        net = _net()
        evaluate_step = step.make_evaluate_step(cluster.strategy, net, num_classes=3, top_k=2)
    mask = np.array([True] * 5 + [False] * 3)
    deal = strategies.distributor(cluster)
    confusion, in_top_k, loss_sum = evaluate_step(deal([tf.constant(IMAGES), tf.constant(LABELS), tf.constant(mask)]))
    logits = net(IMAGES, training=False).numpy()[:5].astype(np.float64)
    labels = LABELS[:5]
    expected = np.zeros([3, 3], int)
    np.add.at(expected, (labels, logits.argmax(-1)), 1)
    np.testing.assert_array_equal(confusion, expected)
    ranks = (logits > logits[np.arange(5), labels][:, None]).sum(-1)
    assert int(in_top_k) == (ranks < 2).sum()
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert float(loss_sum) == pytest.approx(-log_softmax[np.arange(5), labels].sum(), rel=1e-5)


def test_moving_statistics_become_the_mean_of_the_replicas() -> None:
    cluster = _cluster(2)
    with cluster.strategy.scope():
        net = _net()
        opt = optimizer.build(net, name="sgd", momentum=None, weight_decay=0.0, precision="float32")
        train_step = step.make_train_step(cluster.strategy, net, opt, LOSS, global_batch=8)
        average = step.make_average_moving_statistics(cluster.strategy, net)
    batch = strategies.distributor(cluster)([tf.constant(IMAGES), tf.constant(LABELS)])
    train_step(batch, tf.constant(0.1))
    mean = net.get_layer("backbone").layers[-1].moving_mean
    apart = [value.numpy() for value in cluster.strategy.experimental_local_results(mean.value)]
    assert (apart[0] != apart[1]).any()
    average()
    for value in cluster.strategy.experimental_local_results(mean.value):
        np.testing.assert_allclose(value.numpy(), (apart[0] + apart[1]) / 2, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adamw"])
def test_a_restarted_optimizer_steps_like_a_new_one(name: str) -> None:
    def one_step(steps_before: int) -> list[np.ndarray]:
        net = _net()
        net.get_layer("backbone").layers[-1].trainable = False
        opt = optimizer.build(net, name=name, momentum=None, weight_decay=0.01, precision="float32")
        start = [variable.numpy() for variable in net.trainable_variables]
        train_step = step.make_train_step(_cluster(1).strategy, net, opt, LOSS, global_batch=8)
        batch = [tf.constant(IMAGES), tf.constant(LABELS)]
        for _ in range(steps_before):
            train_step(batch, tf.constant(0.1))
        if steps_before:
            optimizer.restart(opt)
            for variable, value in zip(net.trainable_variables, start, strict=True):
                variable.assign(value)
        train_step(batch, tf.constant(0.1))
        return [variable.numpy() for variable in net.trainable_variables]

    for fresh, restarted in zip(one_step(0), one_step(5), strict=True):
        np.testing.assert_allclose(restarted, fresh, rtol=1e-5, atol=1e-7)
