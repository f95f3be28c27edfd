"""The average of weights against a NumPy recurrence, on one and on two replicas, interrupted and not."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.replicas import cluster
from trainer import ema

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=[8, 6, 6, 2]).astype(np.float32)
LABELS = RNG.integers(0, 3, 8)


def _net() -> keras.Model:
    """With a norm, whose statistics move by themselves, and dropout, whose random state is no weight."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input([6, 6, 2]),
            layers.Conv2D(3, 3),
            layers.BatchNormalization(momentum=0.5),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.1),
            layers.Dense(3),
        ]
    )


def _begin(replicas: int, decay: float) -> tuple[keras.Model, ema.Ema, Callable[[], Callable[[], None]]]:
    """A model, its average, and what compiles a step of gradient descent over each replica's part of the batch."""
    strategy = cluster(replicas).strategy
    with strategy.scope():
        net = _net()
        average = ema.Ema(net, decay)
    part = len(IMAGES) // replicas
    data = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(context.replica_id_in_sync_group * part)
    )

    def replica_step(first: tf.Tensor) -> None:
        variables = net.trainable_variables
        with tf.GradientTape() as tape:
            logits = net(tf.constant(IMAGES)[first : first + part], training=True)
            labels = tf.constant(LABELS)[first : first + part]
            loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)) / len(IMAGES)
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)

        def descend(strategy: tf.distribute.Strategy, gradients: list[tf.Tensor]) -> None:
            for variable, gradient in zip(variables, gradients, strict=True):
                strategy.extended.update(variable.value, lambda v, g: v.assign_sub(0.5 * g), args=(gradient,))

        tf.distribute.get_replica_context().merge_call(descend, args=(gradients,))

    def make_step() -> Callable[[], None]:
        @tf.function
        def step() -> None:
            strategy.run(replica_step, args=(data,))
            average.update()

        return step

    return net, average, make_step


def _per_replica(variable: tf.Variable | keras.Variable) -> list[np.ndarray]:
    value = variable.value if isinstance(variable, keras.Variable) else variable
    return [local.numpy() for local in cluster(2).strategy.experimental_local_results(value)]


def _weights(net: keras.Model) -> list[np.ndarray]:
    return [variable.numpy() for variable in net.variables if variable.dtype == "float32"]


def _averages(net: keras.Model, average: ema.Ema) -> list[np.ndarray]:
    average.swap()
    values = _weights(net)
    average.swap()
    return values


def _recurrence(trajectory: list[list[np.ndarray]], decay: float) -> list[np.ndarray]:
    """What tf.train.ExponentialMovingAverage documents, with num_updates counted from 0 and doubles."""
    shadow = [value.astype(np.float64) for value in trajectory[0]]
    for num_updates, values in enumerate(trajectory[1:]):
        now = min(decay, (1 + num_updates) / (10 + num_updates))
        shadow = [now * old + (1 - now) * value for old, value in zip(shadow, values, strict=True)]
    return shadow


@pytest.mark.parametrize(("replicas", "decay"), [(1, 0.9999), (2, 0.25)])  # the warmup's decay alone, and its end
def test_the_average_follows_the_recurrence(replicas: int, decay: float) -> None:
    net, average, make_step = _begin(replicas, decay)
    step = make_step()
    trained = list(net.trainable_variables)
    trajectory = [[variable.numpy() for variable in trained]]
    for _ in range(4):
        step()
        trajectory.append([variable.numpy() for variable in trained])
    average.swap()
    for variable, expected, first in zip(trained, _recurrence(trajectory, decay), trajectory[0], strict=True):
        for value in _per_replica(variable) if replicas == 2 else [variable.numpy()]:
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6, err_msg=variable.path)
        assert (variable.numpy() != first).any(), variable.path


