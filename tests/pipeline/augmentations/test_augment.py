"""The settings that fit and those that don't, and that every part arrives, in its order, with draws of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import decode
from pipeline.augmentations import augment as augment_lib
from pipeline.augmentations import classic, erasing, jitter, mixing, policies
from pipeline.augmentations.augment import Augment
from pipeline.errors import InputError
from trainer import dropout

RNG = np.random.default_rng(0)
SIZE = 40
IMAGES = RNG.integers(0, 256, [8, SIZE, SIZE, 3], dtype=np.uint8)
PLACES = np.arange(1000, 1008)
SEED = 42


def _each(augment: Augment, *, seed: int = SEED) -> np.ndarray:
    """`Augment.image` of all, inside Dataset.map."""
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, PLACES)).map(
        lambda image, place: augment.image(image, tf.stack([tf.constant(seed, tf.int64), place]))
    )
    return np.stack(list(dataset.as_numpy_iterator()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "autoaugment"}, "policy='autoaugment': expected one of none, randaugment, trivialaugment, classic"),
        ({"num_ops": 2}, "num_ops=2: expected None, because policy=none has none"),
        ({"policy": "trivialaugment", "magnitude": 9}, "magnitude=9: expected None, because policy=trivialaugment"),
        ({"policy": "randaugment", "num_ops": 0}, "num_ops=0: expected at least 1, or None"),
        ({"policy": "randaugment", "magnitude": 10.5}, r"magnitude=10.5: expected [0, 10], or None"),
        ({"color_jitter": -0.1}, "color_jitter=-0.1: expected [0, inf)"),
        ({"erasing": 1.01}, "erasing=1.01: expected [0, 1]"),
        ({"mixup": float("inf")}, "mixup=inf: expected [0, inf)"),
        ({"cutmix": float("nan")}, "cutmix=nan: expected [0, inf)"),
        ({"where": "gpu"}, "where='gpu': expected one of host, step"),
        ({"where": "step"}, "where='step': expected host, because policy=none has no form for the step"),
        ({"where": "step", "policy": "classic"}, "where='step': expected host, because policy=classic has no form"),
        ({"where": "step", "policy": "trivialaugment", "cutmix": 1.0}, "cutmix=1.0: expected 0 with where=step"),
    ],
)
def test_settings_that_dont_fit_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Augment(**settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_with_all_off_images_stay() -> None:
    augment = Augment()
    assert not augment.mixes
    assert not augment.in_step
    np.testing.assert_array_equal(_each(augment), IMAGES)


@pytest.mark.parametrize(
    "settings",
    [
        {"policy": "randaugment"},
        {"policy": "trivialaugment"},
        {"policy": "classic"},
        {"color_jitter": 0.4},
        {"erasing": 1.0},
    ],
)
def test_each_part_arrives_eagerly_and_in_a_map(settings: dict[str, Any]) -> None:
    augment = Augment(**settings)
    found = _each(augment)
    assert (found != IMAGES).any((1, 2, 3)).sum() >= 5
    for image, place, one in zip(IMAGES, PLACES, found, strict=True):
        np.testing.assert_array_equal(augment.image(tf.constant(image), tf.constant([SEED, place], tf.int64)), one)
    assert (_each(augment, seed=SEED + 1) != found).any()


def test_rand_augments_settings_arrive_and_default_to_the_papers() -> None:
    found = _each(Augment(policy="randaugment"))
    np.testing.assert_array_equal(_each(Augment(policy="randaugment", num_ops=2, magnitude=9)), found)
    assert (_each(Augment(policy="randaugment", num_ops=1, magnitude=9)) != found).any()
    assert (_each(Augment(policy="randaugment", num_ops=2, magnitude=3)) != found).any()


def test_policy_then_jitter_then_erasing_each_with_draws_of_its_own() -> None:
    """Erasing last leaves one rectangle of noise in what the other two give without it."""
    both = _each(Augment(policy="classic", color_jitter=0.4))
    all_three = _each(Augment(policy="classic", color_jitter=0.4, erasing=1.0))
    alone = _each(Augment(erasing=1.0))
    erased = (alone != IMAGES).any(-1)
    assert 0.02 < erased.mean() < 0.4
    np.testing.assert_array_equal(all_three[erased], alone[erased])
    np.testing.assert_array_equal(all_three[~erased], both[~erased])
    # Jitter after the policy: each image is the policy's, times one matrix, plus one offset.
    for before, after in zip(_each(Augment(policy="classic")), both, strict=True):
        pixels = before.reshape(-1, 3).astype(float)
        unclipped = ((after > 0) & (after < 255)).all(-1).reshape(-1)
        columns = np.column_stack([pixels, np.ones(len(pixels))])[unclipped]
        fitted = columns @ np.linalg.lstsq(columns, after.reshape(-1, 3)[unclipped], rcond=None)[0]
        assert np.abs(fitted - after.reshape(-1, 3)[unclipped]).max() < 1.5


def test_each_part_draws_from_the_runs_seed_plus_its_own_number() -> None:
    """The crop draws from the seed as it is: without the numbers, one image's draws would depend on each other."""
    image, place = tf.constant(IMAGES[0]), 1000

    def seed(part: int) -> tf.Tensor:
        return tf.constant([SEED + (part << 32), place], tf.int64)

    expected = {
        Augment(policy="randaugment"): policies.rand_augment(image, seed(6), num_ops=2, magnitude=9),
        Augment(policy="trivialaugment"): policies.trivial_augment(image, seed(6)),
        Augment(policy="classic"): classic.classic(image, seed(6)),
        Augment(color_jitter=0.4): jitter.color_jitter(image, seed(2), strength=0.4),
        Augment(erasing=1.0): erasing.erase(image, seed(3), probability=1.0),
    }
    for augment, alone in expected.items():
        np.testing.assert_array_equal(augment.image(image, seed(0)), alone)


