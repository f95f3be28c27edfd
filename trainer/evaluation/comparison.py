"""Two models' predictions on the same examples in; which is better, how sure that is, and where they differ out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.stats  # type: ignore[import-untyped]

from pipeline.errors import InputError
from trainer.evaluation import intervals

if TYPE_CHECKING:
    from trainer.predictions import Predictions  # which imports TensorFlow

_NAMED = 3  # classes or examples that an error shows


class Disagreement(NamedTuple):
    """An example to which the two give different answers, all by name."""

    id: str
    file: str
    truth: str
    one: str
    other: str


class Comparison(NamedTuple):
    examples: int
    accuracy: tuple[float, float]  # of the one and of the other
    difference: float  # the other's minus the one's
    interval: intervals.Interval | None  # see `intervals.of_difference`
    only_one: int  # examples that only the one has right
    only_other: int
    p_value: float  # see `mcnemar`
    disagreements: tuple[Disagreement, ...]  # in the one's order


def compare(one: Predictions, other: Predictions, *, seed: int = 0) -> Comparison:
    """Compares on the examples of both, which have to be the same by id, in any order.

    Raises:
      InputError: where examples, their labels or the classes differ.
    """
    order = _matched(one, other)
    labels, classes = one.labels, one.classes
    answers = one.logits.argmax(axis=1), other.logits[order].argmax(axis=1)
    right = answers[0] == labels, answers[1] == labels
    only_one, only_other = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    return Comparison(
        examples=len(labels),
        accuracy=(float(right[0].mean()), float(right[1].mean())),
        difference=(only_other - only_one) / len(labels),
        interval=intervals.of_difference(*right, groups=one.groups, seed=seed),
        only_one=only_one,
        only_other=only_other,
        p_value=mcnemar(only_one, only_other),
        disagreements=tuple(
            Disagreement(one.ids[i], one.files[i], *(classes[int(label[i])] for label in (labels, *answers)))
            for i in np.flatnonzero(answers[0] != answers[1])
        ),
    )


def mcnemar(only_one: int, only_other: int) -> float:
    """How likely pairs at least as uneven are where both are equally good: McNemar's test, exact and two-sided.

    Of pairs that only one has right, each falls to either with probability 1/2, so their number is binomial
    (https://doi.org/10.1007/BF02295996; the exact form for any number, of which chi-square is the approximation). It
    takes examples as independent: where groups are large, trust the interval.
    """
    pairs = only_one + only_other
    return float(scipy.stats.binomtest(only_one, pairs, 0.5).pvalue) if pairs else 1.0


def _matched(one: Predictions, other: Predictions) -> npt.NDArray[np.int64]:
    """Where the other has each of the one's examples."""
    if one.classes != other.classes:
        raise InputError(
            f"the runs know different classes, {list(one.classes)} and {list(other.classes)}: "
            "compare runs on the same dataset"
        )
    places = {name: place for place, name in enumerate(other.ids)}
    both = len(places.keys() & set(one.ids))
    if not both == len(places) == len(one.ids) == len(other.ids):
        raise InputError(
            f"the predictions are of {len(one.ids):,} and {len(other.ids):,} examples, of which {both:,} are in both: "
            "evaluate both runs on the same --data and --split"
        )
    order = np.array([places[name] for name in one.ids])
    if differing := np.flatnonzero(one.labels != other.labels[order]).tolist():
        named = ", ".join(one.files[i] for i in differing[:_NAMED])
        raise InputError(
            f"{len(differing):,} of {len(one.ids):,} examples have different labels in the two (first {named}): "
            "evaluate both runs on the same --data"
        )
    return order
