"""`trainer.metrics` against scikit-learn, which derives the same numbers from label lists instead of a matrix."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from trainer import metrics


def summary(confusion: Any, **changes: Any) -> dict[str, Any]:
    matrix = np.asarray(confusion, dtype=np.int64)
    classes = [f"class{i}" for i in range(len(matrix))]
    given = {"top_k_correct": 0, "k": 2, "loss_sum": 0.0, "classes": classes, "split": "test", "fingerprint": "f00d"}
    return metrics.summarize(matrix, **{**given, **changes})


@st.composite
def answers(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    """(classes, truth, predicted); classes without examples or predictions occur often."""
    count = draw(st.integers(2, 6))
    label = st.integers(0, count - 1)
    pairs = draw(st.lists(st.tuples(label, label), min_size=1, max_size=30))
    return count, [truth for truth, _ in pairs], [predicted for _, predicted in pairs]


@settings(deadline=None)
@given(answers())
def test_agrees_with_scikit_learn(example: tuple[int, list[int], list[int]]) -> None:
    count, truth, predicted = example
    labels = list(range(count))
    matrix = sklearn.metrics.confusion_matrix(truth, predicted, labels=labels)
    found = summary(matrix)

    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(
        truth, predicted, labels=labels, zero_division=0
    )
    rows = list(found["per_class"].values())
    assert [row["precision"] for row in rows] == pytest.approx(precision)
    assert [row["recall"] for row in rows] == pytest.approx(recall)
    assert [row["f1"] for row in rows] == pytest.approx(f1)
    assert [row["support"] for row in rows] == list(support)
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth, predicted))
    present = sorted(set(truth))
    macro = sklearn.metrics.f1_score(truth, predicted, labels=present, average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(macro)
    for average, of in (("macro", present), ("weighted", labels)):
        *expected, _ = sklearn.metrics.precision_recall_fscore_support(
            truth, predicted, labels=of, average=average, zero_division=0
        )
        assert list(found[average].values()) == pytest.approx(expected)
    assert found["macro"]["f1"] == found["macro_f1"]
    assert found["weighted"]["recall"] == pytest.approx(found["accuracy"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of predicted classes without examples, which occur here
        balanced = sklearn.metrics.balanced_accuracy_score(truth, predicted)
    assert found["balanced_accuracy"] == pytest.approx(balanced)
    assert found["examples"] == len(truth)


def test_by_hand() -> None:
    # 10 examples; class2 is never predicted and class3 neither predicted nor present.
    matrix = [[4, 1, 0, 0], [0, 3, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    found = summary(matrix, top_k_correct=9, loss_sum=2.5, seed=7)

    assert (found["split"], found["fingerprint"], found["seed"]) == ("test", "f00d", 7)
    assert (found["examples"], found["accuracy"], found["loss"]) == (10, 0.7, 0.25)
    assert found["top_k"] == {"k": 2, "accuracy": 0.9}
    assert found["classes"] == ["class0", "class1", "class2", "class3"]
    assert found["confusion"] == matrix
    assert found["per_class"]["class0"] == {"precision": 0.8, "recall": 0.8, "f1": 0.8, "support": 5}
    assert found["per_class"]["class2"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 2}
    assert found["balanced_accuracy"] == pytest.approx((0.8 + 1.0 + 0.0) / 3)


def test_loss_that_is_not_finite_becomes_null() -> None:
    assert summary([[1, 0], [0, 1]], loss_sum=float("nan"))["loss"] is None
    assert summary([[1, 0], [0, 1]], loss_sum=float("inf"))["loss"] is None


def test_refuses_an_empty_split_by_name() -> None:
    with pytest.raises(InputError, match="'test' has no examples"):
        summary([[0, 0], [0, 0]])


def test_refuses_other_class_counts_and_names_that_it_computes() -> None:
    with pytest.raises(ValueError, match="3 classes"):
        summary([[1, 0], [0, 1]], classes=["a", "b", "c"])
    with pytest.raises(TypeError, match="accuracy"):
        summary([[1, 0], [0, 1]], accuracy=1.0)


def test_most_confused_pairs() -> None:
    matrix = [[8, 2, 0], [5, 4, 1], [0, 2, 0]]
    pairs = metrics.most_confused(matrix, ["a", "b", "c"], limit=3)
    assert pairs == [("b", "a", 5, 0.5), ("a", "b", 2, 0.2), ("c", "b", 2, 1.0)]
    assert metrics.most_confused([[3, 0], [0, 0]], ["a", "b"], limit=5) == []
