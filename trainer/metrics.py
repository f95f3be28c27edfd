"""An evaluation's counts in (confusion matrix, top-k hits, summed loss), the content of `metrics.json` out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError


class Confusion(NamedTuple):
    """`images` of class `truth` were taken for class `predicted`; `share` is their part of that class."""

    truth: str
    predicted: str
    images: int
    share: float


def summarize(
    confusion: npt.NDArray[np.int64],
    top_k_correct: int,
    k: int,
    loss_sum: float,
    classes: Sequence[str],
    *,
    split: str,
    fingerprint: str,
    **context: Any,
) -> dict[str, Any]:
    """Builds the content of `metrics.json` from counts that add up over batches and workers.

    Shares are in 0..1. A share whose denominator is zero (precision of a class that was never predicted, recall of one
    that has no examples) is 0.0, as scikit-learn gives with `zero_division=0`. `macro` (with `macro_f1` and
    `balanced_accuracy`, the mean recall) are means over the classes that have examples in the split, `weighted` over
    examples, which makes its recall the accuracy. `loss` is the mean per example, None where it is not finite, since
    JSON has no NaN.

    Args:
      confusion: [C, C] counts, rows are the true class, columns the predicted one.
      top_k_correct: examples whose true class is among the `k` highest logits.
      k: how many guesses `top_k_correct` allows.
      loss_sum: sum of the examples' losses.
      classes: C names, in the order of the rows.
      split: name of the split the counts come from.
      fingerprint: of dataset, config and code.
      **context: further JSON values, passed through (the report shows `step` and `dataset_fingerprint`); a name that
        is computed here raises TypeError.

    Raises:
      InputError: where the split has no examples.
    """
    counts = np.asarray(confusion, dtype=np.int64)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(f"confusion matrix of shape {counts.shape} for {len(classes)} classes")
    examples = int(counts.sum())
    if not examples:
        raise InputError(f"split {split!r} has no examples to evaluate: choose another split, or prepare it with more")
    support, precision, recall, f1 = _per_class(counts)
    found = measures(counts, top_k_correct, loss_sum)
    shares = {"precision": precision, "recall": recall, "f1": f1}
    return dict(
        **context,
        split=split,
        fingerprint=fingerprint,
        examples=examples,
        accuracy=found["accuracy"],
        loss=found["loss"],
        top_k={"k": k, "accuracy": found["top_k_accuracy"]},
        macro_f1=found["macro_f1"],
        balanced_accuracy=found["balanced_accuracy"],
        macro={name: float(share[support > 0].mean()) for name, share in shares.items()},
        weighted={name: float(np.average(share, weights=support)) for name, share in shares.items()},
        classes=list(classes),
        per_class={
            name: {"precision": p, "recall": r, "f1": f, "support": n}
            for name, p, r, f, n in zip(
                classes, precision.tolist(), recall.tolist(), f1.tolist(), support.tolist(), strict=True
            )
        },
        confusion=counts.tolist(),
    )


def measures(confusion: npt.NDArray[np.int64], top_k_correct: int, loss_sum: float) -> dict[str, Any]:
    """What a training can be judged by after an evaluation: one number each, as `summarize` defines them.

    Returns:
      `examples` and each of `configs.schema.METRICS`; `loss` is None where it is not finite.
    """
    examples, loss = int(confusion.sum()), loss_sum / int(confusion.sum())
    support, _, recall, f1 = _per_class(confusion)
    present = support > 0
    return {
        "examples": examples,
        "accuracy": int(confusion.trace()) / examples,
        "loss": loss if math.isfinite(loss) else None,
        "top_k_accuracy": top_k_correct / examples,
        "balanced_accuracy": float(recall[present].mean()),
        "macro_f1": float(f1[present].mean()),
    }


def _per_class(confusion: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], ...]:
    """Support, precision, recall and F1 of each class."""
    hits, support, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    return support, _share(hits, predicted), _share(hits, support), _share(2 * hits, support + predicted)


def most_confused(confusion: Sequence[Sequence[int]], classes: Sequence[str], limit: int) -> list[Confusion]:
    """At most `limit` pairs (true class, wrong answer), the most frequent first; equal counts in class order."""
    wrong = np.array(confusion, dtype=np.int64)
    support = wrong.sum(axis=1)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    pairs = [(int(i) // len(classes), int(i) % len(classes)) for i in order]
    return [
        Confusion(classes[row], classes[column], int(wrong[row, column]), float(wrong[row, column] / support[row]))
        for row, column in pairs
        if wrong[row, column]
    ]


def _share(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    share: npt.NDArray[np.float64] = np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
    return share
