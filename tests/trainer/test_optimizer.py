"""Optimizers against NumPy written from their papers, and on two replicas against one."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import InputError
from tests.trainer.replicas import cluster
from trainer import optimizer

NAMES = ("sgd", "adam", "adamw", "lamb", "rmsprop")
RATES = (0.1, 0.03, 0.03)  # falling once: a rate inside a momentum is another one than before it


def _net() -> keras.Model:
    """Kernels of three kinds, each with a bias, and a norm; the first bias is zero, as lamb's trouble needs it."""
    layers = keras.layers
    net = keras.Sequential(
        [
            keras.Input([6, 6, 2]),
            layers.Conv2D(3, 3),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3, bias_initializer="ones"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, bias_initializer="ones"),
        ]
    )
    rng = np.random.default_rng(1)
    for variable in net.trainable_variables:
        if len(variable.shape) > 1:
            variable.assign(rng.normal(size=variable.shape))
    return net


def _blocks(net: keras.Model) -> list[list[keras.Variable]]:
    convolution, norm, depthwise, _, head = net.layers
    first = [*convolution.trainable_variables, *norm.trainable_variables]
    return [first, list(depthwise.trainable_variables), list(head.trainable_variables)]


def _gradients(net: keras.Model, seed: int) -> list[np.ndarray]:
    """From 1e-8 to 1: the small ones show each epsilon, and Adam's kind forgives a factor in the large ones."""
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=variable.shape) * 10 ** rng.uniform(-8, 0, variable.shape)).astype(np.float32)
        for variable in net.trainable_variables
    ]


def _build(net: keras.Model, name: str, **changes: Any) -> keras.optimizers.Optimizer:
    decay = 0.0 if name == "adam" else 0.2
    settings = {"momentum": None, "weight_decay": decay, "layer_decay": None, "precision": "float32"}
    return optimizer.build(net, name=name, **{**settings, **changes})


def _apply(
    opt: keras.optimizers.Optimizer, net: keras.Model, gradients: Sequence[np.ndarray], learning_rate: float
) -> None:
    opt.learning_rate.assign(learning_rate)
    scaled = [tf.constant(gradient) * opt.scale_loss(tf.constant(1.0)) for gradient in gradients]
    opt.apply_gradients(zip(scaled, net.trainable_variables, strict=True))


def _values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [variable.numpy() for variable in variables]


# Each takes (weight, gradient, state of this weight, rate, decay, step from 1) and returns the new weight.


def _sgd(w: np.ndarray, g: np.ndarray, state: dict[str, Any], rate: float, decay: float, step: int) -> np.ndarray:
    """Sutskever et al. 2013, equations 3 and 4, with weights where the gradient is taken: at theta + mu * v."""
    before = state.get("v", 0.0)
    state["v"] = 0.9 * before - rate * g
    theta = w - rate * decay * w - 0.9 * before
    return theta + state["v"] + 0.9 * state["v"]


def _adam(w: np.ndarray, g: np.ndarray, state: dict[str, Any], rate: float, decay: float, step: int) -> np.ndarray:
    """Kingma and Ba, algorithm 1, where section 2's epsilon-hat of 1e-7 is epsilon * sqrt(1 - beta_2 ** t)."""
    state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
    state["v"] = 0.999 * state.get("v", 0.0) + 0.001 * g**2
    corrected_m, corrected_v = state["m"] / (1 - 0.9**step), state["v"] / (1 - 0.999**step)
    epsilon = 1e-7 / np.sqrt(1 - 0.999**step)
    return w - rate * decay * w - rate * corrected_m / (np.sqrt(corrected_v) + epsilon)


def _lamb(w: np.ndarray, g: np.ndarray, state: dict[str, Any], rate: float, decay: float, step: int) -> np.ndarray:
    """You et al., algorithm 2; biases and norms, which have one dimension, take the step of Adam inside of it."""
    state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
    state["v"] = 0.999 * state.get("v", 0.0) + 0.001 * g**2
    r = state["m"] / (1 - 0.9**step) / (np.sqrt(state["v"] / (1 - 0.999**step)) + 1e-6)
    if w.ndim == 1:
        return w - rate * r
    direction = r + decay * w
    return w - rate * np.sqrt((w**2).sum()) / np.sqrt((direction**2).sum()) * direction


