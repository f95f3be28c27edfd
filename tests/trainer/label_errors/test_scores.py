"""Rankings of labels, against the papers' definitions by hand."""

from __future__ import annotations

import numpy as np

from trainer.label_errors import dynamics, scores
from trainer.label_errors.dynamics import Dynamics, Look

LOSSES = np.array([[1, 2, 4, 9], [3, 2, 0, 3]], np.float32)
MARGINS = np.array([[1, -1, -2, 3], [-1, 2, -1, 1], [1, 1, -3, -2], [-2, 1, -1, 5]], np.float32)


def found(losses: np.ndarray, margins: np.ndarray, others: np.ndarray, labels: tuple[int, ...]) -> Dynamics:
    return Dynamics(np.array(labels, np.int32), losses, margins, others.astype(np.int32))


def test_an_example_is_as_suspicious_as_its_loss_is_above_its_class_s() -> None:
    """Class 1 is hard for all: its smaller loss is less suspicious than class 0's larger one."""
    looks = found(LOSSES, LOSSES, LOSSES, (0, 0, 1, 1))
    assert scores.mean_losses(looks).tolist() == [2, 2, 2, 6]
    assert scores.suspicion(looks).tolist() == [0, 0, -2, 2]
    # A class between them that has no example changes nothing.
    assert scores.suspicion(looks._replace(labels=np.array([0, 0, 2, 2], np.int32))).tolist() == [0, 0, -2, 2]


def test_the_area_under_the_margin_is_its_mean_and_forgetting_is_agreeing_no_longer() -> None:
    looks = found(MARGINS, MARGINS, MARGINS, (0, 0, 0, 0))
    assert scores.mean_margins(looks).tolist() == [-0.25, 0.75, -1.75, 1.75]
    # Learned, forgotten, learned, forgotten; learned and kept; never learned; forgotten once.
    assert scores.forgetting_events(looks).tolist() == [2, 0, 4, 1]


def test_the_suggestion_is_the_other_class_that_was_the_surest_over_all_looks() -> None:
    # Of one example with label 0: the probabilities of classes 0, 1 and 2 at three looks.
    shares = np.array([[0.2, 0.7, 0.1], [0.4, 0.1, 0.5], [0.2, 0.2, 0.6]])
    logits = np.log(shares).astype(np.float32)
    looks = [Look(*(value.numpy() for value in dynamics.measure(np.array([0]), row[None]))) for row in logits]
    suggested = scores.suggestions(dynamics.of_looks(looks))
    assert suggested.classes.tolist() == [2]
    np.testing.assert_allclose(suggested.probabilities, [(0.5 + 0.6) / 3], rtol=1e-6)
