"""Dropout by place: TensorFlow's own generator draws the same; batches, parts, replicas and restarts change nothing."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.replicas import IMAGES, LABELS, PLACES, build_optimizer, cluster, freeze_batch_norm, network
from trainer import dropout, loss, step, strategies

RATE, UNITS, SEED = 0.3, 500, 3
FIRST_WORD = 5 << 32  # what dropout adds to a run's seed


def _drops(rates: tuple[float, ...] = (RATE,), units: int = UNITS) -> keras.Model:
    """Ones in; each layer's dropped units out, one layer after the other."""
    ones = keras.Input([units])
    layers = [keras.layers.Dropout(rate)(ones) for rate in rates]
    net = keras.Model(ones, keras.layers.Concatenate()(layers) if len(layers) > 1 else layers[0])
    dropout.place(net)
    return net


def _dropped(net: keras.Model, places: np.ndarray, *, units: int = UNITS, seed: int = SEED) -> np.ndarray:
    with dropout.drawn_by_place(net, tf.constant(places, tf.int64), seed=seed):
        return net(np.ones([len(places), units], np.float32), training=True).numpy()


def test_units_are_dropped_as_tensorflows_generator_says() -> None:
    found = _dropped(_drops(), np.array([0, 7, 2**40]))
    for place, row in zip([0, 7, 2**40], found, strict=True):
        words = tf.random.stateless_uniform(
            [UNITS // 2], [SEED + FIRST_WORD, place], minval=None, maxval=None, dtype=tf.uint32, alg="philox"
        ).numpy()
        halves = np.stack([words % 2**16, words // 2**16], axis=1).ravel()
        level = round(RATE * 2**16)
        np.testing.assert_allclose(row, np.where(halves < level, 0, 2**16 / (2**16 - level)), rtol=1e-6)


def test_a_rates_share_is_dropped_and_the_mean_stays() -> None:
    found = _dropped(_drops((0.1, 0.5)), np.arange(400))
    for part, rate in zip(np.split(found, 2, axis=1), (0.1, 0.5), strict=True):
        deviation = (rate * (1 - rate) / part.size) ** 0.5
        assert abs((part == 0).mean() - rate) < 4 * deviation
        assert abs(part.mean() - 1) < 4 * deviation / (1 - rate)


def test_examples_layers_and_seeds_drop_other_units() -> None:
    net, places = _drops((RATE, RATE)), np.arange(5)
    rows = [*np.concatenate(np.split(_dropped(net, places), 2, axis=1)), *_dropped(_drops(), places, seed=SEED + 1)]
    for one, other in itertools.combinations(rows, 2):
        assert 0.3 < ((one == 0) != (other == 0)).mean() < 0.55  # 2 * 0.3 * 0.7 where they are independent


def test_the_batch_that_an_example_stands_in_changes_nothing() -> None:
    net, places = _drops(), np.array([5, 3, 2**33, 8])
    whole = _dropped(net, places)
    np.testing.assert_array_equal(whole[[2, 0]], _dropped(net, places[[2, 0]]))


def test_whole_examples_are_dropped_where_the_layer_says_so() -> None:
    """As in stochastic depth."""
    images = keras.Input([4, 4, 2])
    net = keras.Model(images, keras.layers.Dropout(0.5, noise_shape=(None, 1, 1, 1))(images))
    dropout.place(net)
    with dropout.drawn_by_place(net, tf.range(64, dtype=tf.int64), seed=SEED):
        found = net(np.ones([64, 4, 4, 2], np.float32), training=True).numpy()
    assert set(found.min(axis=(1, 2, 3))) == {0.0, 2.0}
    np.testing.assert_array_equal(found.min(axis=(1, 2, 3)), found.max(axis=(1, 2, 3)))


def test_evaluation_drops_nothing_and_elsewhere_keras_draws() -> None:
    net = _drops()
    ones = np.ones([4, UNITS], np.float32)
    with dropout.drawn_by_place(net, tf.range(4, dtype=tf.int64), seed=SEED):
        np.testing.assert_array_equal(net(ones, training=False), ones)
    first, second = net(ones, training=True).numpy(), net(ones, training=True).numpy()
    assert (first == 0).any()
    assert (first != second).any()


@pytest.mark.parametrize(("replicas", "accumulation"), [(2, 1), (1, 4), (2, 2)])
def test_replicas_and_parts_drop_what_one_does(replicas: int, accumulation: int) -> None:
    """Keras' own dropout draws the same for each replica: without places this fails."""

    def losses(replicas: int, accumulation: int) -> list[float]:
        at = cluster(replicas)
        with at.strategy.scope():
            net = freeze_batch_norm(network(dropout=0.5))
            train_step = step.make_train_step(
                at.strategy,
                net,
                build_optimizer(net),
                loss.cross_entropy,
                global_batch=8,
                accumulation=accumulation,
                seed=SEED,
            )
        deal = strategies.distributor(at)
        batches = [
            deal([tf.constant(IMAGES), tf.constant(LABELS), tf.constant(PLACES + 8 * number)]) for number in range(3)
        ]
        return [float(train_step([batch], [0.1])[0]) for batch in batches]

    assert losses(replicas, accumulation) == pytest.approx(losses(1, 1), rel=1e-5)