def _rmsprop(w: np.ndarray, g: np.ndarray, state: dict[str, Any], rate: float, decay: float, step: int) -> np.ndarray:
    """TensorFlow 1's formula, as its documentation has it, with a mean of squares that begins at one."""
    state["mean"] = 0.9 * state.get("mean", 1.0) + 0.1 * g**2
    state["momentum"] = 0.9 * state.get("momentum", 0.0) + rate * g / np.sqrt(state["mean"] + 1e-3)
    return w - rate * decay * w - state["momentum"]


FORMULAS: dict[str, Callable[..., np.ndarray]] = {
    "sgd": _sgd, "adam": _adam, "adamw": _adam, "lamb": _lamb, "rmsprop": _rmsprop,
}  # fmt: skip


@pytest.mark.parametrize("layer_decay", [None, 0.5])
@pytest.mark.parametrize("name", NAMES)
def test_three_steps_are_those_of_the_paper(name: str, layer_decay: float | None) -> None:
    net = _net()
    opt = _build(net, name, layer_decay=layer_decay, blocks=_blocks(net))
    # Depth by hand: convolution and norm, then depthwise, then the head, which has the whole rate.
    scales = [1.0] * 8 if layer_decay is None else [0.25] * 4 + [0.5] * 2 + [1.0] * 2
    decay = 0.0 if name == "adam" else 0.2
    expected = [value.astype(np.float64) for value in _values(net.trainable_variables)]
    states: list[dict[str, Any]] = [{} for _ in expected]
    for step, rate in enumerate(RATES, start=1):
        gradients = _gradients(net, step)
        _apply(opt, net, gradients, rate)
        for index, (variable, gradient) in enumerate(zip(net.trainable_variables, gradients, strict=True)):
            is_kernel = variable.name == "kernel"  # depthwise's too
            expected[index] = FORMULAS[name](
                expected[index], gradient.astype(np.float64), states[index], rate * scales[index],
                decay if is_kernel else 0.0, step,
            )  # fmt: skip
    for variable, value in zip(net.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=2e-5, atol=2e-6, err_msg=variable.path)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize("name", NAMES)
def test_two_replicas_apply_a_sum_once(name: str, precision: str) -> None:
    alone = _net()
    opt = _build(alone, name, precision=precision)
    for step in range(2):
        sums = [np.add(*pair) for pair in zip(_gradients(alone, step), _gradients(alone, step + 9), strict=True)]
        _apply(opt, alone, sums, 0.1)

    together, opt, train = _replicated(name, precision)
    for step in range(2):
        train([_gradients(together, step), _gradients(together, step + 9)])
    assert int(opt.iterations.numpy()) == 2
    for variable, other in zip(together.trainable_variables, alone.trainable_variables, strict=True):
        for value in cluster(2).strategy.experimental_local_results(variable.value):
            np.testing.assert_allclose(value.numpy(), other.numpy(), rtol=1e-5, atol=1e-6, err_msg=variable.path)


def _replicated(
    name: str, precision: str
) -> tuple[keras.Model, keras.optimizers.Optimizer, Callable[[Sequence[Sequence[np.ndarray]]], None]]:
    """A model and its optimizer on two replicas, and a compiled step from the gradients of each."""
    strategy = cluster(2).strategy
    with strategy.scope():
        net = _net()
        opt = _build(net, name, precision=precision)

    def replica_step(gradients: list[tf.Tensor]) -> None:
        scaled = [gradient * opt.scale_loss(tf.constant(1.0)) for gradient in gradients]
        sums = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, scaled)
        opt.apply_gradients(zip(sums, net.trainable_variables, strict=True))

    @tf.function
    def step(gradients: list[Any]) -> None:
        opt.learning_rate.assign(0.1)
        strategy.run(replica_step, args=(gradients,))

    def train(of_replicas: Sequence[Sequence[np.ndarray]]) -> None:
        def deal(index: int) -> Any:
            return strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(of_replicas[context.replica_id_in_sync_group][index])
            )

        step([deal(index) for index in range(len(of_replicas[0]))])

    return net, opt, train


