"""Two models on the same examples: McNemar's test against literals, and what has to be equal."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.stats

from pipeline.errors import InputError
from trainer.evaluation import comparison
from trainer.predictions import Predictions


def predictions(labels: list[int], answers: list[int]) -> Predictions:
    n = len(labels)
    return Predictions(
        classes=("ant", "bee", "cat"),
        ids=tuple(f"{number:04x}" for number in range(n)),
        files=tuple(f"{number}.jpg" for number in range(n)),
        groups=("",) * n,
        labels=np.array(labels),
        logits=np.eye(3, dtype=np.float32)[answers],
    )


def reordered(found: Predictions, order: list[int]) -> Predictions:
    texts = {name: tuple(getattr(found, name)[i] for i in order) for name in ("ids", "files", "groups")}
    return dataclasses.replace(found, **texts, labels=found.labels[order], logits=found.logits[order])


def test_mcnemar_by_hand() -> None:
    """Of 10 pairs, 1 or fewer on one side: 2 (C(10, 0) + C(10, 1)) / 2^10 = 22 / 1024."""
    assert comparison.mcnemar(1, 9) == comparison.mcnemar(9, 1) == pytest.approx(22 / 1024)
    assert comparison.mcnemar(5, 5) == comparison.mcnemar(0, 0) == 1.0
    # Agresti, An Introduction to Categorical Data Analysis, section 8.1: 150 and 86 approvals that changed, z² = 17.36.
    approximate = scipy.stats.chi2.sf((150 - 86) ** 2 / 236, 1)
    assert comparison.mcnemar(150, 86) == pytest.approx(approximate, rel=0.3)


def test_examples_meet_by_id_in_any_order() -> None:
    one = predictions([0, 1, 2, 0, 1, 2, 0, 1], [0, 1, 2, 0, 1, 0, 1, 2])
    other = reordered(predictions([0, 1, 2, 0, 1, 2, 0, 1], [0, 1, 2, 1, 1, 2, 0, 0]), [5, 2, 7, 1, 0, 3, 6, 4])
    found = comparison.compare(one, other)
    assert (found.accuracy, found.examples) == ((5 / 8, 6 / 8), 8)
    assert (found.only_one, found.only_other, found.difference) == (1, 2, 1 / 8)
    assert found.p_value == 1.0
    assert [tuple(each)[1:] for each in found.disagreements] == [
        ("3.jpg", "ant", "ant", "bee"),
        ("5.jpg", "cat", "ant", "cat"),
        ("6.jpg", "ant", "bee", "ant"),
        ("7.jpg", "bee", "cat", "ant"),  # both wrong
    ]
    low, high = found.interval
    assert low < found.difference < high
    mirrored = comparison.compare(reordered(other, [4, 3, 1, 5, 7, 0, 6, 2]), one)
    assert (mirrored.difference, mirrored.p_value) == (-found.difference, found.p_value)
    assert mirrored.interval == pytest.approx((-high, -low))


def test_what_is_not_comparable_is_refused_with_counts() -> None:
    one = predictions([0, 1, 2, 0], [0, 1, 2, 0])
    with pytest.raises(InputError, match="of 4 and 3 examples, of which 3 are in both"):
        comparison.compare(one, reordered(one, [0, 1, 2]))
    renamed = dataclasses.replace(one, ids=("x", *one.ids[1:]))
    with pytest.raises(InputError, match="of 4 and 4 examples, of which 3 are in both"):
        comparison.compare(one, renamed)
    with pytest.raises(InputError, match=r"1 of 4 examples have different labels .*3\.jpg"):
        comparison.compare(one, predictions([0, 1, 2, 1], [0, 1, 2, 0]))
    with pytest.raises(InputError, match="different classes"):
        comparison.compare(one, dataclasses.replace(one, classes=("ant", "cat", "bee")))
