"""An optimizer's name in, a Keras optimizer out, with weight decay where it belongs and loss scaling for float16."""

from __future__ import annotations

import keras


def build(
    model: keras.Model, *, name: str, momentum: float | None, weight_decay: float, precision: str
) -> keras.optimizers.Optimizer:
    """Builds and initialises the optimizer for all of the model's weights, so that every phase finds its slots.

    Args:
      model: with everything trainable.
      momentum: of sgd and rmsprop; None is 0.9.
      weight_decay: decoupled (https://arxiv.org/abs/1711.05101), times the learning rate; never on biases and norms,
        which it would only bias (https://arxiv.org/abs/1812.01187, section 3.1).
      precision: `mixed_float16` wraps the optimizer in dynamic loss scaling.
    """
    decay = weight_decay or None
    momentum = 0.9 if momentum is None else momentum
    # The learning rate is assigned before each step from `schedule.learning_rate`; 0 shows at once where it is not.
    if name == "sgd":
        inner = keras.optimizers.SGD(0.0, momentum=momentum, nesterov=momentum > 0, weight_decay=decay)
    elif name == "rmsprop":
        # EfficientNet's settings: https://arxiv.org/abs/1905.11946, section 5.2; epsilon from the authors' code.
        inner = keras.optimizers.RMSprop(0.0, rho=0.9, momentum=momentum, epsilon=1e-3, weight_decay=decay)
    elif name == "adamw":
        inner = keras.optimizers.AdamW(0.0, weight_decay=weight_decay)
    else:
        raise ValueError(f"optimizer {name!r}: expected sgd, rmsprop or adamw")
    if weight_decay:
        inner.exclude_from_weight_decay(var_list=[v for v in model.trainable_variables if len(v.shape) <= 1])
    optimizer = keras.optimizers.LossScaleOptimizer(inner) if precision == "mixed_float16" else inner
    optimizer.build(model.trainable_variables)
    return optimizer


def restart(optimizer: keras.optimizers.Optimizer) -> None:
    """Zeroes moments and step count, for a phase that trains other weights than the one before.

    Adam corrects its moments for the steps they have had. Weights that were frozen until now have had none, and with
    the old count their first steps would come out several times too large.
    """
    inner = optimizer.inner_optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else optimizer
    for variable in inner.variables:
        variable.assign(keras.ops.zeros_like(variable))
