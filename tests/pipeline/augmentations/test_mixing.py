"""MixUp and CutMix against their papers' formulae in NumPy, eagerly and inside `Dataset.map`."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from pipeline.augmentations import mixing
from pipeline.errors import InputError

RNG = np.random.default_rng(0)
SIZE = 40
IMAGES = RNG.integers(0, 256, [12, SIZE, SIZE, 3], dtype=np.uint8)
LABELS = RNG.permutation(12)  # of 12 classes: a mixed label then shows whose parts it has
PLACES = RNG.permutation(100)[:12]


def _mix(
    rows: list[int], *, block: int = 6, seed: int = 1, mixup: float = 0.0, cutmix: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    batch = (tf.constant(values[rows]) for values in (IMAGES, LABELS, PLACES))
    images, labels = mixing.mix(*batch, seed=seed, num_classes=12, block=block, mixup=mixup, cutmix=cutmix)
    assert images.dtype == tf.uint8
    assert labels.dtype == tf.float32
    np.testing.assert_allclose(tf.reduce_sum(labels, axis=-1), 1, rtol=1e-6)
    return images.numpy(), labels.numpy()


ALL = list(range(12))
NEXT = [1, 2, 3, 4, 5, 0, 7, 8, 9, 10, 11, 6]  # in blocks of 6


def test_mixup_is_the_weighted_sum_that_its_label_says() -> None:
    images, labels = _mix(ALL, mixup=1.0)
    share = labels[ALL, LABELS].astype(np.float64)
    np.testing.assert_allclose(labels[ALL, LABELS[NEXT]], 1 - share, atol=1e-6)
    weight = share[:, None, None, None]
    expected = weight * IMAGES + (1 - weight) * IMAGES[NEXT]
    assert np.abs(images - expected).max() <= 0.5 + 1e-6
    assert len(set(share)) == 12


def test_cutmix_pastes_one_box_and_its_label_counts_its_pixels() -> None:
    images, labels = _mix(ALL, cutmix=1.0)
    for index in ALL:
        differs = (images[index] != IMAGES[index]).any(-1)
        rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
        box = np.zeros([SIZE, SIZE], bool)
        if differs.any():
            box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        expected = np.where(box[..., None], IMAGES[NEXT[index]], IMAGES[index])
        np.testing.assert_array_equal(images[index], expected)
        assert labels[index, LABELS[NEXT[index]]] == pytest.approx(box.mean(), abs=1e-6)
        assert labels[index, LABELS[index]] == pytest.approx(1 - box.mean(), abs=1e-6)


def test_boxes_are_the_papers() -> None:
    """Algorithm A1's: sides of floor(size * sqrt(1 - share)), halved down, around the centre, cut off at the border."""
    share = np.array([0.75, 0.75, 0.0, 1.0, 0.9], np.float32)
    centers = np.array([[0.5, 0.5], [0.0, 0.99], [0.5, 0.5], [0.5, 0.5], [0.1, 0.2]], np.float32)
    top_left, bottom_right = mixing.boxes(tf.constant(share), tf.constant(centers), 40)
    np.testing.assert_array_equal(top_left, [[10, 10], [0, 29], [0, 0], [20, 20], [0, 2]])
    np.testing.assert_array_equal(bottom_right, [[30, 30], [10, 40], [40, 40], [20, 20], [10, 14]])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    uniform = (np.arange(2000) + 0.5) / 2000
    found = mixing.beta(tf.constant(uniform, tf.float32), alpha).numpy()
    np.testing.assert_allclose(found, stats.beta.ppf(uniform, alpha, alpha), atol=2.0**-13 + 1e-5)
    assert found.mean() == pytest.approx(0.5, abs=1e-3)
    assert found.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.01)  # Beta(a, a)'s variance


def test_with_both_a_half_is_blended_and_a_half_pasted() -> None:
    images = tf.constant(RNG.integers(0, 256, [480, 32, 32, 3], dtype=np.uint8))
    rows = tf.range(480, dtype=tf.int64)

    def mixed(mixup: float, cutmix: float) -> np.ndarray:
        found, _ = mixing.mix(images, rows, rows, seed=3, num_classes=480, block=6, mixup=mixup, cutmix=cutmix)
        return found.numpy()

    both = mixed(0.8, 1.0)
    blended = (both == mixed(0.8, 0.0)).all((1, 2, 3))
    pasted = (both == mixed(0.0, 1.0)).all((1, 2, 3))
    assert (blended | pasted).all()
    assert 196 <= (blended & ~pasted).sum() <= 284  # of 480 fair coins: 4 standard deviations


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_two_workers_mix_what_one_does(mixup: float, cutmix: float) -> None:
    images, labels = _mix(ALL, block=3, mixup=mixup, cutmix=cutmix)
    for worker in (ALL[:6], ALL[6:]):
        part_images, part_labels = _mix(worker, block=3, mixup=mixup, cutmix=cutmix)
        np.testing.assert_array_equal(part_images, images[worker])
        np.testing.assert_array_equal(part_labels, labels[worker])
    assert (_mix(ALL, block=3, seed=2, mixup=mixup, cutmix=cutmix)[1] != labels).any()


def test_a_map_mixes_what_is_mixed_eagerly() -> None:
    settings = {"seed": 1, "num_classes": 12, "block": 6, "mixup": 0.8, "cutmix": 1.0}
    mapped = tf.data.Dataset.from_tensors((IMAGES, LABELS, PLACES)).map(
        tf.autograph.experimental.do_not_convert(functools.partial(mixing.mix, **settings))
    )
    images, labels = next(iter(mapped))
    expected_images, expected_labels = _mix(ALL, mixup=0.8, cutmix=1.0)
    np.testing.assert_array_equal(images, expected_images)
    np.testing.assert_array_equal(labels, expected_labels)


@pytest.mark.parametrize(("block", "group"), [(2, 2), (6, 6), (16, 16), (32, 16), (36, 12), (37, 37), (34, 2)])
def test_every_example_of_any_block_has_a_partner_in_it(block: int, group: int) -> None:
    """Class by class: the partner of example i is the next one in i's group, a divisor of the block up to 16."""
    images = tf.zeros([2 * block, 32, 32, 3], tf.uint8)
    _, labels = mixing.mix(
        images, tf.range(2 * block, dtype=tf.int64), tf.range(2 * block, dtype=tf.int64),
        seed=0, num_classes=2 * block, block=block, mixup=1.0, cutmix=0.0,
    )  # fmt: skip
    for index, label in enumerate(labels.numpy()):
        first = index // group * group
        assert set(np.flatnonzero(label)) == {index, first + (index - first + 1) % group}


@pytest.mark.parametrize("block", [1, 5])
def test_blocks_without_partners_are_refused(block: int) -> None:
    with pytest.raises(InputError, match=f"12 examples come in blocks of {block}"):
        _mix(ALL, block=block, mixup=0.2)
