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
    with pytest.raises(InputError, match="10 examples in 1 groups: expected at least 5"):
        out_of_fold.look(pixels[:10].astype(np.float32), labels[:10], ["one"] * 10, num_classes=10)
