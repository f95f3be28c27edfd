"""The batched policies against the functions of one image, image by image, eagerly, in `Dataset.map` and under XLA."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from pipeline.augmentations import batched, policies

RNG = np.random.default_rng(0)
SIZE = 32
OPERATIONS = policies.trivial_augment_operations(SIZE, SIZE)  # the wider of the two policies' ranges
# (operation, amount) with the least, the most and some between, both signs where there are two.
CASES = [
    (which, amount)
    for which, operation in enumerate(OPERATIONS)
    for amount in sorted({0, *range(5, len(operation.amounts), 12), max(0, len(operation.amounts) - 1)})
]
WHICH, AMOUNT = (np.array(column, np.int32) for column in zip(*CASES, strict=True))
# Noise in different ranges, so that there is contrast to stretch.
LOW = RNG.integers(0, 100, [len(CASES), 1, 1, 3])
IMAGES = (LOW + RNG.integers(1, 156, [len(CASES), SIZE, SIZE, 3])).astype(np.uint8)


def _alone(which: int, amount: int, image: np.ndarray) -> np.ndarray:
    operation = OPERATIONS[which]
    return operation.apply(tf.constant(image), *operation.amounts[amount : amount + 1]).numpy()


def _apply(images: tf.Tensor) -> tf.Tensor:
    return batched.apply(images, OPERATIONS, tf.constant(WHICH), tf.constant(AMOUNT))


def test_each_image_gets_its_own_operation() -> None:
    found = _apply(tf.constant(IMAGES)).numpy()
    assert found.dtype == np.uint8
    for image, case, one in zip(IMAGES, CASES, found, strict=True):
        np.testing.assert_array_equal(one, _alone(*case, image), err_msg=str(case))
    changed = WHICH[(found != IMAGES).any((1, 2, 3))]
    assert set(changed) == set(range(1, len(OPERATIONS)))  # all but identity
    np.testing.assert_array_equal(next(iter(tf.data.Dataset.from_tensors(IMAGES).map(_apply))), found)
    np.testing.assert_array_equal(tf.function(_apply, jit_compile=True)(tf.constant(IMAGES)), found)


@pytest.mark.parametrize("level", [0, 100, 255])
def test_an_image_of_one_level_gets_what_it_gets_alone(level: int) -> None:
    flat = np.full_like(IMAGES, level)
    found = _apply(tf.constant(flat)).numpy()
    for image, case, one in zip(flat, CASES, found, strict=True):
        np.testing.assert_array_equal(one, _alone(*case, image), err_msg=str(case))


PLACES = np.concatenate([np.arange(24), [2**40]])
PICTURES = IMAGES[: len(PLACES)]


@pytest.mark.parametrize(("num_ops", "magnitude"), [(1, 10.0), (2, 9.0)])
def test_rand_augment_gives_each_image_what_it_gets_alone(num_ops: int, magnitude: float) -> None:
    def augment(images: tf.Tensor) -> tf.Tensor:
        return batched.rand_augment(images, tf.constant(PLACES), seed=3 << 32, num_ops=num_ops, magnitude=magnitude)

    found = augment(tf.constant(PICTURES)).numpy()
    for image, place, one in zip(PICTURES, PLACES, found, strict=True):
        seed = tf.constant([3 << 32, place], tf.int64)
        alone = policies.rand_augment(tf.constant(image), seed, num_ops=num_ops, magnitude=magnitude)
        np.testing.assert_array_equal(one, alone)
    np.testing.assert_array_equal(tf.function(augment, jit_compile=True)(tf.constant(PICTURES)), found)
    assert (found != PICTURES).any((1, 2, 3)).sum() > 15


def test_trivial_augment_gives_each_image_what_it_gets_alone() -> None:
    found = batched.trivial_augment(tf.constant(PICTURES), tf.constant(PLACES), seed=5).numpy()
    for image, place, one in zip(PICTURES, PLACES, found, strict=True):
        alone = policies.trivial_augment(tf.constant(image), tf.constant([5, place], tf.int64))
        np.testing.assert_array_equal(one, alone)
    assert (found != PICTURES).any((1, 2, 3)).sum() > 15
