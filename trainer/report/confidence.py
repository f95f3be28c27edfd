"""Calibration and coverage of metrics.json in; pictures of them, and whether a confidence can be believed, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from trainer.evaluation import intervals
from trainer.report import picture
from trainer.report.picture import Picture

_THRESHOLDS = (0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # rows of the table
_TARGETS = (0.99, 0.95, 0.9)  # accuracies that are worth to hand images to a person for
_LEAST_COVERAGE = 0.2  # whoever hands over more does the work without a model
_FEW = 0.05  # of calibration error by chance alone: more, and nothing can be said of it
_RESAMPLES = 2000
FEW_IN_BIN = 10  # images: the interval is half of the picture high, and more
_PALE = "#8fb4d6"

Bins = Sequence[Mapping[str, Any]]


class Trust(NamedTuple):
    confidence: float  # the mean, 0..1
    accuracy: float
    ece: float
    by_chance: float  # the ECE that a perfectly calibrated model stays below in 95 of 100 splits of this size
    verdict: str  # "few", "sound", "too sure" or "not sure enough"


class Rule(NamedTuple):
    """Where answers below `threshold` go to a person: the share that is answered, and how much of that is right."""

    threshold: float
    coverage: float
    accuracy: float


def trust(measured: Mapping[str, Any]) -> Trust:
    """Judges `calibration["after"]`.

    Of few images even a perfect model has an ECE above 0. How much, is drawn from the bins' own confidences:
    consistency resampling, Increasing the Reliability of Reliability Diagrams, https://doi.org/10.1175/WAF993.1.
    """
    bins = [one for one in measured["reliability"] if one["examples"]]
    examples = np.array([one["examples"] for one in bins])
    confidence, accuracy = (np.array([one[key] for one in bins]) for key in ("confidence", "accuracy"))
    drawn = np.random.default_rng(0).binomial(examples, np.clip(confidence, 0, 1), [_RESAMPLES, len(bins)])
    errors = np.abs(drawn - examples * confidence).sum(axis=1) / examples.sum()
    by_chance = float(np.quantile(errors, 0.95))
    mean, right = (float(np.average(values, weights=examples)) for values in (confidence, accuracy))
    if measured["ece"] <= by_chance:
        verdict = "few" if by_chance > _FEW else "sound"
    else:
        verdict = "too sure" if mean > right else "not sure enough"
    return Trust(mean, right, measured["ece"], by_chance, verdict)


def rule(coverage: Sequence[Mapping[str, Any]], accuracy: float) -> Rule | None:
    """The lowest threshold that reaches the highest of a few round accuracies; None where none gains anything."""
    for target in _TARGETS:
        for row in coverage:
            reached = row["accuracy"] is not None and row["accuracy"] >= target and row["coverage"] >= _LEAST_COVERAGE
            if accuracy < target and reached:
                return Rule(row["threshold"], row["coverage"], row["accuracy"])
    return None


def thresholds(coverage: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows at round thresholds, for a table."""
    return [row for row in coverage if row["threshold"] in _THRESHOLDS]


def reliability_pictures(calibration: Mapping[str, Any]) -> list[Picture]:
    """Before the temperature and after it."""
    titles = {"before": "As trained", "after": f"After the temperature, {calibration['temperature']:.3g}"}
    with picture.style():
        return [_reliability(calibration[when], title) for when, title in titles.items()]


def _reliability(measured: Mapping[str, Any], title: str) -> Picture:
    bins = [one for one in measured["reliability"] if one["examples"]]
    figure = Figure(figsize=(picture.WIDTH_INCH, 3.9), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    total = sum(one["examples"] for one in bins)
    upper.plot([0, 1], [0, 1], color=picture.QUIET, linewidth=0.8, linestyle="--", label="as sure as right")
    for colour, members in (
        (_PALE, [one for one in bins if one["examples"] < FEW_IN_BIN]),
        (picture.ACCENT, [one for one in bins if one["examples"] >= FEW_IN_BIN]),
    ):
        middle = np.array([one["accuracy"] for one in members])
        ends = np.array([intervals.wilson(one["accuracy"], one["examples"]) for one in members]).reshape(-1, 2)
        reach = np.abs(ends.T - middle)
        where = [one["confidence"] for one in members]
        upper.errorbar(where, middle, yerr=reach, fmt="o", color=colour, elinewidth=1, capsize=2, markersize=4)
    upper.errorbar([], [], yerr=[], fmt="o", color=picture.ACCENT, markersize=4, label="this model, 95 % interval")
    upper.set_title(f"{title}: ECE {100 * measured['ece']:.1f} %", loc="left")
    upper.set_ylabel("share right")
    upper.legend(fontsize=8)
    upper.set_ylim(-0.02, 1.02)
    upper.grid(alpha=0.3)
    low = [one["low"] for one in bins]
    width = [one["high"] - one["low"] for one in bins]
    lower.bar(low, [one["examples"] / total for one in bins], width, align="edge", color="#5b93c4", edgecolor="white")
    lower.set_ylabel("images")
    most = max(one["examples"] for one in bins) / total
    lower.set_yticks([0, most], labels=["0", f"{100 * most:.0f} %"])
    lower.set_xlabel("confidence of the answer")
    picture.shares(upper.yaxis, lower.xaxis)
    lower.set_xlim(-0.02, 1.02)
    ece = f"{100 * measured['ece']:.2f} %"
    return picture.svg(
        figure, f"Reliability diagram. {title}: expected calibration error {ece}. The table below has the numbers."
    )


def coverage_picture(coverage: Sequence[Mapping[str, Any]]) -> Picture:
    """Which share is answered above a threshold, and which share of that is right."""
    with picture.style():
        figure, axes = picture.diagram(2.8)
        answered = [(row["threshold"], row["coverage"]) for row in coverage]
        right = [(row["threshold"], row["accuracy"]) for row in coverage if row["accuracy"] is not None]
        for points, name, (colour, pattern) in zip(
            (right, answered), ("right, of those answered", "answered"), picture.LINES, strict=False
        ):
            axes.plot(*zip(*points, strict=True), color=colour, linestyle=pattern, label=name)
        axes.set_title("Answers above a confidence", loc="left")
        axes.set_xlabel("least confidence")
        picture.shares(axes.xaxis, axes.yaxis)
        axes.set_ylim(-0.02, 1.04)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower left")
        return picture.svg(
            figure,
            "Two lines over the least confidence that is accepted: the share of images that are answered falls, the "
            "share of the answers that are right rises. The table beside it has the numbers.",
        )
