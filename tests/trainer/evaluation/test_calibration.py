"""Temperatures and calibration errors against literals by hand, PyTorch-free second implementations, and bounds."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import sklearn.linear_model
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy

from trainer.evaluation import calibration

LOGITS = of_numpy.arrays(
    np.float32, st.tuples(st.integers(1, 30), st.integers(2, 5)), elements=st.floats(-20, 20, width=32)
)


def drawn(examples: int, temperature: float, *, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their probabilities at a temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=3, size=[examples, classes])
    chances = scipy.special.softmax(logits / temperature, axis=1).cumsum(axis=1)
    return logits, (chances < rng.random([examples, 1])).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature: float) -> None:
    assert calibration.fit_temperature(*drawn(20_000, temperature)) == pytest.approx(temperature, rel=0.03)


def test_the_temperature_is_logistic_regression_s_coefficient() -> None:
    """Of two classes: without an intercept and a penalty, the logit's factor is 1 / temperature."""
    logits, labels = drawn(500, 1.7, classes=2)
    lead = (logits[:, 1] - logits[:, 0])[:, None]
    model = sklearn.linear_model.LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(lead, labels)
    assert calibration.fit_temperature(logits, labels) == pytest.approx(1 / model.coef_[0, 0], rel=1e-3)


def test_certainty_is_not_learnt_from_a_few_right_answers() -> None:
    logits = np.array([[2.0, 0.0]] * 30 + [[0.0, 2.0]] * 30)
    right = np.array([0] * 30 + [1] * 30)
    cooled = logits / calibration.fit_temperature(logits, right)
    assert scipy.special.softmax(cooled, axis=1).max(axis=1) == pytest.approx(61 / 62, abs=1e-5)  # the labels' targets
    # A model that is surer than that by itself is left as it is; one worse than chance ends at the upper bound.
    assert calibration.fit_temperature(10 * logits, right) == pytest.approx(1.0)
    assert calibration.fit_temperature(logits, 1 - right) == pytest.approx(calibration.HOTTEST)
    assert calibration.fit_temperature(np.zeros([5, 3]), np.array([0, 1, 2, 0, 1])) == 1.0


def test_cooling_is_logistic_regression_on_platt_s_targets() -> None:
    """Of two classes: each example once with its label and once with the other, weighted by the targets."""
    logits, labels = drawn(60, 0.3, classes=2)
    lead = (logits[:, 1] - logits[:, 0])[:, None]
    model = sklearn.linear_model.LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(
        np.concatenate([lead, lead]), np.concatenate([labels, 1 - labels]), np.repeat([61 / 62, 1 / 62], 60)
    )
    found = calibration.fit_temperature(logits, labels)
    assert found == pytest.approx(1 / model.coef_[0, 0], rel=1e-3)
    assert found < 1


@settings(deadline=None)
@given(LOGITS, st.data())
def test_no_fitted_temperature_changes_an_answer_or_leaves_its_bounds(logits: np.ndarray, data: st.DataObject) -> None:
    labels = data.draw(of_numpy.arrays(np.int64, len(logits), elements=st.integers(0, logits.shape[1] - 1)))
    temperature = calibration.fit_temperature(logits, labels)
    assert calibration.COLDEST * 0.999 <= temperature <= calibration.HOTTEST * 1.001
    cooled = logits.astype(np.float64) / temperature
    np.testing.assert_array_equal(cooled.argmax(axis=1), logits.argmax(axis=1))
    if temperature > 1.0001 or temperature < 0.9999:
        assert calibration.nll(cooled, labels) <= calibration.nll(logits, labels) + 1e-9


def test_by_hand() -> None:
    """Four examples of two classes, confidences 0.9, 0.9, 0.9 and 0.6, of which two of the first three are right."""
    confidence = np.array([0.9, 0.9, 0.9, 0.6])
    logits = np.log(np.stack([confidence, 1 - confidence], axis=1))
    found = calibration.measure(logits, np.array([0, 0, 1, 0]))
    assert found["ece"] == pytest.approx(0.75 * abs(2 / 3 - 0.9) + 0.25 * 0.4)
    assert found["mce"] == pytest.approx(0.4)
    assert found["nll"] == pytest.approx(-(2 * np.log(0.9) + np.log(0.1) + np.log(0.6)) / 4)
    assert found["brier"] == pytest.approx((2 * 0.02 + 2 * 0.81 + 0.32) / 4)
    [one, other] = [part for part in found["reliability"] if part["examples"]]
    assert (one["low"], one["high"], one["examples"]) == (pytest.approx(8 / 15), pytest.approx(9 / 15), 1)
    assert (other["confidence"], other["accuracy"]) == (pytest.approx(0.9), pytest.approx(2 / 3))


@settings(deadline=None)
@given(LOGITS, st.data())
def test_agrees_with_scikit_learn_and_bins_hold_every_example_once(logits: np.ndarray, data: st.DataObject) -> None:
    logits, classes = logits / 2, logits.shape[1]  # scikit-learn takes no probability below 2e-16
    labels = data.draw(of_numpy.arrays(np.int64, len(logits), elements=st.integers(0, classes - 1)))
    found = calibration.measure(logits, labels)
    probabilities = scipy.special.softmax(logits.astype(np.float64), axis=1)
    expected = sklearn.metrics.log_loss(labels, probabilities, labels=range(classes))
    assert found["nll"] == pytest.approx(expected, abs=1e-6)
    squares = [np.mean(((labels == index) - probabilities[:, index]) ** 2) for index in range(classes)]
    assert found["brier"] == pytest.approx(sum(squares))
    assert sum(part["examples"] for part in found["reliability"]) == len(labels)
    assert 0 <= found["ece"] <= found["mce"] + 1e-12 <= 1 + 1e-9
    for part in found["reliability"]:
        if part["examples"]:
            assert part["low"] - 1e-9 <= part["confidence"] <= part["high"] + 1e-9
