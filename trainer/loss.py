"""Labels and logits in, one loss per example out; the mean over the global batch is the step's business."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from pipeline.errors import InputError

LossFn = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # (labels, logits) -> one loss per example


def make(*, label_smoothing: float, class_weights: str, counts: Sequence[int], classes: Sequence[str]) -> LossFn:
    """`cross_entropy` with the settings of `configs.schema.Loss` filled in; raises as `weights_of_classes` does."""
    weights = weights_of_classes(class_weights, counts, classes)
    return functools.partial(cross_entropy, label_smoothing=label_smoothing, class_weights=weights)


def weights_of_classes(kind: str, counts: Sequence[int], classes: Sequence[str]) -> list[float] | None:
    """One weight per class for `cross_entropy`: None for `none`, and for `balanced` examples / (classes * examples_c).

    With the latter every class has the same share in the sum of losses, and the mean weight over examples is 1. King
    and Zeng, Logistic Regression in Rare Events Data, 2001, as in scikit-learn's `class_weight="balanced"`.

    Args:
      counts: training examples per class, in the order of `classes`.

    Raises:
      InputError: where a class has no examples to weigh, or for an unknown kind.
    """
    if kind == "none":
        return None
    if kind != "balanced":
        raise InputError(f"loss.class_weights={kind!r}: expected none or balanced")
    if missing := [name for name, count in zip(classes, counts, strict=True) if not count]:
        raise InputError(f"loss.class_weights=balanced: no training examples of {', '.join(missing)}")
    return [sum(counts) / (len(counts) * count) for count in counts]


def cross_entropy(
    labels: tf.Tensor, logits: tf.Tensor, *, label_smoothing: float, class_weights: Sequence[float] | None
) -> tf.Tensor:
    """(sum_c p_c w_c) * -sum_k q_k log softmax(logits)_k, with q = (1 - smoothing) * p + smoothing / classes.

    p is onehot(label), or the label itself where that is a distribution: MixUp's and CutMix's examples then weigh what
    their parts weigh. Smoothing: Rethinking the Inception Architecture, section 7 (https://arxiv.org/abs/1512.00567).

    Args:
      labels: int64 [batch], 0 <= label < classes; or float32 [batch, classes], non-negative, each row's sum 1.
      logits: float32 [batch, classes].
      label_smoothing: in [0, 1).
      class_weights: one per class, or None for 1 everywhere.

    Returns:
      float32 [batch].
    """
    log_probabilities = tf.nn.log_softmax(logits)
    soft = labels.dtype.is_floating
    if soft:
        labels = tf.cast(labels, logits.dtype)
        of_label = tf.reduce_sum(labels * log_probabilities, axis=-1)
    else:
        of_label = tf.gather(log_probabilities, labels, batch_dims=1)
    losses = -((1 - label_smoothing) * of_label + label_smoothing * tf.reduce_mean(log_probabilities, axis=-1))
    if class_weights is None:
        return losses
    weights = tf.constant(class_weights, losses.dtype)
    return losses * (tf.linalg.matvec(labels, weights) if soft else tf.gather(weights, labels))
