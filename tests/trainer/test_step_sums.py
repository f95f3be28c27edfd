"""A step must not depend on how the global batch is dealt out: over replicas, over parts, over calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import InputError
from tests.trainer.replicas import IMAGES, LABELS, RNG, build_optimizer, cluster, freeze_batch_norm, network
from trainer import loss, step, strategies

L2 = 0.02
# Uneven between the parts: classes come one after the other, and images get brighter.
SORTED_LABELS = np.sort(LABELS)
BRIGHTER = (IMAGES * np.linspace(0.1, 1, 8)[:, None, None, None]).astype(np.uint8)
MIXED_LABELS = RNG.dirichlet(np.ones(3), 8).astype(np.float32)
PLAIN = {
    "kind": "cross_entropy",
    "label_smoothing": 0.1,
    "class_weights": "none",
    "given_weights": (),
    "effective_beta": None,
    "focal_gamma": None,
    "logit_tau": None,
    "counts": [40, 15, 5],
    "classes": ["a", "b", "c"],
}
LOSSES = {
    "plain": {},
    "balanced": {"class_weights": "balanced"},
    "effective": {"class_weights": "effective", "effective_beta": 0.9},
    "given": {"class_weights": "given", "given_weights": (0.5, 1.0, 3.0)},
    "focal": {"kind": "focal", "class_weights": "balanced"},
    "logit_adjusted": {"kind": "logit_adjusted"},
}


def _by_hand(loss_fn: loss.LossFn, labels: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """(global mean with L2, its gradients), outside of any strategy: the batch at once, L2 from its definition."""
    net = freeze_batch_norm(network())
    with tf.GradientTape() as tape:
        weights = [variable.value for variable in net.trainable_variables]
        mean = tf.reduce_mean(loss_fn(tf.constant(labels), net(BRIGHTER, training=True)))
        mean += L2 * tf.reduce_sum(tf.square(net.layers[-1].kernel.value))
    return float(mean), [gradient.numpy() for gradient in tape.gradient(mean, weights)]


def _by_step(
    loss_fn: loss.LossFn, labels: np.ndarray, replicas: int, *, precision: str = "float32", **settings: Any
) -> tuple[float, list[np.ndarray]]:
    """The same from one step of gradient descent with rate 1: what the weights lost is the gradient."""
    at = cluster(replicas)
    with at.strategy.scope():
        net = freeze_batch_norm(network(l2=L2))
        opt = build_optimizer(net, momentum=0.0, precision=precision)
        train_step = step.make_train_step(at.strategy, net, opt, loss_fn, global_batch=8, **settings)
    before = [variable.numpy() for variable in net.trainable_variables]
    [found] = train_step([strategies.distributor(at)([tf.constant(BRIGHTER), tf.constant(labels)])], [1.0]).numpy()
    after = [variable.numpy() for variable in net.trainable_variables]
    return float(found), [old - new for old, new in zip(before, after, strict=True)]


def _assert_close(found: tuple[float, Sequence[np.ndarray]], expected: tuple[float, Sequence[np.ndarray]]) -> None:
    assert found[0] == pytest.approx(expected[0], abs=1e-6)
    assert any(np.abs(gradient).max() > 0.01 for gradient in expected[1])
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("plain", MIXED_LABELS),
        ("balanced", SORTED_LABELS),
        ("effective", MIXED_LABELS),
        ("given", SORTED_LABELS),
        ("focal", MIXED_LABELS),
        ("logit_adjusted", SORTED_LABELS),
    ],
)
def test_one_two_and_four_replicas_take_the_global_mean(name: str, labels: np.ndarray) -> None:
    loss_fn = loss.make(**{**PLAIN, **LOSSES[name]})
    expected = _by_hand(loss_fn, labels)
    for replicas in (1, 2, 4):
        _assert_close(_by_step(loss_fn, labels, replicas), expected)


@pytest.mark.parametrize(("replicas", "accumulation"), [(1, 8), (4, 2)])
def test_parts_that_follow_each_other_take_the_global_mean(replicas: int, accumulation: int) -> None:
    loss_fn = loss.make(**{**PLAIN, **LOSSES["balanced"]})
    found = _by_step(loss_fn, SORTED_LABELS, replicas, accumulation=accumulation)
    _assert_close(found, _by_hand(loss_fn, SORTED_LABELS))


@pytest.mark.parametrize(
    ("replicas", "accumulation", "precision"), [(1, 1, "float32"), (2, 2, "float32"), (2, 1, "mixed_float16")]
)
def test_the_whole_gradient_is_clipped_not_a_parts_and_not_the_scaled_one(
    replicas: int, accumulation: int, precision: str
) -> None:
    loss_fn = loss.make(**PLAIN)
    mean, gradients = _by_hand(loss_fn, SORTED_LABELS)
    norm = np.sqrt(sum(np.sum(np.square(gradient, dtype=np.float64)) for gradient in gradients))
    settings = {"accumulation": accumulation, "precision": precision}
    clipped = _by_step(loss_fn, SORTED_LABELS, replicas, clip_norm=norm / 3, **settings)
    _assert_close(clipped, (mean, [gradient / 3 for gradient in gradients]))
    _assert_close(_by_step(loss_fn, SORTED_LABELS, replicas, clip_norm=norm * 1.01, **settings), (mean, gradients))


def test_what_does_not_divide_is_refused() -> None:
    at = cluster(2)
    with at.strategy.scope():
        net = network()
        opt = build_optimizer(net)
    for accumulation in (3, 8):
        with pytest.raises(InputError, match=rf"global_batch=8 .*accumulation={accumulation} .* 2 replicas") as caught:
            step.make_train_step(at.strategy, net, opt, loss.cross_entropy, global_batch=8, accumulation=accumulation)
        assert "\n" not in str(caught.value)
    train_step = step.make_train_step(at.strategy, net, opt, loss.cross_entropy, global_batch=16)
    with pytest.raises(ValueError, match="a replica got 4 of global_batch=16, and there are 2"):
        train_step([strategies.distributor(at)([tf.constant(IMAGES), tf.constant(LABELS)])], [0.1])


class _Copy:
    """Sums up what a weight was after each step; stands for `trainer.ema.Ema`."""

    def __init__(self, followed: tf.Variable) -> None:
        self._followed = followed
        self.total = tf.Variable(tf.zeros_like(followed))
        self.updates = tf.Variable(0)

    def update(self) -> None:
        assert tf.distribute.in_cross_replica_context()
        self.total.assign_add(self._followed)
        self.updates.assign_add(1)


def _train(replicas: int, calls: Sequence[int], steps_per_call: int) -> tuple[list[float], list[np.ndarray], int]:
    """So many steps in each call, over other images and with another rate each, with batch norm and dropout."""
    at = cluster(replicas)
    with at.strategy.scope():
        net = network(dropout=0.3, l2=L2)
        opt = build_optimizer(net)
        average = _Copy(net.layers[-1].kernel.value)
        train_step = step.make_train_step(
            at.strategy, net, opt, loss.cross_entropy, global_batch=8, ema=average, steps_per_call=steps_per_call
        )
    deal = strategies.distributor(at)
    batches = [deal([tf.constant(np.roll(IMAGES, 7 * n)), tf.constant(np.roll(LABELS, n))]) for n in range(sum(calls))]
    rates = [0.1 / (n + 1) for n in range(sum(calls))]
    losses: list[float] = []
    for count in calls:
        done = len(losses)
        found = train_step(batches[done : done + count], rates[done : done + count])
        assert found.dtype == tf.float32
        losses += found.numpy().tolist()
    state = [variable.numpy() for variable in (*net.variables, *opt.variables, average.total)]
    return losses, state, int(average.updates.numpy())


def test_steps_in_one_call_are_the_steps_of_single_calls_to_the_last_bit() -> None:
    expected_losses, expected, updates = _train(1, [1, 1, 1, 1, 1], 1)
    losses, found, found_updates = _train(1, [3, 2], 3)  # the last call of a phase may hold fewer
    assert losses == expected_losses
    assert len(set(losses)) == 5
    assert updates == found_updates == 5
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_steps_in_one_call_are_the_steps_of_single_calls_on_two_replicas() -> None:
    expected_losses, expected, _ = _train(2, [1, 1, 1], 1)
    losses, found, _ = _train(2, [3], 3)
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_more_batches_than_a_call_takes_are_refused() -> None:
    net = network()
    train_step = step.make_train_step(
        cluster(1).strategy, net, build_optimizer(net), loss.cross_entropy, global_batch=8, steps_per_call=2
    )
    batch = [tf.constant(IMAGES), tf.constant(LABELS)]
    with pytest.raises(ValueError, match="3 batches: expected 1 to 2"):
        train_step([batch] * 3, [0.1] * 3)


def test_a_step_compiled_with_xla_is_the_step_without() -> None:
    loss_fn = loss.make(**{**PLAIN, **LOSSES["focal"]})
    _assert_close(_by_step(loss_fn, MIXED_LABELS, 1, xla=True), _by_hand(loss_fn, MIXED_LABELS))
    with pytest.raises(InputError, match="here are 2 replicas on CPUs; leave it False"):
        _by_step(loss_fn, MIXED_LABELS, 2, xla=True)
