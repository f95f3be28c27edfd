"""Confidence thresholds against counting, one threshold at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluation import coverage


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.5, 0.77, 0.99, 1.0]), st.booleans()), min_size=1))
def test_counts(examples: list[tuple[float, bool]]) -> None:
    confidence, correct = (np.array(values) for values in zip(*examples, strict=True))
    for kept in coverage.above_thresholds(confidence, correct):
        above = [right for sure, right in examples if sure >= kept.threshold]
        assert kept.coverage == pytest.approx(len(above) / len(examples))
        assert kept.accuracy == (pytest.approx(sum(above) / len(above)) if above else None)


def test_thresholds_ascend_from_everything() -> None:
    found = coverage.above_thresholds(np.array([0.4, 0.998]), np.array([False, True]))
    assert found[0] == (0.0, 1.0, 0.5)
    assert found[-1] == (0.999, 0.0, None)
    assert found[-2] == (0.995, 0.5, 1.0)
    assert list(coverage.THRESHOLDS) == sorted(coverage.THRESHOLDS)
