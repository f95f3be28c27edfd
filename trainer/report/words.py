"""metrics.json in; what it says about the model in sentences for people who know nothing of statistics out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.page import percent
from trainer.metrics import Confusion
from trainer.report import conditions, confidence

_WEAKEST = 3
_WIDE = 0.1  # of an interval: it tells a good model from a middling one no more
# The interval of a class with 30 images at 90 % reaches from 74 to 97 %.
_FEW_IMAGES = 30
_REPEATED = 3  # mistakes of one kind: fewer are accidents
_ADVICE = 5  # who reads more of it than that

Metrics = Mapping[str, Any]


class Summary(NamedTuple):
    caution: str  # why the numbers are no measure of new images; else empty
    expected: str  # the interval in words; empty where there is none
    baseline: str  # what could be had without a model
    confidence: list[str]  # how sure the model is, and whether that can be believed
    weakest: list[str]
    advice: list[str]  # the most important first


def summarize(metrics: Metrics, pairs: Sequence[Confusion], *, used_for: str) -> Summary:
    """See `Summary`.

    Args:
      pairs: the most frequent mistakes, the most frequent first.
      used_for: "training" or "validation" where the images had a part in making the model, else empty.
    """
    return Summary(
        {
            "training": "The model was trained on these very images. How it does on new ones, this page cannot say: "
            "evaluate another split.",
            "validation": "The best checkpoint was chosen by these very images, so new ones will probably do a little "
            "worse. The test split is for the final word.",
        }.get(used_for, ""),
        _expected(metrics, like="other images of this kind" if used_for else "new images like these"),
        _baseline(metrics),
        _confidence(metrics),
        _weakest(metrics, pairs),
        _advice(metrics, pairs)[:_ADVICE],
    )


def between(low: float, high: float) -> str:
    """Rounded outwards to whole per cent, or to tenths where whole ones would hide how narrow it is."""
    factor, digits = (100, 0) if high - low >= 0.02 else (1000, 1)
    # Floating point must not push 0.95 down to 94.
    below, above = math.floor(factor * low + 1e-9), math.ceil(factor * high - 1e-9)
    return f"between {100 * below / factor:.{digits}f} and {100 * above / factor:.{digits}f}\N{NO-BREAK SPACE}%"


def rounded(share: float) -> str:
    """Whole per cent, for running text."""
    whole = round(100 * share)
    if whole == 100 and share < 1:
        return "over 99\N{NO-BREAK SPACE}%"
    return f"{whole}\N{NO-BREAK SPACE}%" if whole or not share else "under 1\N{NO-BREAK SPACE}%"


def _expected(metrics: Metrics, *, like: str) -> str:
    if "intervals" not in metrics:
        return ""
    held = metrics["intervals"]
    if held["accuracy"] is None:
        return f"All images belong to one group, so nothing can be said of {like}."
    return (
        f"Of {like}, {between(*held['accuracy'])} would probably be named correctly "
        f"({rounded(held['level'])} confidence interval)."
    )


def _confidence(metrics: Metrics) -> list[str]:
    if "calibration" not in metrics:
        return []
    found = confidence.trust(metrics["calibration"]["after"])
    off, chance = (f"{100 * error:.1f} points" for error in (found.ece, found.by_chance))
    verdicts = {
        "sound": f"Its confidence can be believed: it differs from the share that is right by {off} on average, no "
        f"more than chance gives ({chance}). Of answers it is {rounded(0.9)} sure of, about 9 in 10 are right.",
        "few": "Whether that can be believed, so few images cannot tell: it differs from the share that is right by "
        f"{off} on average, but up to {chance} would be chance alone.",
        "too sure": "It is more sure than it should be: confidence and the share that is right differ by "
        f"{off} on average, where chance gives up to {chance}. Choose a threshold by the table below.",
        "not sure enough": f"It is right more often than it claims: the two differ by {off} on average, where chance "
        f"gives up to {chance}. Its confidence errs on the safe side.",
    }
    sure, right = rounded(found.confidence), rounded(found.accuracy)
    said = [f"On average the model is {sure} sure of its answer, and right for {right}.", verdicts[found.verdict]]
    without, with_it = (metrics["calibration"][when]["nll"] for when in ("before", "after"))
    if with_it > without:
        said.append(
            f"The temperature does not help here: with it the log loss is {with_it:.3f}, without it {without:.3f}. "
            "Fit it on more validation images."
        )
    if metrics["calibration"]["fitted_on"] is None:
        said.append("These confidences are as trained: no temperature was fitted on a validation split.")
    return said


def _weakest(metrics: Metrics, pairs: Sequence[Confusion]) -> list[str]:
    said = [_classes(metrics), _mistake(pairs)] if pairs else ["No image was given a wrong class."]
    if part := _slice(metrics):
        said.append(
            f"Weakest conditions: {conditions.column_name(part['column'])}, {part['value']}: "
            f"{rounded(part['accuracy'])} of {part['examples']:,} images are right."
        )
    if metrics.get("robustness"):
        worst = min(metrics["robustness"], key=lambda part: part["accuracy"])
        said.append(
            f"Of spoilt images the worst: {conditions.corruption_name(worst['corruption'])} of severity "
            f"{worst['severity']}, with {rounded(worst['accuracy'])} right instead of {rounded(metrics['accuracy'])}."
        )
    return said


def _classes(metrics: Metrics) -> str:
    rows = metrics["per_class"]
    missed = [name for name in metrics["classes"] if rows[name]["support"] and rows[name]["recall"] < 1]
    weakest = sorted(missed, key=lambda name: rows[name]["recall"])[:_WEAKEST]
    found = ", ".join(_found(name, rows[name]) for name in weakest)
    return f"Weakest classes, by the share of their images that were found: {found}."


def _mistake(pairs: Sequence[Confusion]) -> str:
    first = pairs[0]
    tied = len(pairs) > 1 and pairs[1].images == first.images
    return (
        f"{'One of the most frequent mistakes' if tied else 'Most frequent mistake'}: {first.truth} taken for "
        f"{first.predicted}, {first.images} {'time' if first.images == 1 else 'times'} "
        f"({percent(first.share)} of the images of {first.truth})."
    )


def _slice(metrics: Metrics) -> Mapping[str, Any] | None:
    return conditions.weakest_slice(metrics.get("slices", ()), metrics["accuracy"])


def _found(name: str, row: Mapping[str, Any]) -> str:
    return f"{name} ({percent(row['recall'])}, {round(row['recall'] * row['support'])} of {row['support']})"


def _baseline(metrics: Metrics) -> str:
    majority, share = _majority(metrics)
    return f"Always answering the most frequent class, {majority}, would be right for {percent(share)}."


def _majority(metrics: Metrics) -> tuple[str, float]:
    name = max(metrics["classes"], key=lambda one: metrics["per_class"][one]["support"])
    return name, metrics["per_class"][name]["support"] / metrics["examples"]


def _advice(metrics: Metrics, pairs: Sequence[Confusion]) -> list[str]:
    said = []
    majority, share = _majority(metrics)
    held = metrics["intervals"]["accuracy"] if "intervals" in metrics else None
    if (held[0] if held else metrics["accuracy"]) <= share:
        said.append(f"Do not use it yet: it is not surely better than always answering {majority}.")
    if held and held[1] - held[0] > _WIDE:
        said.append("Test on more images: four times as many make the interval half as wide.")
    if "coverage" in metrics and (rule := confidence.rule(metrics["coverage"], metrics["accuracy"])):
        least = f"{100 * rule.threshold:.3g}\N{NO-BREAK SPACE}%"
        said.append(
            f"Give answers it is less than {least} sure of to a person. Of these images it would then answer "
            f"{rounded(rule.coverage)} by itself, {percent(rule.accuracy)} of those correctly."
        )
    if pairs and pairs[0].images >= _REPEATED:
        said.append(
            f"Look at the images of {pairs[0].truth} that were taken for {pairs[0].predicted}: are their labels right, "
            "and can a person tell the two apart in the picture? If so, more images of both help most."
        )
    if part := _slice(metrics):
        said.append(
            f"Look at the mistakes in one slice, {conditions.column_name(part['column'])}: {part['value']}. Where such "
            "images matter, collect more of them."
        )
    if found := conditions.fragile(metrics.get("robustness", ()), metrics["accuracy"]):
        said.append(
            f"Keep spoilt images out, or train with such: {conditions.corruption_name(found['corruption'])} of "
            f"severity {found['severity']} leaves {rounded(found['accuracy'])} right."
        )
    few = [name for name in metrics["classes"] if metrics["per_class"][name]["support"] < _FEW_IMAGES]
    if few:
        more = f" and {len(few) - _WEAKEST:,} more" if len(few) > _WEAKEST else ""
        said.append(
            f"Do not rely on single numbers of classes with fewer than {_FEW_IMAGES} images here: "
            f"{', '.join(few[:_WEAKEST])}{more}."
        )
    return said or ["Nothing stands out. Test again when cameras, places or seasons change."]
