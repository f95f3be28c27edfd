"""Labels and logits in, one loss per example out; the mean over the global batch is the step's business."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from pipeline.errors import InputError

LossFn = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # (labels, logits) -> one loss per example

KINDS = ("cross_entropy", "focal", "logit_adjusted")
CLASS_WEIGHTS = ("none", "balanced", "effective", "given")
_EFFECTIVE_BETA = 0.999  # of the paper's four, the one that reaches from tens of examples per class to thousands
_FOCAL_GAMMA = 2.0  # the paper's best in its table 1b
_LOGIT_TAU = 1.0  # with it the adjusted loss is consistent for the balanced error: the paper's theorem 1
_SHOWN_CLASSES = 20


def make(
    *,
    kind: str,
    label_smoothing: float,
    class_weights: str,
    given_weights: Sequence[float],
    effective_beta: float | None,
    focal_gamma: float | None,
    logit_tau: float | None,
    counts: Sequence[int],
    classes: Sequence[str],
) -> LossFn:
    """`cross_entropy` with the settings of `configs.schema.Loss` filled in.

    Args:
      counts: training examples per class, in the order of `classes`.
      others: see `configs.schema.Loss`.

    Raises:
      InputError: where a class has no training examples, whatever the weights: it could never be learned, and neither
        its weight nor its prior is a number; for an unknown kind, and a setting that the chosen kind does not have; as
        `weights_of_classes` does.
    """
    if missing := [name for name, count in zip(classes, counts, strict=True) if not count]:
        raise InputError(
            f"no training examples of {_named(missing)}: what is never seen can't be learned; add images, choose "
            "another train_split, or prepare the dataset without these classes"
        )
    if kind not in KINDS:
        raise InputError(f"loss.kind={kind!r}: expected one of {', '.join(KINDS)}")
    for name, value, needed in (("focal_gamma", focal_gamma, "focal"), ("logit_tau", logit_tau, "logit_adjusted")):
        if value is not None and kind != needed:
            raise InputError(f"loss.{name}={value}: kind={kind!r} has none; leave it None, or choose {needed}")
    gamma = _FOCAL_GAMMA if focal_gamma is None else focal_gamma
    tau = _LOGIT_TAU if logit_tau is None else logit_tau
    return functools.partial(
        cross_entropy,
        label_smoothing=label_smoothing,
        class_weights=weights_of_classes(class_weights, counts, classes, given=given_weights, beta=effective_beta),
        focal_gamma=gamma if kind == "focal" else 0.0,
        logit_offsets=_log_priors(counts, tau) if kind == "logit_adjusted" else None,
    )


def weights_of_classes(
    kind: str,
    counts: Sequence[int],
    classes: Sequence[str],
    *,
    given: Sequence[float] = (),
    beta: float | None = None,
) -> list[float] | None:
    """One weight w_c per class for `cross_entropy`, from the class's number of training examples n_c.

    none: None. balanced: w_c in proportion to 1 / n_c, so that every class has the same share in the sum of losses
    (King and Zeng, Logistic Regression in Rare Events Data, 2001; scikit-learn's `class_weight="balanced"`). effective:
    in proportion to (1 - beta) / (1 - beta^n_c), the inverse of the class's effective number of examples, between none
    (beta 0) and balanced (beta 1); Cui et al., section 3.2 (https://arxiv.org/abs/1901.05555). Both are scaled to a
    mean weight of 1 over the training examples, which leaves the learning rate's meaning alone; Cui et al. scale the
    mean over classes instead. given: as they are.

    Args:
      counts: each at least 1, in the order of `classes`.
      given: with `given` only: one per class in the order of `classes`, none negative, one at least positive.
      beta: with `effective` only: in [0, 1); None is 0.999.

    Raises:
      InputError: for an unknown kind, `given` of another length than `classes`, or what the kind does not have.
    """
    if kind not in CLASS_WEIGHTS:
        raise InputError(f"loss.class_weights={kind!r}: expected one of {', '.join(CLASS_WEIGHTS)}")
    if len(given) and kind != "given":
        raise InputError(f"loss.given_weights={tuple(given)}: class_weights={kind!r} has none; leave it empty")
    if beta is not None and kind != "effective":
        raise InputError(f"loss.effective_beta={beta}: class_weights={kind!r} has none; leave it None")
    if kind == "none":
        return None
    if kind == "given":
        if len(given) != len(classes):
            raise InputError(
                f"loss.given_weights has {len(given)} values, and there are {len(classes)} classes: give one for each "
                f"of {_named(classes)}, in this order"
            )
        if not (min(given) >= 0 and 0 < sum(given) < math.inf):
            raise InputError(f"loss.given_weights={tuple(given)}: expected none negative and one at least positive")
        return list(given)
    if kind == "balanced":
        weights = [1 / count for count in counts]
    else:
        beta = _EFFECTIVE_BETA if beta is None else beta
        weights = [(1 - beta) / (1 - beta**count) for count in counts]
    mean = sum(weight * count for weight, count in zip(weights, counts, strict=True)) / sum(counts)
    return [weight / mean for weight in weights]


def cross_entropy(
    labels: tf.Tensor,
    logits: tf.Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
    focal_gamma: float = 0.0,
    logit_offsets: Sequence[float] | None = None,
) -> tf.Tensor:
    """sum_c p_c w_c * -sum_k q_ck (1 - P_k)^gamma log P_k, with P = softmax(logits + offsets).

    p is the label, as a distribution: onehot(label), or what MixUp and CutMix made of several. q_c is class c's target,
    smoothed: q_ck = (1 - smoothing) [k = c] + smoothing / classes (Rethinking the Inception Architecture, section 7,
    https://arxiv.org/abs/1512.00567). The loss is linear in p: a mixed example's loss is what the losses of its parts
    mix to, each with the weight of its own class. Without weights and focusing that is the cross-entropy of the mixed
    label (https://arxiv.org/abs/1710.09412, section 2); with them, what the authors' code does, which mixes losses.

    gamma > 0 is the focal loss (https://arxiv.org/abs/1708.02002, eq. 4) over a softmax. The term of each class, also
    where only smoothing gives it one, is focused by that class's own probability, as in Keras'
    CategoricalFocalCrossentropy with alpha 1.

    offsets = tau * log(prior) is the logit-adjusted loss (https://arxiv.org/abs/2007.07314, eq. 10). It belongs to
    training only: evaluation and prediction take the logits as they are, which then favour no class for its frequency.

    Args:
      labels: int64 [batch], 0 <= label < classes; or float32 [batch, classes], non-negative, each row's sum 1.
      logits: float32 [batch, classes].
      label_smoothing: in [0, 1).
      class_weights: w, one per class, or None for 1 everywhere.
      focal_gamma: at least 0.
      logit_offsets: one per class, or None for 0 everywhere.

    Returns:
      float32 [batch], non-negative where the weights are.
    """
    if logit_offsets is not None:
        logits += tf.constant(logit_offsets, logits.dtype)
    terms = log_probabilities = tf.nn.log_softmax(logits)
    if focal_gamma:
        # Bounded below by what float32 can tell from 1, or a gamma below 1 has an infinite slope where P is 1.
        others = tf.maximum(-tf.math.expm1(log_probabilities), float(np.finfo(np.float32).eps))
        terms *= others**focal_gamma
    if labels.dtype.is_floating:
        parts = tf.cast(labels, logits.dtype)
    else:
        parts = tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    if class_weights is not None:
        parts *= tf.constant(class_weights, logits.dtype)
    own = tf.reduce_sum(parts * terms, axis=-1)
    if not label_smoothing:
        return -own
    every = tf.reduce_sum(parts, axis=-1) * tf.reduce_mean(terms, axis=-1)
    return -((1 - label_smoothing) * own + label_smoothing * every)


def _log_priors(counts: Sequence[int], tau: float) -> list[float]:
    """Tau * log of each class's share in the training examples."""
    return [tau * math.log(count / sum(counts)) for count in counts]


def _named(classes: Sequence[str]) -> str:
    """All names, or the first ones of very many: an error is one line."""
    more = len(classes) - _SHOWN_CLASSES
    return ", ".join(classes[:_SHOWN_CLASSES]) + (f" and {more} more" if more > 0 else "")
