"""An optimizer's name in; out a Keras optimizer for summed gradients, with decay and rates where they belong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from pipeline.errors import InputError
from trainer import model as model_lib

_NAMES = ("sgd", "adam", "adamw", "lamb", "rmsprop")
_WITH_MOMENTUM = ("sgd", "rmsprop")

# (optimizer, gradient, variable, learning rate, weight decay of this variable): moves the variable and its slots
_Step = Callable[[Any, tf.Tensor, tf.Variable, tf.Tensor, float], None]


def build(
    net: keras.Model,
    *,
    name: str,
    momentum: float | None,
    weight_decay: float,
    layer_decay: float | None,
    precision: str,
    blocks: Sequence[Sequence[keras.Variable]] | None = None,
) -> keras.optimizers.Optimizer:
    """Builds and initialises the optimizer for all of the model's weights, so that every phase finds its slots.

    Its `apply_gradients` expects gradients that are summed over all replicas already, and doesn't sum them again. Its
    learning rate is 0 until the step assigns `schedule.learning_rate`.

    Args:
      net: with everything trainable.
      name: sgd with Nesterov's momentum, adam (https://arxiv.org/abs/1412.6980), adamw
        (https://arxiv.org/abs/1711.05101), lamb (https://arxiv.org/abs/1904.00962, algorithm 2) or rmsprop with the
        decay and momentum of MobileNetV2 (https://arxiv.org/abs/1801.04381, section 6.1) and EfficientNet
        (https://arxiv.org/abs/1905.11946, section 5.2), both 0.9.
      momentum: of sgd and rmsprop; None is 0.9.
      weight_decay: decoupled: a weight loses learning rate * weight_decay of itself per step; lamb puts it inside its
        trust ratio. Never on biases and norms, which gain nothing by it (https://arxiv.org/abs/1812.01187, part 3.1).
        Depthwise kernels decay like all others: a norm follows each, so that decay there only keeps the effective rate
        from falling (https://arxiv.org/abs/1706.05350). EfficientNet's authors do so, MobileNet's left them out.
      layer_decay: each block's rate, for its weight decay too, is so much of the next one's, and the last block's is
        the whole (as BEiT is fine-tuned, https://arxiv.org/abs/2106.08254). None: all the same.
      precision: `mixed_float16` wraps the optimizer in dynamic loss scaling.
      blocks: the trainable variables by depth, for layer_decay; None asks `model.blocks`.

    Raises:
      InputError: for an unknown name, or a setting that this optimizer doesn't have.
    """
    _check(name, momentum, weight_decay)
    variables = net.trainable_variables
    scales = [1.0] * len(variables)
    if layer_decay is not None:
        scales = _scales(variables, model_lib.blocks(net) if blocks is None else blocks, layer_decay)
    momentum = 0.9 if momentum is None else float(momentum)
    if name == "sgd":
        inner = _replicated(keras.optimizers.SGD, name, scales, weight_decay, momentum=momentum, nesterov=momentum > 0)
    elif name == "rmsprop":
        # rho and epsilon as in EfficientNet's code (MobileNetV2's has an epsilon of 1). The paper's rates count on
        # epsilon: it is what limits the step where gradients are small.
        inner = _replicated(
            keras.optimizers.RMSprop, name, scales, weight_decay, rho=0.9, momentum=momentum, epsilon=1e-3
        )
    elif name == "lamb":
        # The paper's authors' epsilon; Keras has a tenth of it.
        inner = _replicated(keras.optimizers.Lamb, name, scales, weight_decay, step=_lamb_step, epsilon=1e-6)
    else:
        # Keras' AdamW is its Adam with decay. Keras' epsilon of 1e-7 stands beside the uncorrected root (section 2 of
        # the paper, its last paragraph), and there comes to 3e-6 of the paper's own in the first step.
        inner = _replicated(keras.optimizers.Adam, name, scales, weight_decay)
    optimizer = inner
    if precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(inner, name="loss_scale")
    optimizer.build(variables)
    restart(optimizer)
    return optimizer


def restart(optimizer: keras.optimizers.Optimizer) -> None:
    """Sets moments and step count to where they begin, for a phase that trains other weights than the one before.

    Adam corrects its moments for the steps they have had. Weights that were frozen until now have had none, and with
    the old count their first steps would come out several times too large. The loss scale stays: it belongs to the
    model's activations.
    """
    inner = optimizer.inner_optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else optimizer
    for variable in inner.variables:
        # TensorFlow 1's RMSprop, which EfficientNet and MobileNetV2 were trained with, begins its mean of squares at
        # one. From Keras' zero the first steps are sqrt(10) times the learning rate whatever the gradient.
        starts_at_one = isinstance(inner, keras.optimizers.RMSprop) and variable.name.endswith("_velocity")
        variable.assign(keras.ops.ones_like(variable) if starts_at_one else keras.ops.zeros_like(variable))


def _check(name: str, momentum: float | None, weight_decay: float) -> None:
    if name not in _NAMES:
        raise InputError(f"optimizer.name={name!r}: expected one of {', '.join(_NAMES)}")
    if momentum is not None and name not in _WITH_MOMENTUM:
        raise InputError(f"optimizer.momentum={momentum}: {name} has none; leave it None")
    if name == "adam" and weight_decay:
        # Some mean decay inside the gradient by it: another algorithm (https://arxiv.org/abs/1711.05101, section 2).
        raise InputError(f"optimizer.weight_decay={weight_decay}: adam has none; adamw is Adam with decoupled decay")


def _scales(
    variables: Sequence[keras.Variable], blocks: Sequence[Sequence[keras.Variable]], layer_decay: float
) -> list[float]:
    """For each of `variables`, layer_decay ** (number of blocks after its own)."""
    depth_of = {id(variable): depth for depth, block in enumerate(blocks) for variable in block}
    if missing := [variable.path for variable in variables if id(variable) not in depth_of]:
        raise ValueError(f"no block has {', '.join(missing)}")
    return [layer_decay ** (len(blocks) - 1 - depth_of[id(variable)]) for variable in variables]


def _replicated(
    base: type[Any],
    name: str,
    scales: Sequence[float],
    weight_decay: float,
    *,
    step: _Step | None = None,
    **settings: Any,
) -> keras.optimizers.Optimizer:
    """An optimizer of Keras whose gradients come summed, and whose variables have rates of their own.

    What it needs lies in this closure and not in attributes, which Keras would track into the checkpoint.

    Args:
      scales: of the learning rate, one per variable, in the order that it will be built with.
      step: takes the place of Keras' own.
      settings: keywords of `base`.
    """
    if not hasattr(base, "_all_reduce_sum_gradients"):  # it is Keras' own affair; without it sums would be summed again
        raise RuntimeError(
            f"this Keras ({keras.__version__}) sums gradients elsewhere: see requirements.lock for one that fits"
        )
    move = step or _decay_then(base.update_step)

    class Replicated(base):  # type: ignore[misc]  # Keras ships no types
        def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> list[Any]:
            """Keras' own would add up the replicas' equal sums once more."""
            return list(grads_and_vars)

        def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
            scale = scales[self._get_variable_index(variable)]
            decay = weight_decay if _decays(variable) else 0.0
            move(self, gradient, variable, tf.cast(learning_rate, variable.dtype) * scale, decay)

    return Replicated(0.0, name=name, **settings)


def _decays(variable: tf.Variable) -> bool:
    """Kernels have two dimensions or more; biases and norms have one."""
    return len(variable.shape) > 1


def _decay_then(update_step: Callable[..., None]) -> _Step:
    def step(optimizer: Any, gradient: tf.Tensor, variable: tf.Variable, rate: tf.Tensor, decay: float) -> None:
        if decay:
            variable.assign_sub(variable * (rate * decay))
        update_step(optimizer, gradient, variable, rate)

    return step


def _lamb_step(optimizer: Any, gradient: tf.Tensor, variable: tf.Variable, rate: tf.Tensor, decay: float) -> None:
    """LAMB's algorithm 2 with identity as phi: x -= rate * |x| / |u| * u, u = m' / (sqrt(v') + epsilon) + decay * x.

    Keras' Lamb decays outside of the ratio, and gives one to biases and norms too: a bias that begins at zero then
    hardly ever leaves it. The authors' code excepts these from both, as we do.
    """
    index = optimizer._get_variable_index(variable)
    momentum, velocity = optimizer._momentums[index], optimizer._velocities[index]
    steps = tf.cast(optimizer.iterations + 1, variable.dtype)
    optimizer.assign_add(momentum, (gradient - momentum) * (1 - optimizer.beta_1))
    optimizer.assign_add(velocity, (gradient * gradient - velocity) * (1 - optimizer.beta_2))
    mean = momentum / (1 - optimizer.beta_1**steps)
    root = tf.sqrt(velocity / (1 - optimizer.beta_2**steps))
    update = mean / (root + optimizer.epsilon) + decay * variable
    if _decays(variable):
        weight_norm, update_norm = tf.norm(variable), tf.norm(update)
        update *= tf.where((weight_norm > 0) & (update_norm > 0), tf.math.divide_no_nan(weight_norm, update_norm), 1.0)
    variable.assign_sub(rate * update)