@pytest.mark.parametrize("settings", [{"policy": "randaugment", "magnitude": 7.0}, {"policy": "trivialaugment"}])
def test_the_step_augments_as_the_host_does(settings: dict[str, Any]) -> None:
    in_step = Augment(**settings, where="step")
    assert in_step.in_step
    np.testing.assert_array_equal(_each(in_step), IMAGES)
    found = in_step.batch(tf.constant(IMAGES), tf.constant(PLACES), seed=SEED)
    np.testing.assert_array_equal(found, _each(Augment(**settings)))
    with pytest.raises(InputError, match="where=host: expected step"):
        Augment(**settings).batch(tf.constant(IMAGES), tf.constant(PLACES), seed=SEED)


@pytest.mark.parametrize("alphas", [(0.2, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixing_draws_from_its_own_number_too(alphas: tuple[float, float]) -> None:
    batch = (tf.constant(IMAGES), tf.range(8, dtype=tf.int64), tf.constant(PLACES))
    mixup, cutmix = alphas
    augment = Augment(mixup=mixup, cutmix=cutmix)
    assert augment.mixes
    images, labels = augment.mix(*batch, seed=SEED, num_classes=8, block=4)
    expected_images, expected_labels = mixing.mix(
        *batch, seed=SEED + (4 << 32), num_classes=8, block=4, mixup=mixup, cutmix=cutmix
    )
    np.testing.assert_array_equal(images, expected_images)
    np.testing.assert_array_equal(labels, expected_labels)
    with pytest.raises(InputError, match="mixup=0 and cutmix=0"):
        Augment().mix(*batch, seed=SEED, num_classes=8, block=4)


def test_every_part_draws_from_a_seed_of_its_own() -> None:
    """With the flip's seed the classic set moved each mirrored image to one side, and all others to the other."""
    apart = [decode._FLIP_STREAM, dropout._PART, *augment_lib._Part]
    assert len(set(apart)) == len(apart)
    assert min(apart) >= 2**32  # beyond every seed that a config may have
