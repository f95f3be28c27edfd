"""Colour jitter against Pillow's enhancers and torchvision's formulae, eagerly and inside `Dataset.map`."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance

from pipeline.augmentations import jitter

RNG = np.random.default_rng(0)
SIZE = 32
IMAGE = RNG.integers(0, 256, [SIZE, SIZE, 3], dtype=np.uint8)
MILD = RNG.integers(90, 150, [SIZE, SIZE, 3], dtype=np.uint8)  # no factor below drives it out of 0..255


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
@pytest.mark.parametrize("name", ["Brightness", "Contrast", "Color"])
def test_each_factor_alone_is_pillows(name: str, factor: float) -> None:
    factors = [factor if name == own else 1.0 for own in ("Brightness", "Contrast", "Color")]
    expected = np.asarray(getattr(ImageEnhance, name)(Image.fromarray(IMAGE)).enhance(factor), int)

    def adjust(image: tf.Tensor) -> tf.Tensor:
        return jitter.adjust(image, *(tf.constant(value) for value in factors))

    found = adjust(tf.constant(IMAGE)).numpy()
    assert found.dtype == np.uint8
    # Pillow rounds grey, its mean and the blend.
    assert np.abs(found - expected).max() <= 2
    dataset = tf.data.Dataset.from_tensors(IMAGE).map(adjust)
    np.testing.assert_array_equal(next(iter(dataset)), found)


def test_together_they_are_torchvisions_in_any_order() -> None:
    """Blend(image, other, factor), one after the other, with the grey weights of rgb_to_grayscale."""
    factors = {"brightness": 1.3, "contrast": 0.7, "saturation": 1.4}
    grey = lambda x: (x @ [0.2989, 0.587, 0.114])[..., None]  # noqa: E731
    others = {
        "brightness": np.zeros_like,
        "contrast": lambda x: grey(x).mean(),
        "saturation": grey,
    }
    found = jitter.adjust(tf.constant(MILD), *(tf.constant(value) for value in factors.values())).numpy()
    for order in itertools.permutations(factors):
        expected = MILD.astype(np.float64)
        for name in order:
            expected = factors[name] * expected + (1 - factors[name]) * others[name](expected)
        assert 0 < expected.min() < expected.max() < 255
        assert np.abs(found - expected).max() <= 0.6


def test_factors_are_uniform_between_their_bounds() -> None:
    """On one grey level only brightness shows."""
    flat = np.full([32, 32, 3], 100, np.uint8)
    dataset = tf.data.Dataset.range(2000).map(
        lambda index: jitter.color_jitter(tf.constant(flat), tf.stack([1, index]), strength=0.4)[0, 0, 0]
    )
    levels = np.array(list(dataset.as_numpy_iterator()), int)
    assert levels.min() in (60, 61)
    assert levels.max() in (139, 140)
    assert levels.mean() == pytest.approx(100, abs=2)
    strong = [
        int(jitter.color_jitter(tf.constant(flat), tf.constant([1, index], tf.int64), strength=3.0)[0, 0, 0])
        for index in range(50)
    ]
    # Factors from 0 to 4: black is 1 of 400, where factors from -2 would make it a third.
    assert strong.count(0) <= 3
    assert 20 <= strong.count(255) <= 42  # 29 of 50 expected, 4 standard deviations


def test_seeds_repeat_and_differ() -> None:
    jittered = [
        jitter.color_jitter(tf.constant(IMAGE), tf.constant([3, index], tf.int64), strength=0.4).numpy()
        for index in (0, 1, 0)
    ]
    np.testing.assert_array_equal(jittered[0], jittered[2])
    assert (jittered[0] != jittered[1]).any()
