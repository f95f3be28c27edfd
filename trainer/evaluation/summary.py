"""A model's predictions on a split and the temperature in; the content of `metrics.json` out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.special  # type: ignore[import-untyped]

from pipeline.errors import InputError
from trainer import metrics
from trainer.evaluation import calibration, coverage, curves, intervals

if TYPE_CHECKING:
    from trainer.predictions import Predictions  # which imports TensorFlow

_SEED = 0  # of the resamples: the same predictions have the same intervals


def summarize(
    found: Predictions,
    *,
    k: int,
    split: str,
    temperature: float,
    fitted_on: str | None,
    fingerprint: str,
    **context: Any,
) -> dict[str, Any]:
    """Everything that follows from the predictions alone; curves, coverage and `after` are after the temperature.

    Args:
      k: how many guesses top-k allows.
      fitted_on: the split that the temperature was fitted on, None for a temperature of 1.
      **context: see `metrics.summarize`, which also says what the counts' shares are.

    Returns:
      What `metrics.summarize` does, and: `intervals` (see `intervals.Intervals`), `calibration` (`temperature`,
      `fitted_on`, `bins`, and `before` and `after` as `calibration.measure` gives them), `coverage` (see
      `coverage.Kept`), `curves`, `macro_roc_auc` and `macro_average_precision` (see `curves.summarize`), whose areas
      stand in `per_class`, too.

    Raises:
      InputError: where the split is empty.
    """
    labels, answers, right = found.labels, answers_of(found), right_of(found)
    in_top_k = _rank(found.logits, labels) < k
    num_classes = len(found.classes)
    cells = np.bincount(labels * num_classes + answers, minlength=num_classes**2)
    summary = metrics.summarize(
        cells.reshape(num_classes, num_classes),
        int(in_top_k.sum()),
        k,
        calibration.nll(found.logits, labels) * len(labels) if len(labels) else 0.0,
        found.classes,
        split=split,
        fingerprint=fingerprint,
        **context,
    )
    probabilities = scipy.special.softmax(found.logits.astype(np.float64) / temperature, axis=1)
    areas = curves.summarize(probabilities, labels, found.classes)
    per_class = {name: {**row, **areas["per_class"][name]} for name, row in summary["per_class"].items()}
    held = intervals.bootstrap(labels, answers, in_top_k, found.groups, num_classes=num_classes, seed=_SEED)
    return {
        **summary,
        **areas,
        "per_class": per_class,
        "intervals": {"level": intervals.LEVEL, "resamples": intervals.RESAMPLES, "seed": _SEED, **held._asdict()},
        "calibration": {
            "temperature": temperature,
            "fitted_on": fitted_on,
            "bins": calibration.BINS,
            "before": calibration.measure(found.logits, labels),
            "after": calibration.measure(found.logits, labels, temperature=temperature),
        },
        "coverage": [kept._asdict() for kept in coverage.above_thresholds(probabilities.max(axis=1), right)],
    }


def checked(found: Predictions) -> Predictions:
    """Raises InputError, naming the first example, where the model's answer is no number."""
    broken = np.flatnonzero(~np.isfinite(found.logits).all(axis=1)).tolist()
    if broken:
        raise InputError(
            f"{len(broken):,} of {len(found.ids):,} examples have logits that are not finite, the first is "
            f"{found.files[broken[0]]}: weights or activations overflow; take another --checkpoint or train in float32"
        )
    return found


def answers_of(found: Predictions) -> npt.NDArray[np.int64]:
    """[n], the likeliest class of each example, the first of equally likely ones."""
    return found.logits.argmax(axis=1)


def right_of(found: Predictions) -> npt.NDArray[np.bool_]:
    """[n], whether that is the label."""
    return answers_of(found) == found.labels


def _rank(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many classes are likelier than the label; those that are as likely don't count, as in `tf.math.in_top_k`."""
    return (logits > np.take_along_axis(logits, labels[:, None], axis=1)).sum(axis=1)
