"""Areas against scikit-learn's own functions, and that a thinned curve looks as the whole one does."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluation import curves


def example(n: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    scores = rng.exponential(size=[n, classes]) + 1.5 * np.eye(classes)[labels] * rng.random([n, 1])
    return scores / scores.sum(axis=1, keepdims=True), labels


def test_areas_are_scikit_learn_s() -> None:
    probabilities, labels = example(400, 4)
    found = curves.summarize(probabilities, labels, "abcd")
    for index, name in enumerate("abcd"):
        of_one = labels == index, probabilities[:, index]
        assert found["per_class"][name]["roc_auc"] == pytest.approx(sklearn.metrics.roc_auc_score(*of_one))
        expected = sklearn.metrics.average_precision_score(*of_one)
        assert found["per_class"][name]["average_precision"] == pytest.approx(expected)
    macro = sklearn.metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert found["macro_roc_auc"] == pytest.approx(macro)
    assert found["macro_average_precision"] == pytest.approx(
        np.mean([row["average_precision"] for row in found["per_class"].values()])
    )


def test_by_hand() -> None:
    """Of two positives at 0.9 and 0.4 and two negatives at 0.6 and 0.1, three of four pairs are in order."""
    found = curves.summarize(np.array([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.1, 0.9]]), np.array([0, 1, 0, 1]), "ab")
    assert found["per_class"]["a"] == {"roc_auc": 0.75, "average_precision": pytest.approx(0.5 * 1 + 0.5 * 2 / 3)}
    assert found["curves"]["roc"]["a"] == {"fpr": [0, 0, 0.5, 0.5, 1], "tpr": [0, 0.5, 0.5, 1, 1]}


def test_a_class_without_examples_has_no_areas_and_none_is_drawn() -> None:
    found = curves.summarize(np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]), np.array([0, 1]), "abc")
    assert found["per_class"]["c"] == {"roc_auc": None, "average_precision": None}
    assert found["curves"]["classes"] == ["a", "b"]
    assert found["macro_roc_auc"] == 1.0
    only = curves.summarize(np.array([[0.9, 0.1]]), np.array([0]), "ab")
    assert (only["macro_roc_auc"], only["macro_average_precision"], only["curves"]["classes"]) == (None, None, [])


def test_of_many_classes_the_weakest_are_drawn() -> None:
    probabilities, labels = example(2000, 60)
    names = [f"{index:02d}" for index in range(60)]
    found = curves.summarize(probabilities, labels, names)
    shown = found["curves"]["classes"]
    assert len(shown) == curves.MAX_CLASSES
    assert shown == sorted(shown)
    worst = max(found["per_class"][name]["average_precision"] for name in shown)
    others = [found["per_class"][name]["average_precision"] for name in names if name not in shown]
    assert worst <= min(others)
    assert set(found["curves"]["roc"]) == set(found["curves"]["pr"]) == set(shown)


@pytest.mark.parametrize("kind", ["roc", "pr"])
def test_a_thinned_curve_looks_as_the_whole_one(kind: str) -> None:
    """Two curves are drawn alike where no point of the whole is half a pixel of 300 from the thinned line."""
    probabilities, labels = example(20_000, 2)
    if kind == "roc":
        x, y, _ = sklearn.metrics.roc_curve(labels == 1, probabilities[:, 1], drop_intermediate=False)
    else:
        y, x, _ = sklearn.metrics.precision_recall_curve(labels == 1, probabilities[:, 1])
    kept = curves.thin(x, y)
    assert len(kept) <= curves.MAX_POINTS
    ends = np.stack([x[kept], y[kept]], axis=1)
    distances = [_distance(np.array(point), ends) for point in zip(x[::37], y[::37], strict=True)]
    assert max(distances) < 0.5 / 300


def _distance(point: np.ndarray, line: np.ndarray) -> float:
    """From a point to the nearest of a line's pieces."""
    starts, along = line[:-1], np.diff(line, axis=0)
    lengths = np.maximum((along**2).sum(axis=1), 1e-30)
    places = np.clip(((point - starts) * along).sum(axis=1) / lengths, 0, 1)
    return float(np.sqrt((((starts + places[:, None] * along) - point) ** 2).sum(axis=1)).min())


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=40), st.integers(2, 20))
def test_thinning_keeps_both_ends_in_order_and_its_limit(points: list[tuple[float, float]], limit: int) -> None:
    x, y = (np.array(values) for values in zip(*points, strict=True))
    kept = curves.thin(x, y, limit=limit).tolist()
    assert kept[0] == 0
    assert kept[-1] == len(points) - 1
    assert kept == sorted(set(kept))
    assert len(kept) <= limit
