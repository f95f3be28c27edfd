"""A head's name in; a Keras model from pooled features to float32 logits out."""

from __future__ import annotations

import keras

from pipeline.errors import InputError
from trainer import batch_norm

NAMES = ("linear", "mlp")
_L2 = 0.001


def build(head: str, *, features: int, num_classes: int, dropout: float | None) -> keras.Model:
    """Builds the classifier on top of globally averaged features.

    Softmax is not in it: the loss takes it together with the logarithm, which keeps small probabilities exact, and the
    focal and logit-adjusted losses need logits.

    Args:
      head: `linear` (dropout, dense), or `mlp` (batch norm, dense 512 and 256 with ReLU and L2 0.001, batch norm,
        dropout, dense). The L2 penalties come out as the model's `losses`.
      dropout: None is 0.2 for `linear`, as MobileNetV2 and EfficientNet train theirs, and 0.3 for `mlp`.

    Returns:
      A model named `head` of float [batch, features] -> float32 [batch, num_classes].

    Raises:
      InputError: for an unknown head.
    """
    pooled = keras.Input([features], name="pooled")
    x = pooled
    if head == "linear":
        x = keras.layers.Dropout(0.2 if dropout is None else dropout, name="dropout")(x)
    elif head == "mlp":
        x = keras.layers.BatchNormalization(name="norm_1")(x)
        for units in (512, 256):
            penalty = keras.regularizers.L2(_L2)
            x = keras.layers.Dense(units, activation="relu", kernel_regularizer=penalty, name=f"dense_{units}")(x)
        x = keras.layers.BatchNormalization(name="norm_2")(x)
        x = keras.layers.Dropout(0.3 if dropout is None else dropout, name="dropout")(x)
    else:
        raise InputError(f"model.head={head!r}: expected one of {', '.join(NAMES)}")
    # float32 whatever the policy: softmax over 16-bit logits loses the small probabilities.
    net = keras.Model(pooled, keras.layers.Dense(num_classes, dtype="float32", name="logits")(x), name="head")
    batch_norm.fuse(net)
    return net
