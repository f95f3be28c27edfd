"""What is drawn, how often and how strong: every result is traced back to the one Pillow image it must be."""

from __future__ import annotations

import collections
import functools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from pipeline.augmentations import policies
from pipeline.errors import InputError

SIDE = 40
_Y, _X = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
IMAGE = np.stack([30 + 180 * _Y**2, 20 + 200 * _X * _Y, 60 + 120 * np.abs(np.sin(7 * _X + 3 * _Y))], axis=-1)
IMAGE = (IMAGE + np.random.default_rng(0).normal(0, 6, IMAGE.shape)).clip(0, 255).astype(np.uint8)

ENHANCERS = {
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}
# The paper's list, section 3.
OPERATIONS = (
    *("identity", "auto_contrast", "equalize", "rotate", "solarize", "color", "posterize", "contrast", "brightness"),
    *("sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)

# At magnitude 9 of 10, by hand from table 6 of AutoAugment: rotate 30, shear 0.3, translate 150 of 331 pixels, ...
RAND_AUGMENT_9 = {
    "rotate": [27.0, -27.0],
    "solarize": [26],
    "posterize": [4],
    "shear_x": [0.27, -0.27],
    "shear_y": [0.27, -0.27],
    "translate_x": [16, -16],
    "translate_y": [16, -16],
    **{name: [1.81, 0.19] for name in ENHANCERS},
}


def _pillow(image: np.ndarray, name: str, amount: float | None) -> np.ndarray:
    picture = Image.fromarray(image)
    plain = {"identity": Image.Image.copy, "auto_contrast": ImageOps.autocontrast, "equalize": ImageOps.equalize}
    if name in plain:
        return np.asarray(plain[name](picture), int)
    if name in ENHANCERS:
        return np.asarray(ENHANCERS[name](picture).enhance(amount), int)
    if name == "rotate":
        return np.asarray(picture.rotate(amount, Image.Resampling.NEAREST, fillcolor=(128, 128, 128)), int)
    if name in ("solarize", "posterize"):
        return np.asarray(getattr(ImageOps, name)(picture, amount), int)
    matrices = {
        "shear_x": (1, amount, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, amount, 1, 0),
        "translate_x": (1, 0, amount, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, amount),
    }
    affine = Image.Transform.AFFINE
    moved = picture.transform(picture.size, affine, matrices[name], Image.Resampling.NEAREST, fillcolor=(128, 128, 128))
    return np.asarray(moved, int)


def _mapped(augment, count: int) -> np.ndarray:
    seeds = tf.data.Dataset.range(count).map(lambda place: tf.stack([tf.constant(7, tf.int64), place]))
    dataset = seeds.map(lambda seed: augment(tf.constant(IMAGE), seed), num_parallel_calls=2)
    assert dataset.element_spec == tf.TensorSpec(IMAGE.shape, tf.uint8)
    return np.stack(list(dataset.as_numpy_iterator()))


def _trace(found: np.ndarray, expected: dict[tuple[str, float | None], np.ndarray]) -> list[tuple[str, float | None]]:
    """Which of `expected` each image is; one of them has to be within one level everywhere."""
    names, images = list(expected), np.stack(list(expected.values())).astype(np.int16)
    drawn = []  # the corner first, for most differ there already
    for image in found:
        corner = np.abs(images[:, :8, :8] - image[:8, :8]).max(axis=(1, 2, 3)) <= 1
        furthest = np.abs(images[corner] - image).max(axis=(1, 2, 3))
        assert furthest.min() <= 1
        drawn.append(names[int(np.flatnonzero(corner)[furthest.argmin()])])
    return drawn


def _all(amounts: dict[str, list[float]]) -> dict[tuple[str, float | None], np.ndarray]:
    return {(name, amount): _pillow(IMAGE, name, amount) for name in OPERATIONS for amount in amounts.get(name, [None])}


def test_rand_augment_draws_the_papers_operations_alike_at_the_papers_magnitudes() -> None:
    count = 2100
    drawn = _trace(
        _mapped(functools.partial(policies.rand_augment, num_ops=1, magnitude=9.0), count), _all(RAND_AUGMENT_9)
    )
    operations = collections.Counter(name for name, _ in drawn)
    assert set(operations) == set(OPERATIONS)
    # 150 of each, give or take 11.8: chi-square of 13 degrees of freedom stays below 34.5 with probability 0.999.
    assert sum((number - count / 14) ** 2 / (count / 14) for number in operations.values()) < 34.5
    for name, amounts in RAND_AUGMENT_9.items():
        signs = collections.Counter(amount for drawn_name, amount in drawn if drawn_name == name)
        assert set(signs) == set(amounts)
        if len(amounts) == 2:  # of 150, a fair coin stays within 4 standard deviations, 24
            assert abs(signs[amounts[0]] - signs[amounts[1]]) <= 50


def test_two_operations_are_applied_one_after_the_other() -> None:
    count = 300
    amounts = [(name, amount) for name in OPERATIONS for amount in RAND_AUGMENT_9.get(name, [None])]
    first = {key: _pillow(IMAGE, *key).astype(np.uint8) for key in amounts}
    pairs = np.stack([_pillow(image, *key) for image in first.values() for key in amounts])
    found = _mapped(functools.partial(policies.rand_augment, num_ops=2, magnitude=9.0), count)
    # The first operation's level of tolerance may move a threshold or a histogram of the second: nearly all must fit.
    nearest = [int(np.abs(pairs - image).mean(axis=(1, 2, 3)).argmin()) for image in found]
    distances = [np.abs(pairs[pair] - image).mean() for pair, image in zip(nearest, found, strict=True)]
    assert np.mean(np.array(distances) <= 1) > 0.97
    untouched = np.mean([(image == IMAGE).all() for image in found])
    assert untouched < 0.03  # identity twice: one in 196
    names = [(amounts[pair // len(amounts)][0], amounts[pair % len(amounts)][0]) for pair in nearest]
    assert len(set(names)) > 100  # of 196; one operation after itself, or always the same two, would give 14 or 1


def test_magnitude_0_changes_next_to_nothing() -> None:
    found = _mapped(functools.partial(policies.rand_augment, num_ops=1, magnitude=0.0), 300)
    same = [(image == IMAGE).all() for image in found]
    # All but auto_contrast and equalize, which have no magnitude: 12 of 14.
    assert 0.78 < np.mean(same) < 0.93


def test_trivial_augment_draws_operations_and_magnitudes_alike() -> None:
    """The wide ranges: TrivialAugment, table 1."""
    steps = np.arange(31) / 30
    both = {
        name: sorted({sign * amount for amount in amounts for sign in (1, -1)})
        for name, amounts in {
            "rotate": 135 * steps,
            "shear_x": 0.99 * steps,
            "shear_y": 0.99 * steps,
            "translate_x": np.round(32 * steps),
            "translate_y": np.round(32 * steps),
        }.items()
    }
    factors = [1 + sign * 0.99 * step for step in steps for sign in (1, -1)]
    expected = _all(
        {
            **both,
            **dict.fromkeys(ENHANCERS, factors),
            "solarize": [round(256 * (1 - step)) for step in steps],
            "posterize": sorted({8 - round(6 * step) for step in steps}),
        }
    )
    count = 1400
    drawn = _trace(_mapped(policies.trivial_augment, count), expected)
    operations = collections.Counter(name for name, _ in drawn)
    turned = [amount for name, amount in drawn if name == "rotate"]
    assert 60 <= len(turned) <= 140  # 100, give or take 9.6
    assert -135 <= min(turned) < -100
    assert 100 < max(turned) <= 135
    assert 45 < np.abs(turned).mean() < 90  # 67.5 where all magnitudes are alike
    moved = [amount for name, amount in drawn if name == "translate_x"]
    assert 28 <= max(moved) <= 32
    assert operations["equalize"] > 60
    assert {amount for name, amount in drawn if name == "posterize"} == {2, 3, 4, 5, 6, 7}


@pytest.mark.parametrize(
    "augment", [functools.partial(policies.rand_augment, num_ops=2, magnitude=9.0), policies.trivial_augment]
)
def test_a_seed_gives_one_image_eagerly_and_in_a_dataset(augment) -> None:
    mapped = _mapped(augment, 40)
    for place in (0, 3, 17):
        np.testing.assert_array_equal(augment(tf.constant(IMAGE), tf.constant([7, place], tf.int64)), mapped[place])
    np.testing.assert_array_equal(_mapped(augment, 40), mapped)
    assert len({image.tobytes() for image in mapped}) > 25


def test_tables_too_large_for_the_graph_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    augment = functools.partial(policies.rand_augment, num_ops=2, magnitude=7.0)
    expected = _mapped(augment, 60)
    policies._branches.cache_clear()
    monkeypatch.setattr(policies, "_LARGEST_TABLE_BYTES", 0)
    np.testing.assert_array_equal(_mapped(augment, 60), expected)
    policies._branches.cache_clear()


@pytest.mark.parametrize(("num_ops", "magnitude"), [(0, 9.0), (2, -1.0), (2, 10.5)])
def test_impossible_settings_are_one_line(num_ops: int, magnitude: float) -> None:
    with pytest.raises(InputError, match="expected"):
        policies.rand_augment(tf.constant(IMAGE), tf.constant([0, 0], tf.int64), num_ops=num_ops, magnitude=magnitude)


def test_a_size_that_is_not_known_is_refused() -> None:
    dataset = tf.data.Dataset.from_generator(
        lambda: iter([IMAGE]), output_signature=tf.TensorSpec([None, None, 3], tf.uint8)
    )
    with pytest.raises(ValueError, match="static"):
        dataset.map(lambda image: policies.trivial_augment(image, tf.constant([0, 0], tf.int64)))
