"""Confidences and which answers are right in; how many answers stay above a threshold, and how good those are, out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Hundredths, as people say them; and two where a model is nearly always sure.
THRESHOLDS = (*(hundredth / 100 for hundredth in range(100)), 0.995, 0.999)


class Kept(NamedTuple):
    threshold: float
    coverage: float  # the share of all examples whose confidence is at least that
    accuracy: float | None  # of those; None where there are none


def above_thresholds(confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]) -> list[Kept]:
    """What happens where answers below a confidence are given to a person, for each of `THRESHOLDS`.

    The risk-coverage curve of selective classification: https://arxiv.org/abs/1705.08500, section 2.

    Args:
      confidence: [n], n at least 1.
      correct: [n].
    """
    order = np.argsort(-confidence, kind="stable")
    kept = np.searchsorted(-confidence[order], [-threshold for threshold in THRESHOLDS], side="right")
    hits = np.concatenate([[0], np.cumsum(correct[order])])[kept]
    return [
        Kept(threshold, float(n / len(confidence)), float(right / n) if n else None)
        for threshold, n, right in zip(THRESHOLDS, kept, hits, strict=True)
    ]
