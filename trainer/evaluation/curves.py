"""Probabilities and labels in; each class against the rest over all thresholds: ROC and precision-recall curves out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import sklearn.metrics

MAX_POINTS = 100  # of a curve
_TOLERANCE = 5e-4  # of the unit square: a quarter of a pixel in a picture 500 pixels wide
MAX_CLASSES = 50  # more curves aren't looked at, and would make metrics.json megabytes


def summarize(
    probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], classes: Sequence[str]
) -> dict[str, Any]:
    """Areas of all classes, and the curves of at most `MAX_CLASSES`, those of the lowest average precision.

    The areas are of the whole curves: ROC AUC by the trapezoidal rule, which is the chance that an image of the class
    gets a higher probability for it than one of another class; average precision as the sum of precision times the
    gain in recall, without interpolation.

    Args:
      probabilities: [n, classes], those that are reported, so after the temperature: ranks among examples depend on it.
      labels: [n].

    Returns:
      `per_class`: for each class `roc_auc` and `average_precision`, None where no example or every example is of it;
      `macro_roc_auc`, `macro_average_precision`: their means over the other classes, None where there are none;
      `curves`: `classes` (in their order), `roc` and `pr` as in metrics.json.
    """
    per_class: dict[str, dict[str, float | None]] = {}
    roc, pr = {}, {}
    for index, name in enumerate(classes):
        truth = labels == index
        if not truth.any() or truth.all():
            per_class[name] = {"roc_auc": None, "average_precision": None}
            continue
        scores = probabilities[:, index]
        fpr, tpr, _ = sklearn.metrics.roc_curve(truth, scores)
        precision, recall, _ = sklearn.metrics.precision_recall_curve(truth, scores)
        per_class[name] = {
            "roc_auc": float(sklearn.metrics.auc(fpr, tpr)),
            "average_precision": float(-np.sum(np.diff(recall) * precision[:-1])),
        }
        roc[name] = {"fpr": fpr, "tpr": tpr}
        pr[name] = {"recall": recall, "precision": precision}
    weakest = sorted(roc, key=lambda name: per_class[name]["average_precision"] or 0.0)[:MAX_CLASSES]
    shown = [name for name in classes if name in weakest]
    return {
        "per_class": per_class,
        "macro_roc_auc": _mean([per_class[name]["roc_auc"] for name in roc]),
        "macro_average_precision": _mean([per_class[name]["average_precision"] for name in roc]),
        "curves": {
            "classes": shown,
            "roc": {name: _thinned(**roc[name]) for name in shown},
            "pr": {name: _thinned(**pr[name]) for name in shown},
        },
    }


def thin(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], *, limit: int = MAX_POINTS) -> npt.NDArray[np.int64]:
    """Which points of a curve to draw: at most `limit`, both ends among them, so that it looks as with all.

    Douglas and Peucker's splits (https://doi.org/10.3138/FM57-6770-U75U-7727), the worst one first: what is left out
    lies closer to the drawn line than what is kept, and within `_TOLERANCE` of it where `limit` suffices.

    Args:
      x, y: [n], n at least 2, in 0..1.

    Returns:
      Indices in ascending order.
    """
    kept = [0, len(x) - 1]
    pieces = [(*_farthest(x, y, 0, len(x) - 1), 0, len(x) - 1)]
    while len(kept) < limit:
        worst = max(range(len(pieces)), key=lambda number: pieces[number][0])
        distance, middle, first, last = pieces.pop(worst)
        if distance <= _TOLERANCE:
            break
        kept.append(middle)
        pieces += [(*_farthest(x, y, *ends), *ends) for ends in ((first, middle), (middle, last))]
    return np.array(sorted(kept))


def _farthest(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], first: int, last: int) -> tuple[float, int]:
    """(distance from the line between both ends, index) of the point between them that is farthest from it."""
    if last - first < 2:
        return 0.0, first
    along_x, along_y = x[last] - x[first], y[last] - y[first]
    from_x, from_y = x[first + 1 : last] - x[first], y[first + 1 : last] - y[first]
    length = np.hypot(along_x, along_y)
    distances = np.abs(along_x * from_y - along_y * from_x) / length if length else np.hypot(from_x, from_y)
    middle = int(np.argmax(distances))
    return float(distances[middle]), first + 1 + middle


def _thinned(**curve: npt.NDArray[np.float64]) -> dict[str, list[float]]:
    indices = thin(*curve.values())
    return {name: [round(value, 5) for value in values[indices].tolist()] for name, values in curve.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    return float(np.mean([value for value in values if value is not None])) if values else None
