"""The first stage that is out of tolerance is named, by numbers made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trainer.export import parity
from trainer.export.parity import Observed

TOLERANCE = parity.Tolerance(scaling=0.01, logits=0.01, probabilities=0.01, decisions=0.0)
PROBABILITIES = np.array([[0.9, 0.1], [0.3, 0.7], [0.50002, 0.49998]])  # the third is a tie
WAYS: dict[str, Any] = {
    "decode": [np.full([5, 4, 3], 100, np.uint8), np.full([3, 4, 3], 7, np.uint8), np.zeros([2, 2, 3], np.uint8)],
    "orientation": [np.full([4, 5, 3], 100, np.uint8), np.full([3, 4, 3], 7, np.uint8), np.zeros([2, 2, 3], np.uint8)],
    "crop": np.full([3, 4, 4, 3], 50, np.uint8),
    "scaling": np.linspace(-1, 1, 3 * 4).reshape(3, 2, 2, 1),
    "logits": np.array([[2.0, -2.0], [0.0, 1.0], [0.0, 0.0]]),
    "probabilities": PROBABILITIES,
}
EXPECTED = Observed({stage: [values] for stage, values in WAYS.items()}, order=("ant", "bee"))


def compare(*, order: tuple[str, ...] = ("ant", "bee"), labels: tuple[str, ...] = (), **changes: Any) -> parity.Report:
    ways = {**WAYS, **changes}
    # Two ways to the same, of which the first is right.
    found = Observed({stage: [WAYS[stage], values] for stage, values in ways.items()}, [labels] * bool(labels), order)
    return parity.compare(EXPECTED, found, TOLERANCE)


def test_equal_is_equal() -> None:
    report = compare(labels=("ant", "bee", "ant"))
    assert report.first is None
    assert report.to_json()["top_1_agreement"] == 1
    assert {stage: apart for stage, (apart, _) in report.stages.items()} == dict.fromkeys(parity.STAGES, 0.0)


def test_the_first_of_several_is_named() -> None:
    one_level = [*WAYS["decode"][:2], WAYS["decode"][2] + 1]
    assert compare(decode=one_level, crop=WAYS["crop"] + 1).first == "decode"
    on_its_side = [np.swapaxes(WAYS["orientation"][0], 0, 1), *WAYS["orientation"][1:]]
    report = compare(orientation=on_its_side, logits=WAYS["logits"] * 2)
    assert (report.first, report.stages["orientation"]) == ("orientation", (255.0, 0.0))
    assert compare(logits=WAYS["logits"] + 0.05, probabilities=PROBABILITIES[:, ::-1]).first == "logits"  # 0.05 of 4
    assert compare(logits=WAYS["logits"] + 0.03).first is None
    assert compare(probabilities=np.full([3, 2], np.nan)).first == "probabilities"


def test_scaling_counts_where_it_changes_what_follows() -> None:
    """Converters move a factor into the first convolution's weights: the same logits come of other numbers."""
    report = compare(scaling=WAYS["scaling"] * 255)
    assert (report.first, "scaling" in report.stages) == (None, False)
    assert compare(scaling=WAYS["scaling"] * 255, logits=WAYS["logits"] * 2).first == "scaling"


def test_ties_may_turn_and_nothing_else() -> None:
    turned = PROBABILITIES.copy()
    turned[2] = turned[2, ::-1]
    report = compare(probabilities=turned)
    assert (report.first, report.decisions) == (None, pytest.approx(1 / 3))
    wide = TOLERANCE._replace(probabilities=1.0)
    turned[1] = turned[1, ::-1]
    found = Observed({**EXPECTED.ways, "probabilities": [turned]}, order=("ant", "bee"))
    assert parity.compare(EXPECTED, found, wide).first == "probabilities"


def test_names_are_compared_with_the_run_s() -> None:
    assert compare(order=("bee", "ant")).first == "classes"
    assert compare(labels=("ant", "ant", "ant")).first == "classes"
    report = compare(labels=("bee", "ant", "bee"))
    assert report.stages["classes"] == (1.0, 0.0)
