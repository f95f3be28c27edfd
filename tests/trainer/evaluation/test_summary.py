"""What follows from predictions: every part of metrics.json agrees with the others, and with counting."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sklearn.metrics

from pipeline.errors import InputError
from trainer import metrics
from trainer.evaluation import summary
from trainer.predictions import Predictions

CLASSES = ("ant", "bee", "cat", "dog", "eel")


def predictions(n: int, *, present: int = 5) -> Predictions:
    rng = np.random.default_rng(0)
    labels = rng.integers(present, size=n)
    logits = rng.normal(size=[n, len(CLASSES)]) + 2 * np.eye(len(CLASSES))[labels]
    names = tuple(map(str, range(n)))
    return Predictions(CLASSES, names, names, ("",) * n, labels, logits.astype(np.float32))


def summarized(found: Predictions, **changes: object) -> dict[str, object]:
    given = {"k": 2, "split": "test", "temperature": 2.0, "fitted_on": "validation", "fingerprint": "f", "step": 7}
    return summary.summarize(found, **{**given, **changes})


def test_parts_agree() -> None:
    found = predictions(300)
    content = summarized(found)
    answers = found.logits.argmax(axis=1)
    assert (content["step"], content["split"], content["examples"]) == (7, "test", 300)
    assert content["confusion"] == sklearn.metrics.confusion_matrix(found.labels, answers).tolist()
    top_k = sklearn.metrics.top_k_accuracy_score(found.labels, found.logits, k=2)
    assert content["top_k"] == {"k": 2, "accuracy": pytest.approx(top_k)}
    assert content["loss"] == pytest.approx(sklearn.metrics.log_loss(found.labels, found.probabilities()))
    of_calibration = content["calibration"]
    assert of_calibration["before"]["nll"] == content["loss"]
    assert of_calibration["after"]["nll"] == pytest.approx(
        sklearn.metrics.log_loss(found.labels, found.probabilities(2.0))
    )
    assert content["coverage"][0] == {"threshold": 0.0, "coverage": 1.0, "accuracy": content["accuracy"]}
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        low, high = content["intervals"][name]
        assert low < content[name] < high
    assert content["intervals"]["groups"] == 300
    assert set(content["per_class"]["ant"]) == {
        "precision", "recall", "f1", "support", "roc_auc", "average_precision"
    }  # fmt: skip
    assert json.loads(json.dumps(content, allow_nan=False)) == json.loads(json.dumps(content))


def test_probabilities_are_those_after_the_temperature() -> None:
    found = predictions(200)
    sure = found.probabilities(2.0).max(axis=1)
    kept = {row["threshold"]: row["coverage"] for row in summarized(found)["coverage"]}
    assert kept[0.5] == pytest.approx(np.mean(sure >= 0.5))
    auc = sklearn.metrics.roc_auc_score(found.labels == 1, found.probabilities(2.0)[:, 1])
    assert summarized(found)["per_class"]["bee"]["roc_auc"] == pytest.approx(auc)


def test_a_handful_of_examples_and_absent_classes_are_enough() -> None:
    content = summarized(predictions(3, present=2), temperature=1.0, fitted_on=None)
    json.dumps(content, allow_nan=False)
    assert content["per_class"]["eel"]["roc_auc"] is None
    one = summarized(predictions(1))
    assert one["intervals"]["accuracy"] is None
    assert one["macro_roc_auc"] is None
    with pytest.raises(InputError, match="has no examples"):
        summarized(predictions(0))


def test_ties_of_the_top_k_count_as_in_training() -> None:
    logits = np.array([[1, 1, 1, 0, 0], [2, 1, 1, 0, 0]], np.float32)
    found = Predictions(CLASSES, ("a", "b"), ("a", "b"), ("", ""), np.array([2, 2]), logits)
    assert summarized(found, k=1)["top_k"]["accuracy"] == 0.5  # as tf.math.in_top_k has it: 1 shares the first place


def test_answers_that_are_no_numbers_are_refused_by_name() -> None:
    found = predictions(5)
    found.logits[3, 2] = np.nan
    with pytest.raises(InputError, match="1 of 5 examples have logits that are not finite, the first is 3"):
        summary.checked(found)
    assert metrics.most_confused([[1]], ["a"], 1) == []
