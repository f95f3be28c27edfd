"""Random erasing against the paper's description, eagerly and inside `Dataset.map`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from pipeline.augmentations import erasing

HEIGHT, WIDTH = 48, 64
IMAGE = np.random.default_rng(0).integers(0, 256, [HEIGHT, WIDTH, 3], dtype=np.uint8)


def _erased(count: int, probability: float) -> np.ndarray:
    """`count` images, seeded by their index, from one Dataset.map."""
    dataset = tf.data.Dataset.range(count).map(
        lambda index: erasing.erase(tf.constant(IMAGE), tf.stack([7, index]), probability=probability)
    )
    return np.stack(list(dataset.as_numpy_iterator()))


def test_one_rectangle_is_noise_and_all_else_stays() -> None:
    found = _erased(600, 1.0)
    assert found.dtype == np.uint8
    areas, aspects, tops, lefts, noise = [], [], [], [], []
    for image in found:
        # Noise equals what was there in all three channels of a pixel once in 16 million.
        differs = (image != IMAGE).any(-1)
        rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
        height, width = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
        assert differs.sum() == height * width
        areas.append(height * width / (HEIGHT * WIDTH))
        aspects.append(math.log(height / width))
        tops.append(rows[0] / (HEIGHT - height))
        lefts.append(columns[0] / (WIDTH - width))
        noise.append(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].reshape(-1))
    # Uniform in [0.02, 1/3]; the largest of long shape don't fit, and sides are whole pixels.
    assert 0.015 < min(areas) < 0.03
    assert 0.31 < max(areas) < 0.35
    assert np.mean(areas) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    # Log-uniform in [0.3, 3.33]: the mean of the logarithm is 0 but for those wider than high that fit more often.
    assert np.mean(aspects) == pytest.approx(0, abs=0.2)
    assert math.log(0.26) < min(aspects) < math.log(0.4)
    assert math.log(2.5) < max(aspects) < math.log(3.9)
    assert np.mean(tops) == pytest.approx(0.5, abs=0.05)
    assert np.mean(lefts) == pytest.approx(0.5, abs=0.05)
    counts = np.bincount(np.concatenate(noise), minlength=256)
    assert counts.min() > 0.9 * counts.mean()
    assert counts.max() < 1.1 * counts.mean()


def test_as_many_are_erased_as_the_probability_says() -> None:
    erased = (_erased(1000, 0.25) != IMAGE).any((1, 2, 3))
    assert 195 <= erased.sum() <= 305  # 4 standard deviations


def test_seeds_repeat_eagerly_and_in_a_map() -> None:
    mapped = _erased(6, 1.0)
    for index, image in enumerate(mapped):
        found = erasing.erase(tf.constant(IMAGE), tf.constant([7, index], tf.int64), probability=1.0)
        np.testing.assert_array_equal(found, image)
    assert len({image.tobytes() for image in mapped}) == 6
