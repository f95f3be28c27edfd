"""Images, probabilities and embeddings in; what they usually look like out, and whether newer ones look otherwise.

Every test is a rank test or an exact one, so its false alarms do not depend on how a feature is distributed, and all of
them share one small level: see `LEVEL`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]

FORMAT = 1
WINDOW = 200  # requests: enough to see half a standard deviation against 100 examples
EVERY = 50  # requests between two looks, and before the first
# The chance of any alarm within a window's length of unchanged requests, shared out evenly over all tests of all looks
# in it (Bonferroni). One in ten thousand windows leaves two million requests between false alarms.
LEVEL = 1e-4

_EXAMPLES = 1000  # kept of a reference; against a window of 200, ten times as many would add a tenth of precision
_AXES = 3  # of the embedding; each is one more test to share the level with
_DIGITS = 6
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as JPEG


class Finding(NamedTuple):
    """One feature of a window beside the reference."""

    feature: str  # a key of `measure`'s, or `class NAME_INDEX`
    p_value: float  # of no change, before any correction
    effect: float  # -0.5..0.5: how much more often than half a new value is above an old; of a class its share's change
    alarm: bool


def reference(
    images: npt.NDArray[np.uint8],
    probabilities: npt.NDArray[Any],
    embeddings: npt.NDArray[Any],
    sizes: npt.NDArray[Any] | None = None,
) -> dict[str, Any]:
    """What is to be called usual, as JSON.

    Args:
      images: uint8 [n, s, s, 3] as the model sees them, of the validation split: with those that it was fitted to it is
        surer. At most 1,000 are taken, by chance.
      probabilities: [n, classes], after the temperature.
      embeddings: [n, features].
      sizes: [n, 2], width and height of the source in pixels; None: sizes are not watched.

    Raises:
      ValueError: where lengths differ, or there are fewer than two examples.
    """
    lengths = {len(values) for values in (images, probabilities, embeddings, *([] if sizes is None else [sizes]))}
    if len(lengths) > 1 or min(lengths) < 2:
        raise ValueError(f"lengths {sorted(lengths)}: expected one, of 2 or more")
    if len(images) > _EXAMPLES:
        chosen = np.sort(np.random.default_rng(0).choice(len(images), _EXAMPLES, replace=False))
        images, probabilities, embeddings = images[chosen], probabilities[chosen], embeddings[chosen]
        sizes = None if sizes is None else sizes[chosen]
    embeddings = np.asarray(embeddings, np.float64)
    mean = embeddings.mean(axis=0)
    axes = np.linalg.svd(embeddings - mean, full_matrices=False)[2][:_AXES]
    usual: dict[str, Any] = {"embedding": {"mean": _short(mean), "axes": [_short(axis) for axis in axes]}}
    values = measure(usual, images, probabilities, embeddings, sizes)
    # Each example is part of the mean that its distance is taken from; without it, it would be this much farther.
    values["embedding_distance"] *= len(images) / (len(images) - 1)
    return {
        "format": FORMAT,
        "examples": len(images),
        **usual,
        "features": {name: _short(np.sort(value)) for name, value in values.items()},
        "predicted": np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1]).tolist(),
    }


def measure(
    usual: Mapping[str, Any],
    images: npt.NDArray[np.uint8],
    probabilities: npt.NDArray[Any],
    embeddings: npt.NDArray[Any],
    sizes: npt.NDArray[Any] | None = None,
) -> dict[str, npt.NDArray[np.float64]]:
    """The watched features of n examples, float64 [n] each.

    Args:
      usual: from `reference`, whose embedding the distances are taken from; the others as there.
    """
    pixels = images.astype(np.float32)
    luma = pixels @ _LUMA
    contrast = luma.std(axis=(1, 2))
    steps = np.abs(np.diff(luma, axis=1)).mean(axis=(1, 2)) + np.abs(np.diff(luma, axis=2)).mean(axis=(1, 2))
    red, green, blue = np.moveaxis(pixels.mean(axis=(1, 2)), -1, 0)
    away = np.asarray(embeddings, np.float64) - np.asarray(usual["embedding"]["mean"])
    found = {
        "brightness": luma.mean(axis=(1, 2)),
        "contrast": contrast,
        # Between neighbours, of the contrast there is: that of a dim picture is no less than a bright one's.
        "sharpness": steps / (contrast + 1),
        "red_minus_blue": red - blue,
        "green_minus_others": green - (red + blue) / 2,
        "confidence": probabilities.max(axis=1),
        "embedding_distance": np.linalg.norm(away, axis=1),
    }
    for number, axis in enumerate(usual["embedding"]["axes"], 1):
        found[f"embedding_axis_{number}"] = away @ np.asarray(axis)
    if sizes is not None:
        found["source_pixels"] = np.prod(np.asarray(sizes, np.float64), axis=1)
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def compare(
    usual: Mapping[str, Any], values: Mapping[str, npt.NDArray[np.float64]], predicted: npt.NDArray[np.int64]
) -> list[Finding]:
    """Tests a window against the reference.

    Features: Mann and Whitney's rank test (https://doi.org/10.1214/aoms/1177730491), whose normal approximation errs on
    the careful side this far out. Classes: Fisher's exact test of each one's share among the predicted.

    Args:
      values: from `measure`, of the window's examples; NaN where a feature isn't known of one. A feature that is known
        of fewer than `EVERY`, where others are of more, gives no alarm.
      predicted: int64 [n], the likeliest class of each.
    """
    names = [name for name in usual["features"] if name in values]
    level = LEVEL * EVERY / WINDOW / (len(names) + 1)
    findings = []
    for name in names:
        before = np.asarray(usual["features"][name])
        new = np.asarray(_short(values[name][~np.isnan(values[name])]))  # ties stay ties
        if len(new) < min(EVERY, len(values[name])):
            findings.append(Finding(name, 1.0, 0.0, False))
            continue
        test = stats.mannwhitneyu(new, before, method="asymptotic")
        p_value = 1.0 if np.isnan(test.pvalue) else float(test.pvalue)  # all values are one and the same
        effect = float(test.statistic) / (len(new) * len(before)) - 0.5
        findings.append(Finding(name, p_value, effect, p_value < level))
    return findings + _compare_classes(usual, predicted, level)


def _compare_classes(usual: Mapping[str, Any], predicted: npt.NDArray[np.int64], level: float) -> list[Finding]:
    before = np.asarray(usual["predicted"])
    new = np.bincount(predicted, minlength=len(before))
    drawn = stats.hypergeom(before.sum() + new.sum(), before + new, new.sum())
    p_values = np.minimum(2 * np.minimum(drawn.cdf(new), drawn.sf(new - 1)), 1)
    shares = new / new.sum() - before / before.sum()
    return [
        Finding(f"class {index}", float(p_value), float(share), bool(p_value < level / len(before)))
        for index, (p_value, share) in enumerate(zip(p_values, shares, strict=True))
    ]


def _short(values: npt.NDArray[Any]) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values]
