"""One global step on real replicas: two CPU devices must do what one does, also when float16 overflows on only one."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.augmentations.augment import Augment
from tests.trainer.replicas import (
    IMAGES,
    LABELS,
    PLACES,
    RNG,
    build_optimizer,
    cluster,
    freeze_batch_norm,
    network,
    norms,
)
from trainer import loss, optimizer, step, strategies

LOSS = functools.partial(loss.cross_entropy, label_smoothing=0.1, class_weights=[1.0, 2.0, 0.5])


def _train(
    replicas: int,
    *,
    steps: int = 3,
    name: str = "adamw",
    images: np.ndarray = IMAGES,
    labels: np.ndarray = LABELS,
    augment: step.Augment | None = None,
) -> tuple[list[float], list[np.ndarray]]:
    at = cluster(replicas)
    with at.strategy.scope():
        net = freeze_batch_norm(network())
        opt = build_optimizer(net, name=name, weight_decay=0.01)
        train_step = step.make_train_step(at.strategy, net, opt, LOSS, global_batch=8, augment=augment)
    deal = strategies.distributor(at)
    batch = deal([tf.constant(images), tf.constant(labels), tf.constant(PLACES)])
    losses = [train_step([batch], [0.1]).numpy().item() for _ in range(steps)]
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
    net = freeze_batch_norm(network())
    net.get_layer("backbone").trainable = False
    with tf.GradientTape() as tape:
        losses = LOSS(tf.constant(LABELS), net(IMAGES, training=False))
        mean = tf.reduce_mean(losses)
    kernel = net.layers[-1].kernel
    expected = kernel.numpy() - 0.5 * 1.9 * tape.gradient(mean, kernel.value).numpy()
    opt = build_optimizer(net, momentum=0.9)
    train_step = step.make_train_step(cluster(1).strategy, net, opt, LOSS, global_batch=8)
    [found] = train_step([[tf.constant(IMAGES), tf.constant(LABELS)]], [0.5]).numpy()
    assert found == pytest.approx(float(mean), rel=1e-6)
    np.testing.assert_allclose(kernel.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_weight_decay_spares_biases_and_norms() -> None:
    at = cluster(1)
    with at.strategy.scope():
        net = network()
        for variable in net.trainable_variables:
            variable.assign(tf.ones_like(variable))
        opt = build_optimizer(net, momentum=0.0, weight_decay=0.1)
        no_loss = lambda labels, logits: 0.0 * tf.reduce_sum(logits, axis=-1)  # noqa: E731
        train_step = step.make_train_step(at.strategy, net, opt, no_loss, global_batch=8)
    train_step([[tf.constant(IMAGES), tf.constant(LABELS)]], [0.5])
    for variable in net.trainable_variables:
        expected = 0.95 if len(variable.shape) > 1 else 1.0
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6, err_msg=variable.path)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_synchronised_batch_norm_sees_what_all_replicas_see_at_once(accumulation: int) -> None:
    def one_step(replicas: int, order: np.ndarray, *, synchronized: bool) -> tuple[float, np.ndarray]:
        at = cluster(replicas)
        with at.strategy.scope():
            net = network(synchronized=synchronized)
            train_step = step.make_train_step(
                at.strategy, net, build_optimizer(net), LOSS, global_batch=8, accumulation=accumulation
            )
            average = step.make_average_moving_statistics(at.strategy, net)
        batch = strategies.distributor(at)([tf.constant(brighter[order]), tf.constant(LABELS[order])])
        [found] = train_step([batch], [0.0]).numpy()
        average()
        return float(found), norms(net)[0].moving_variance.numpy()

    brighter = (IMAGES * np.linspace(0.1, 1, 8)[:, None, None, None]).astype(np.uint8)
    as_given = np.arange(8)
    together = as_given.reshape(2, accumulation, -1).swapaxes(0, 1).ravel()  # each part of the one beside the other's
    expected_loss, expected_variance = one_step(1, together, synchronized=False)
    found_loss, variance = one_step(2, as_given, synchronized=True)
    assert found_loss == pytest.approx(expected_loss, rel=1e-5)
    np.testing.assert_allclose(variance, expected_variance, rtol=1e-4)
    assert one_step(2, as_given, synchronized=False)[0] != pytest.approx(expected_loss, rel=1e-3)


@pytest.mark.parametrize(("bad_replica", "settings"), [(0, {}), (1, {}), (1, {"clip_norm": 1.0, "accumulation": 2})])
def test_an_overflow_on_one_replica_skips_the_step_on_all(bad_replica: int, settings: dict[str, Any]) -> None:
    at = cluster(2)
    with at.strategy.scope():
        net = network("mixed_float16")
        opt = build_optimizer(net, precision="mixed_float16")

        def explode(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
            # Label 2 stands for an example whose gradient overflows.
            return LOSS(labels, logits) * tf.where(labels == 2, float("inf"), 1.0)

        train_step = step.make_train_step(at.strategy, net, opt, explode, global_batch=8, **settings)
    deal = strategies.distributor(at)
    before = [variable.numpy() for variable in net.trainable_variables]
    scale = float(opt.dynamic_scale.numpy())
    labels = np.zeros(8, np.int64)
    labels[4 * bad_replica] = 2
    train_step([deal([tf.constant(IMAGES), tf.constant(labels)])], [0.1])
    for old, variable in zip(before, net.trainable_variables, strict=True):
        for replica in at.strategy.experimental_local_results(variable.value):
            np.testing.assert_array_equal(old, replica.numpy(), err_msg=variable.path)
    assert float(opt.dynamic_scale.numpy()) < scale
    train_step([deal([tf.constant(IMAGES), tf.constant(np.zeros(8, np.int64))])], [0.1])
    assert any((old != variable.numpy()).any() for old, variable in zip(before, net.trainable_variables, strict=True))


@pytest.mark.parametrize("replicas", [1, 2])
def test_evaluation_sums_leave_the_padding_out(replicas: int) -> None:
    at = cluster(replicas)
    with at.strategy.scope():
        net = network()
        evaluate_step = step.make_evaluate_step(at.strategy, net, num_classes=3, top_k=2)
    mask = np.array([True] * 5 + [False] * 3)
    deal = strategies.distributor(at)
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
    at = cluster(2)
    with at.strategy.scope():
        net = network()
        opt = build_optimizer(net)
        train_step = step.make_train_step(at.strategy, net, opt, LOSS, global_batch=8)
        average = step.make_average_moving_statistics(at.strategy, net)
    batch = strategies.distributor(at)([tf.constant(IMAGES), tf.constant(LABELS)])
    train_step([batch], [0.1])
    means = [norm.moving_mean.value for norm in norms(net)]  # the backbone's, and one of the head
    apart = [[local.numpy() for local in at.strategy.experimental_local_results(mean)] for mean in means]
    average()
    for mean, (one, other) in zip(means, apart, strict=True):
        assert (one != other).any()
        for local in at.strategy.experimental_local_results(mean):
            np.testing.assert_allclose(local.numpy(), (one + other) / 2, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adamw"])
def test_a_restarted_optimizer_steps_like_a_new_one(name: str) -> None:
    def one_step(steps_before: int) -> list[np.ndarray]:
        net = freeze_batch_norm(network())
        opt = build_optimizer(net, name=name, weight_decay=0.01)
        start = [variable.numpy() for variable in net.trainable_variables]
        train_step = step.make_train_step(cluster(1).strategy, net, opt, LOSS, global_batch=8)
        batch = [tf.constant(IMAGES), tf.constant(LABELS)]
        for _ in range(steps_before):
            train_step([batch], [0.1])
        if steps_before:
            optimizer.restart(opt)
            for variable, value in zip(net.trainable_variables, start, strict=True):
                variable.assign(value)
        train_step([batch], [0.1])
        return [variable.numpy() for variable in net.trainable_variables]

    for fresh, restarted in zip(one_step(0), one_step(5), strict=True):
        np.testing.assert_allclose(restarted, fresh, rtol=1e-5, atol=1e-7)