def test_each_replica_averages_its_own_statistics_until_they_agree() -> None:
    net, average, make_step = _begin(2, 0.9)
    step = make_step()
    norm = net.layers[1]
    trajectory = [[_per_replica(norm.moving_mean), _per_replica(norm.moving_variance)]]
    for _ in range(3):
        step()
        trajectory.append([_per_replica(norm.moving_mean), _per_replica(norm.moving_variance)])
    assert (trajectory[-1][0][0] != trajectory[-1][0][1]).any()
    # As good as following the mean of the replicas in each step.
    means = [[np.mean(values, axis=0) for values in both] for both in trajectory]
    average.agree()
    average.swap()
    for variable, expected in zip((norm.moving_mean, norm.moving_variance), _recurrence(means, 0.9), strict=True):
        first, second = _per_replica(variable)
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("replicas", [1, 2])
def test_swapping_twice_changes_no_bit(replicas: int) -> None:
    net, average, make_step = _begin(replicas, 0.9)
    make_step()()
    variables = [*average.averages, *net.variables]
    before = [_per_replica(variable) if replicas == 2 else [variable.numpy()] for variable in variables]
    average.swap()
    assert (net.layers[-1].kernel.numpy() != before[-2][0]).any()
    average.swap()
    for variable, values in zip(variables, before, strict=True):
        after = _per_replica(variable) if replicas == 2 else [variable.numpy()]
        np.testing.assert_array_equal(after, values)


def test_weights_that_a_later_phase_frees_were_followed_all_along() -> None:
    net, average, make_step = _begin(1, 0.5)
    convolution = net.layers[0]
    start = convolution.kernel.numpy()
    convolution.trainable = False
    step = make_step()
    for _ in range(3):
        step()
    np.testing.assert_array_equal(_averages(net, average)[0], start)
    convolution.trainable = True
    trajectory = [[start]] * 4
    step = make_step()
    for _ in range(3):
        step()
        trajectory = [*trajectory, [convolution.kernel.numpy()]]
    np.testing.assert_allclose(_averages(net, average)[0], _recurrence(trajectory, 0.5)[0], rtol=1e-5, atol=1e-6)
    assert (convolution.kernel.numpy() != start).any()


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_resumed_average_goes_on_bit_exactly(replicas: int, tmp_path: pathlib.Path) -> None:
    def begin() -> tuple[keras.Model, ema.Ema, Callable[[], None], tf.train.Checkpoint]:
        net, average, make_step = _begin(replicas, 0.9999)
        random = [variable for variable in net.variables if variable.path.endswith("seed_generator_state")]
        return net, average, make_step(), tf.train.Checkpoint(model=net, ema=average, random=random)

    net, average, step, content = begin()
    for _ in range(3):
        step()
    if replicas == 2:  # as the loop does before it saves: a checkpoint holds the first replica's statistics
        _agree_on_statistics(net)
        average.agree()
    path = content.write(str(tmp_path / "half"))
    step()
    uninterrupted = [*_averages(net, average), *_weights(net)]

    net, average, step, content = begin()
    content.read(path).assert_consumed()
    assert int(average.steps.numpy()) == 3
    step()
    for found, expected in zip([*_averages(net, average), *_weights(net)], uninterrupted, strict=True):
        np.testing.assert_array_equal(found, expected)


def _agree_on_statistics(net: keras.Model) -> None:
    for variable in (net.layers[1].moving_mean, net.layers[1].moving_variance):
        variable.assign(np.mean(_per_replica(variable), axis=0))


def test_the_checkpoint_holds_one_copy_and_a_counter(tmp_path: pathlib.Path) -> None:
    net, average, _ = _begin(1, 0.9)
    path = tf.train.Checkpoint(ema=average).write(str(tmp_path / "alone"))
    shapes = sorted(shape for name, shape in tf.train.list_variables(path) if name.startswith("ema/averages"))
    assert shapes == sorted(list(value.shape) for value in _weights(net))
    others = [name for name, _ in tf.train.list_variables(path) if not name.startswith("ema/averages")]
    assert others == ["_CHECKPOINTABLE_OBJECT_GRAPH", "ema/steps/.ATTRIBUTES/VARIABLE_VALUE"]


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_a_decay_that_averages_nothing_is_an_error(decay: float) -> None:
    with pytest.raises(ValueError, match=f"decay={decay}: expected more than 0"):
        ema.Ema(_net(), decay)
