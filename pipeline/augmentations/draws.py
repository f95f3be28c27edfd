"""One seed per example in; for each of them the numbers that `tf.random` gives for that seed alone, out.

TensorFlow's stateless operations take one seed. An example's numbers must come from its own seed, whatever batch it
stands in, and a loop over a batch is slow where batches are augmented. So this is the same generator over vectors.
"""

from __future__ import annotations

import tensorflow as tf

# Parallel Random Numbers: As Easy as 1, 2, 3, section 3.3 (https://doi.org/10.1145/2063384.2063405).
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
# With what TensorFlow scrambles a seed, so that seeds may differ in any of their bits.
_SEED_KEY = (0x3EC8F720, 0x02461E29)
_LOW = 0xFFFFFFFF


def seeds(seed: int, places: tf.Tensor) -> tf.Tensor:
    """int64 [b, 2]: the seed of each example, [seed, place], from places int64 [b]."""
    return tf.stack([tf.fill(tf.shape(places), tf.constant(seed, tf.int64)), places], axis=1)


def bits(example_seeds: tf.Tensor, count: int) -> tf.Tensor:
    """uint64 [b, count], each below 2**32: row i is what Philox 4x32-10 gives for example_seeds[i] (int64 [b, 2])."""
    halves = tf.bitcast(example_seeds, tf.uint32)  # [b, 2, 2], the lower half of each number first
    halves = tf.cast(tf.reshape(halves, [-1, 4]), tf.uint64)
    mixed = _philox(halves, tf.constant([_SEED_KEY], tf.uint64))
    groups = -(-count // 4)
    turn = tf.tile(tf.range(groups, dtype=tf.int64), tf.shape(mixed)[:1])[:, None]
    counter = tf.concat([tf.cast(turn, tf.uint64), tf.zeros_like(turn, tf.uint64)], axis=1)
    key, rest = tf.split(tf.repeat(mixed, groups, axis=0), 2, axis=1)
    return tf.reshape(_philox(tf.concat([counter, rest], axis=1), key), [-1, 4 * groups])[:, :count]


def uniform(example_seeds: tf.Tensor, count: int) -> tf.Tensor:
    """float32 [b, count] in [0, 1): row i is tf.random.stateless_uniform([count], example_seeds[i], alg="philox")."""
    # 23 bits are a float32's mantissa.
    mantissas = tf.cast(tf.bitwise.bitwise_and(bits(example_seeds, count), (1 << 23) - 1), tf.float32)
    return mantissas * 2.0**-23


def split(example_seeds: tf.Tensor, count: int) -> tf.Tensor:
    """int64 [b, count, 2]: row i is tf.random.split(example_seeds[i], count, alg="philox")."""
    words = tf.cast(bits(example_seeds, 4 * count), tf.uint32)
    return tf.bitcast(tf.reshape(words, [-1, count, 2, 2]), tf.int64)


def _philox(counter: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Encrypts counters with keys, uint64 [n, 4] with [n, 2] or [1, 2], all below 2**32, to uint64 [n, 4]."""
    even, odd = counter[:, ::2], counter[:, 1::2]
    for turn in range(_ROUNDS):
        products = tf.reverse(even * tf.constant(_MULTIPLIERS, tf.uint64), [1])
        high = tf.bitwise.right_shift(products, tf.constant(32, tf.uint64))
        steps = tf.constant([turn * step & _LOW for step in _KEY_STEPS], tf.uint64)
        even = tf.bitwise.bitwise_xor(tf.bitwise.bitwise_xor(high, odd), tf.bitwise.bitwise_and(key + steps, _LOW))
        odd = tf.bitwise.bitwise_and(products, _LOW)
    return tf.reshape(tf.stack([even, odd], axis=2), [-1, 4])