@pytest.mark.parametrize("bad_replica", [0, 1])
def test_an_overflow_anywhere_skips_the_step_everywhere(bad_replica: int) -> None:
    net, opt, train = _replicated("adamw", "mixed_float16")
    sound = _gradients(net, 0)
    everything = [*net.trainable_variables, *opt.inner_optimizer.variables]
    train([sound, sound])
    before, scale = _values(everything), float(opt.dynamic_scale.numpy())
    gradients = [sound, sound]
    gradients[bad_replica] = [*sound[:-1], np.full_like(sound[-1], np.inf)]
    train(gradients)
    for variable, value in zip(everything, before, strict=True):
        for replica in cluster(2).strategy.experimental_local_results(variable.value):
            np.testing.assert_array_equal(replica.numpy(), value, err_msg=variable.path)
    assert float(opt.dynamic_scale.numpy()) == scale / 2
    train([sound, sound])
    assert all(
        (variable.numpy() != value).any() for variable, value in zip(net.trainable_variables, before[:8], strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_restarted_optimizer_steps_like_a_new_one_and_keeps_its_loss_scale(name: str) -> None:
    net = _net()
    start = _values(net.trainable_variables)
    opt = _build(net, name, precision="mixed_float16")
    opt.dynamic_scale.assign(128.0)
    _apply(opt, net, _gradients(net, 1), 0.1)
    first = _values(net.trainable_variables)
    _apply(opt, net, _gradients(net, 2), 0.1)
    optimizer.restart(opt)
    assert float(opt.dynamic_scale.numpy()) == 128.0
    for variable, value in zip(net.trainable_variables, start, strict=True):
        variable.assign(value)
    _apply(opt, net, _gradients(net, 1), 0.1)
    for variable, value in zip(net.trainable_variables, first, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_holds_what_keras_own_does_and_goes_on_exactly(name: str, tmp_path: pathlib.Path) -> None:
    def begin() -> tuple[keras.Model, keras.optimizers.Optimizer, tf.train.Checkpoint]:
        net = _net()
        opt = _build(net, name, layer_decay=0.5, blocks=_blocks(net))
        return net, opt, tf.train.Checkpoint(model=net, optimizer=opt)

    net, opt, content = begin()
    _apply(opt, net, _gradients(net, 1), 0.1)
    path = content.write(str(tmp_path / "ours"))
    _apply(opt, net, _gradients(net, 2), 0.1)

    resumed, opt, content = begin()
    content.read(path).assert_consumed()
    _apply(opt, resumed, _gradients(net, 2), 0.1)
    for variable, other in zip(resumed.trainable_variables, net.trainable_variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), other.numpy(), err_msg=variable.path)

    plain = {
        "sgd": keras.optimizers.SGD(0.1, momentum=0.9),
        "rmsprop": keras.optimizers.RMSprop(0.1, momentum=0.9),
        "lamb": keras.optimizers.Lamb(0.1),
    }.get(name, keras.optimizers.Adam(0.1))
    plain.build(net.trainable_variables)
    theirs = tf.train.Checkpoint(model=net, optimizer=plain).write(str(tmp_path / "keras"))
    assert tf.train.list_variables(path) == tf.train.list_variables(theirs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "adagrad"}, "optimizer.name='adagrad': expected one of sgd, adam, adamw, lamb, rmsprop"),
        ({"name": "adam", "weight_decay": 0.1}, "optimizer.weight_decay=0.1: adam has none; adamw is"),
        ({"name": "lamb", "momentum": 0.9}, "optimizer.momentum=0.9: lamb has none"),
    ],
)
def test_what_an_optimizer_does_not_have_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _build(_net(), **changes)


def test_a_weight_that_no_block_has_is_an_error() -> None:
    net = _net()
    with pytest.raises(ValueError, match=r"no block has .*bias"):
        _build(net, "sgd", layer_decay=0.5, blocks=_blocks(net)[:-1])
