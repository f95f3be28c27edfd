"""Balanced sampling: how often each class should come goes in, how often each example of a window comes goes out.

An alternative to class weights: instead of counting a rare class's gradients more, its examples come more often. A
window gives as many examples as it holds, so positions, epochs and resuming stay arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from pipeline.errors import InputError

# The share of a class with n examples is proportional to n to this power. Square root: https://arxiv.org/abs/1805.00932,
# section 2; uniform is its class-balanced end, and the best for the tail in https://arxiv.org/abs/1910.09217.
POWERS = {"none": 1.0, "sqrt": 0.5, "uniform": 0.0}
# A window without a rare class can't give its share; with so many examples that is seldom.
LEAST_WINDOW = 256


def class_weights(sampling: str, counts: Sequence[int]) -> list[float]:
    """How often an example of each class comes, up to a factor that is the same for all; 0 for classes without any.

    Raises:
      InputError: for an unknown `sampling`.
    """
    if sampling not in POWERS:
        raise InputError(f"sampling={sampling!r}: expected one of {', '.join(POWERS)}")
    return [count ** (POWERS[sampling] - 1) if count else 0.0 for count in counts]


def copies(labels: tf.Tensor, weights: Sequence[float], *, seed: tf.Tensor) -> tf.Tensor:
    """How often each example of one window is taken, in proportion to its class's weight.

    Systematic sampling, class by class (https://doi.org/10.1214/aoms/1177730209): an example that is due 2.3 times
    comes 2 or 3 times, and each class as often as it is due to within one.

    Args:
      labels: int64 [n].
      seed: integers [2]; decides which examples come once more than others.

    Returns:
      int64 [n], with sum n.
    """
    count = tf.size(labels)
    seeds = tf.random.split(seed, 2)
    shuffled = tf.random.experimental.stateless_shuffle(tf.range(count), seed=seeds[0])
    by_class = tf.gather(shuffled, tf.argsort(tf.gather(labels, shuffled), stable=True))
    due = tf.cumsum(tf.gather(tf.constant(weights, tf.float64), tf.gather(labels, by_class)))
    due = due / due[-1] * tf.cast(count, tf.float64)
    # Begins at u, ends at n + u: as many whole numbers lie between as there are examples. The last is set apart from
    # rounding errors.
    begin = tf.random.stateless_uniform([], seeds[1], dtype=tf.float64)
    marks = tf.concat([[0], tf.cast(tf.floor(due[:-1] + begin), tf.int64), [tf.cast(count, tf.int64)]], axis=0)
    return tf.scatter_nd(by_class[:, tf.newaxis], marks[1:] - marks[:-1], tf.shape(labels, tf.int32))
