"""Which answers are right and which examples belong together in; intervals that probably hold the true accuracy out.

Examples of one group, frames of one film say, are right or wrong together, so that a thousand of them say less than a
thousand images. The bootstrap sees that when it draws whole groups. But its own intervals are too narrow where mistakes
are few: at an accuracy of 0.98 on 100 images, percentile and BCa intervals "of 95 %" held the truth in 86 % of
simulated cases, in 52 % where images came in correlated groups of 4, and without a mistake they have no width. So the
bootstrap gives variances only, and the interval is Wilson's for the number of independent examples that would vary as
much, as surveys have it for shares in clustered samples (https://doi.org/10.1093/jssam/smv024).
`tests/trainer/evaluation/test_intervals.py` measures how often that holds the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.stats  # type: ignore[import-untyped]

from trainer.evaluation import resampling
from trainer.evaluation.resampling import Floats

LEVEL = 0.95
RESAMPLES = 2000  # which leaves the bootstrap's standard error within 1.6 % of what infinitely many would give
# Examples of the overall accuracy, added to each class before its variance is estimated: a class of five without a
# mistake does not have the variance 0.
_ADDED = 2.0
# What is believed of two answers' correlation in a group before any group is seen, and for how many groups that counts.
# Chosen by simulation: of several from 0 to 1, these kept coverage within 93 to 97 % whatever the correlation was.
_CORRELATION, _COUNTS_FOR = 0.5, 0.25

Interval = tuple[float, float]


class Intervals(NamedTuple):
    """At `LEVEL`, of the shares that `metrics.summarize` defines; None where all examples are of one group."""

    groups: int
    accuracy: Interval | None
    top_k: Interval | None
    balanced_accuracy: Interval | None
    macro_f1: Interval | None


def bootstrap(
    labels: npt.NDArray[np.int64],
    answers: npt.NDArray[np.int64],
    in_top_k: npt.NDArray[np.bool_],
    groups: Sequence[str],
    *,
    num_classes: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Intervals:
    """Intervals of four measures from the same resamples.

    Args:
      labels, answers: [n] classes, the truth and the model's; n at least 1.
      in_top_k: [n], whether the truth is among the k likeliest.
      groups: [n]; an empty one is a group of its own.
    """
    of_group = resampling.numbered(groups)
    num_groups = int(of_group.max()) + 1
    if num_groups < 2:
        return Intervals(num_groups, None, None, None, None)
    right = answers == labels
    everything = resampling.counts(labels, answers, in_top_k, np.zeros_like(labels), num_classes)
    shares = resampling.shares(everything.toarray(), num_classes)[:, 0]

    def variances(members: npt.NDArray[np.int64]) -> Floats:
        counts = resampling.counts(labels, answers, in_top_k, members, num_classes)
        chunks = resampling.resampled(counts.shape[1], resamples, seed)
        drawn = [resampling.shares(counts @ weights, num_classes) for weights in chunks]
        # Around the estimate, not their mean: the bias of macro F1 counts, too.
        return np.square(np.concatenate(drawn, axis=1) - shares[:, None]).mean(axis=1)

    by_group = variances(of_group)
    by_example = variances(np.arange(len(labels))) if num_groups < len(labels) else by_group
    support = np.bincount(labels)
    of_examples = np.full(len(labels), 1 / len(labels))
    of_classes = 1 / (support[labels] * np.count_nonzero(support))
    return Intervals(
        num_groups,
        *(
            _interval(share, hits, labels, weights, of_group, by_example=alone, by_group=together)
            for share, hits, weights, alone, together in zip(
                shares.tolist(),
                (right, in_top_k, right, right),
                (of_examples, of_examples, of_classes, of_classes),
                by_example.tolist(),
                by_group.tolist(),
                strict=True,
            )
        ),
    )


def of_share(hits: npt.NDArray[np.bool_], groups: Sequence[str]) -> Interval:
    """Of an accuracy alone, at `LEVEL`, without resampling.

    The bootstrap's variance of a mean comes to the sum of the squared errors of what it draws.

    Args:
      hits: [n], n at least 1.
      groups: [n]; an empty one is a group of its own. Where all are of one, they say as much as one example.
    """
    of_group, share = resampling.numbered(groups), float(hits.mean())
    if of_group.max() == 0:
        return wilson(share, 1.0)
    weights = np.full(len(hits), 1 / len(hits))
    errors = weights * (hits - share)
    independent = float(np.square(errors).sum())
    by_group = float(np.square(np.bincount(of_group, errors)).sum())
    design = _design(errors, weights, of_group, by_group / independent if independent else 0.0)
    return wilson(share, len(hits) / design.effect, df=design.df)


def of_difference(
    one: npt.NDArray[np.bool_],
    other: npt.NDArray[np.bool_],
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """Of the other's accuracy minus the one's on the same examples, at `LEVEL`; None where all are of one group.

    The adjusted Wald interval for paired shares, half an example added to each of the four outcomes
    (https://doi.org/10.1002/sim.1781), widened by how much more the difference varies between groups than it would
    between independent examples.

    Args:
      one, other: [n], which answers are right.
    """
    of_group = resampling.numbered(groups)
    num_groups, n = int(of_group.max()) + 1, len(one)
    if num_groups < 2:
        return None
    gains = other.astype(np.float64) - one
    sums = np.stack([np.bincount(of_group, gains), np.bincount(of_group)])
    drawn = np.concatenate([sums @ weights for weights in resampling.resampled(num_groups, resamples, seed)], axis=1)
    by_group = float(np.var(drawn[0] / drawn[1], ddof=1))
    independent = float(gains.var() / n)
    weights = np.full(n, 1 / n)
    design = _design(
        weights * (gains - gains.mean()), weights, of_group, by_group / independent if independent else 0.0
    )
    centre = gains.sum() / (n + 2)
    variance = ((np.abs(gains).sum() + 1) / (n + 2) - centre**2) / (n + 2)
    half = scipy.stats.t.ppf((1 + LEVEL) / 2, design.df) * np.sqrt(design.effect * variance)
    return float(max(-1.0, centre - half)), float(min(1.0, centre + half))


def wilson(share: float, examples: float, df: float = np.inf) -> Interval:
    """Wilson's score interval of a share of independent examples, at `LEVEL` (https://doi.org/10.1080/01621459.1927.10502953).

    Args:
      examples: more than 0; a fraction where it stands for a design's effective number.
      df: degrees of freedom of Student's t, which is the normal distribution where they are infinite.
    """
    z = float(scipy.stats.t.ppf((1 + LEVEL) / 2, df))
    centre = (share + z * z / (2 * examples)) / (1 + z * z / examples)
    half = z / (1 + z * z / examples) * np.sqrt(share * (1 - share) / examples + (z / (2 * examples)) ** 2)
    # At 0 and 1 the share is an end of its interval, which rounding misses.
    return float(max(0.0, centre - half)) if share else 0.0, float(min(1.0, centre + half)) if share < 1 else 1.0


class _Design(NamedTuple):
    """What groups do to the variance of a weighted share."""

    effect: float  # by how much it is larger than for independent examples
    df: float  # degrees of freedom with which that is known


def _interval(
    share: float,
    hits: npt.NDArray[np.bool_],
    labels: npt.NDArray[np.int64],
    weights: Floats,
    of_group: npt.NDArray[np.int64],
    *,
    by_example: float,
    by_group: float,
) -> Interval:
    """Wilson's interval of a share, or of what varies like one.

    Args:
      share: the sum of `weights`, which add up to 1, over the examples with `hits`; or macro F1, which is none.
      by_example, by_group: the bootstrap's variances.
    """
    squares = np.square(weights)
    support = np.bincount(labels)
    chance = (np.bincount(labels, hits) + _ADDED * hits.mean()) / (support + _ADDED)
    independent = max(by_example, float(np.sum(squares * (chance * (1 - chance))[labels])))
    design = _design(weights * (hits - hits.mean()), weights, of_group, by_group / independent if independent else 0.0)
    # Without a mistake nothing is seen of the variance, and what counts is the number of examples.
    size = share * (1 - share) / independent if 0 < share < 1 else 1 / squares.sum()
    return wilson(share, size / design.effect, df=design.df)


def _design(deviations: Floats, weights: Floats, of_group: npt.NDArray[np.int64], ratio: float) -> _Design:
    """The design effect, as Kish has it: 1 + correlation * (what it were if groups were of one opinion - 1).

    Args:
      deviations: [n], each example's part of the share's error; only their sizes beside each other matter.
      ratio: of the bootstrap's variance by group to that of independent examples.
    """
    sizes = np.bincount(of_group, weights)
    most = float(np.square(sizes).sum() / np.square(weights).sum())
    if most <= 1 + 1e-9:
        return _Design(1.0, np.inf)
    # Resampling n equal groups gives 1 - 1 / n of the variance; with unequal ones the largest count as fewer.
    leverage = float((sizes**3).sum() / np.square(sizes).sum())
    squares = np.square(np.bincount(of_group, deviations))
    seen = float(squares.sum() ** 2 / np.square(squares).sum()) if squares.any() else 0.0  # groups that it rests on
    # Where groups mean nothing it is below 0 in half of the samples; cut off here, it would be too large on average.
    correlation = min(1.0, (ratio / (1 - leverage) - 1) / (most - 1))
    believed = (seen * correlation + _COUNTS_FOR * _CORRELATION) / (seen + _COUNTS_FOR)
    if believed <= 0:
        return _Design(1.0, np.inf)
    effect = 1 + believed * (most - 1)
    # Satterthwaite's degrees of freedom (https://doi.org/10.2307/3002019): only what exceeds independence is estimated.
    inverse = leverage / (1 - leverage) + (1 / (2 * seen + 1) if seen else 0.0)
    return _Design(effect, 1 / ((1 - 1 / effect) ** 2 * inverse))
