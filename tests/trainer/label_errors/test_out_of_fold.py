"""Logistic regression on features finds a label that the others contradict, and no copy vouches for it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pipeline.errors import InputError
from trainer.label_errors import out_of_fold


def test_wrong_labels_of_digits_have_the_smallest_margins() -> None:
    """Thirty of 600 scans with the next digit's label, five of which are there eight times, with one group each."""
    pixels, truth = (values[:600] for values in load_digits(return_X_y=True))
    wrong = np.random.default_rng(0).choice(600, 30, replace=False)
    labels = truth.copy()
    labels[wrong] = (labels[wrong] + 1) % 10
    copied = np.concatenate([np.arange(600), np.repeat(wrong[:5], 7)])
    groups = [str(place) for place in copied]
    found = out_of_fold.look(pixels[copied].astype(np.float32), labels[copied], groups, num_classes=10)
    assert found.labels.tolist() == labels[copied].tolist()
    first = copied[np.argsort(found.margins, kind="stable")[: 30 + 35]]
    assert len(set(wrong) & set(first)) >= 24
    assert set(wrong[:5]) <= set(first)
    assert (found.margins[np.isin(copied, wrong[:5])] < 0).all()
    # It names the digit, and the loss is that of the probabilities which the margin compares.
    assert np.mean(found.others[wrong] == truth[wrong]) > 0.85
    others = np.exp(-found.losses.astype(np.float64) - found.margins)
    assert (np.exp(-found.losses) + others <= 1 + 1e-6).all()


def test_a_class_of_fewer_examples_than_folds_has_no_probability_where_none_is_left() -> None:
    pixels, labels = (values[:200] for values in load_digits(return_X_y=True))
    few = np.flatnonzero((labels > 0) | (np.cumsum(labels == 0) <= 1))  # one zero
    found = out_of_fold.look(pixels[few].astype(np.float32), labels[few], list(map(str, few)), num_classes=11)
    assert found.losses[labels[few] == 0].min() > 20


def test_four_examples_of_each_class_are_compared_in_four_folds() -> None:
    pixels, digits = load_digits(return_X_y=True)
    few = np.concatenate([np.flatnonzero(digits == digit)[:4] for digit in range(4)])
    labels = digits[few]
    labels[3], labels[4] = 1, 0  # a zero and a one
    found = out_of_fold.look(pixels[few].astype(np.float32), labels, list(map(str, few)), num_classes=4)
    assert set(np.argsort(found.margins)[:2]) == {3, 4}


@pytest.mark.parametrize("ones", [1, 6])
def test_a_fold_that_leaves_one_class_is_sure_of_it(ones: int) -> None:
    """Two classes, one of them in one group: nothing is learned of it where it is asked for."""
    pixels, digits = load_digits(return_X_y=True)
    few = np.concatenate([np.flatnonzero(digits == 0)[:20], np.flatnonzero(digits == 1)[:ones]])
    groups = [*map(str, range(20)), *["ones"] * ones]
    found = out_of_fold.look(pixels[few].astype(np.float32), digits[few], groups, num_classes=2)
    assert (found.losses[20:] > 20).all()
    assert (found.losses[:20] < 1).all()
    others = np.exp(-found.losses.astype(np.float64) - found.margins)
    assert (np.exp(-found.losses) + others <= 1 + 1e-6).all()


def test_groups_of_unequal_sizes_may_leave_a_fold_empty() -> None:
    labels = np.array([1, 1, 1, 1, 1, 0, 0, 0, 1])
    features = np.random.default_rng(0).normal(size=[9, 3]).astype(np.float32)
    found = out_of_fold.look(features, labels, list("323221002"), num_classes=2)
    assert np.isfinite(found.margins).all()


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        ([0, 0, 1, 1], "aaaa"),
        ([0, 1, 2, 3], "abcd"),  # each is alone
        ([0, 0, 0, 0], "abcd"),
        ([0, 0, 1, 1], "aabb"),  # each class leaves only the other
        ([], ""),
    ],
)
def test_examples_that_say_nothing_of_each_other_are_named(labels: list[int], groups: str) -> None:
    features = np.zeros([len(labels), 3], np.float32)
    counts = f"{len(labels)} examples of {len(set(labels))} classes in {len(set(groups))} groups say nothing"
    with pytest.raises(InputError, match=counts):
        out_of_fold.look(features, np.array(labels, np.int64), list(groups), num_classes=4)
