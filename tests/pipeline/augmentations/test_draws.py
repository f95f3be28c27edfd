"""Draws for many seeds at once against TensorFlow's own for each of them, eagerly, in `Dataset.map` and under XLA."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from pipeline.augmentations import draws

# Small, negative and large in either half of either number.
SEEDS = np.concatenate(
    [[[0, 0], [42, 7], [-1, 2**40], [2**32, -(2**62)]], np.random.default_rng(0).integers(-(2**62), 2**62, [16, 2])]
)


@pytest.mark.parametrize("count", [1, 4, 5, 23])
def test_each_row_is_what_tensorflow_draws_for_its_seed(count: int) -> None:
    uniform = np.stack([tf.random.stateless_uniform([count], seed, alg="philox") for seed in SEEDS])
    parts = np.stack([tf.random.split(seed, count, alg="philox") for seed in SEEDS])
    np.testing.assert_array_equal(draws.uniform(tf.constant(SEEDS), count), uniform)
    np.testing.assert_array_equal(draws.split(tf.constant(SEEDS), count), parts)
    compiled = tf.function(lambda seeds: draws.uniform(seeds, count), jit_compile=True)
    np.testing.assert_array_equal(compiled(tf.constant(SEEDS)), uniform)


def test_a_place_has_its_own_seed_inside_a_map_too() -> None:
    places = np.array([0, 1, 2**40], np.int64)
    expected = np.stack([tf.random.stateless_uniform([3], [5, place], alg="philox") for place in places])
    dataset = tf.data.Dataset.from_tensors(places).map(lambda batch: draws.uniform(draws.seeds(5, batch), 3))
    np.testing.assert_array_equal(next(iter(dataset)), expected)
