"""Logits and labels in; a temperature, and how far confidences are from the shares that are right, out.

On Calibration of Modern Neural Networks: https://arxiv.org/abs/1706.04599.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.optimize  # type: ignore[import-untyped]
import scipy.special  # type: ignore[import-untyped]

BINS = 15  # as in the paper's tables, with which ours are compared
# Trained networks come out between 0.5 and 3 (table 1 and others). Beyond 20 times, logits that differ by 20 say little
# but "any class"; below 1/20, ones that differ by 0.5 say "certainly". Nothing is learnt outside.
COLDEST, HOTTEST = 0.05, 20.0


class Bin(NamedTuple):
    """Of examples whose confidence is above `low` and at most `high`; the means are None where there are none."""

    low: float
    high: float
    confidence: float | None  # their mean
    accuracy: float | None
    examples: int


def fit_temperature(logits: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int64]) -> float:
    """The temperature at which the labels are likeliest (section 4.2), cooling no more than their number supports.

    Where nearly all answers are right, the likeliest temperature is 0 or near it: certainty, which no finite number of
    examples supports. So where it would cool, every label stands for (n + 1) / (n + 2) of an example and the other
    classes share the rest, as in section 2.2 of Platt's Probabilistic Outputs for Support Vector Machines, 1999. Of 89
    photos of leaves, 88 of them right, labels alone gave 0.26 and raised the loss on 89 others from 0.17 to 0.24; so
    they give 0.53, and 0.14. Nothing is heated for it: few examples are no evidence that a model is too sure.

    The temperature lies between `COLDEST` and `HOTTEST`, where a model worse than chance ends.

    Args:
      logits: [n, classes], n at least 1, classes at least 2, finite.
      labels: [n].
    """
    lead = np.asarray(logits, np.float64) - logits.max(axis=1, keepdims=True)
    of_labels = np.take_along_axis(lead, labels[:, None], axis=1).mean()
    of_others = (lead.sum(axis=1).mean() - of_labels) / (lead.shape[1] - 1)
    certain = _likeliest(lead, of_labels)
    if certain >= 1:
        return certain
    supported = (len(lead) + 1) / (len(lead) + 2)
    return min(_likeliest(lead, supported * of_labels + (1 - supported) * of_others), 1.0)


def _likeliest(lead: npt.NDArray[np.float64], of_targets: float) -> float:
    """The temperature of the least cross-entropy.

    Args:
      lead: [n, classes], logits less the largest of each example.
      of_targets: their mean, weighted by the classes' targets.
    """

    def loss(log_temperature: float) -> float:
        sums = np.exp(lead / math.exp(log_temperature)).sum(axis=1)
        return float(np.log(sums).mean()) - of_targets / math.exp(log_temperature)

    # Convex in 1 / temperature, so it falls and then rises: a bounded search finds the one minimum.
    bounds = math.log(COLDEST), math.log(HOTTEST)
    found = scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-5})
    # A search inside of bounds never reaches them, and a model whose logits are all equal is as good at any.
    candidates = (0.0, *bounds, float(found.x))
    return math.exp(min(candidates, key=loss))


def nll(logits: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int64]) -> float:
    """Mean negative log-likelihood, which is the unsmoothed cross-entropy, in nats."""
    logs = scipy.special.log_softmax(np.asarray(logits, np.float64), axis=1)
    return float(-np.take_along_axis(logs, labels[:, None], axis=1).mean())


def measure(
    logits: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int64], *, temperature: float = 1.0
) -> dict[str, Any]:
    """How good the probabilities are at a temperature.

    Returns:
      `ece` and `mce`: mean (by examples) and largest distance between a bin's accuracy and its mean confidence
      (section 2); `nll`: see `nll`; `brier`: mean squared distance of the probabilities from the truth, summed over
      classes, 0 to 2 (Brier 1950, https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2); `reliability`:
      the bins as mappings, see `Bin`.
    """
    cooled = np.asarray(logits, np.float64) / temperature
    probabilities = scipy.special.softmax(cooled, axis=1)
    bins = reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
    gaps = [
        (one.examples, abs(one.accuracy - one.confidence))
        for one in bins
        if one.accuracy is not None and one.confidence is not None
    ]
    of_label = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    return {
        "ece": sum(examples * gap for examples, gap in gaps) / len(labels),
        "mce": max(gap for _, gap in gaps),
        "nll": nll(cooled, labels),
        "brier": float((np.square(probabilities).sum(axis=1) - 2 * of_label + 1).mean()),
        "reliability": [one._asdict() for one in bins],
    }


def reliability(confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_], *, bins: int = BINS) -> list[Bin]:
    """Equal parts of the confidences 0..1; every example is in one."""
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    sums = np.bincount(place, confidence, minlength=bins)
    hits = np.bincount(place, correct, minlength=bins)
    return [
        Bin(
            low=float(edges[index]),
            high=float(edges[index + 1]),
            confidence=float(sums[index] / counts[index]) if counts[index] else None,
            accuracy=float(hits[index] / counts[index]) if counts[index] else None,
            examples=int(counts[index]),
        )
        for index in range(bins)
    ]
