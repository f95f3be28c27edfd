"""A trained model's features of a split in; what logistic regression says of examples it was not fitted to out.

Confident Learning's out-of-sample probabilities (https://arxiv.org/abs/1911.00068, section 2) for a training that kept
no dynamics. Where the backbone was trained its features have seen the labels; after a short fine-tuning they found as
many planted errors as the dynamics (see `scores`). One that had learned all labels by heart was not tried.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import threadpoolctl  # type: ignore[import-untyped]  # ships none
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from pipeline.errors import InputError
from trainer.label_errors.dynamics import Look

FOLDS = 5  # where there is enough: each model sees four fifths; ten cost twice as much
# Of the penalty, over standardised features: how much is right depends on their number and that of examples.
_STRENGTHS = (1e-4, 1e-3, 1e-2)
_ITERATIONS = 200
_LEAST_PROBABILITY = 1e-12  # of a class that a fold had no example of


def look(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], groups: Sequence[str], *, num_classes: int
) -> Look:
    """How n examples stand before models that were fitted to the others.

    Groups stay whole: a copy of an image would vouch for its label. Of several strengths of the penalty that one is
    taken whose loss is the least.

    Args:
      features: [n, size].
      labels: [n].
      groups: n names; see `pipeline.records.Record`.

    Raises:
      InputError: where the others are never of two classes.
    """
    parts = _parts(features, labels, groups)
    if not any(len(np.unique(labels[fitted])) > 1 for fitted, _ in parts):
        raise InputError(
            f"{len(labels)} examples of {len(np.unique(labels))} classes in {len(set(groups))} groups say nothing of "
            "each other: expected a class of at least two examples, and two classes that are left without any one group"
        )
    # Matrices are so small that threads of BLAS mostly wait for each other: beside other work 300 times as long.
    with threadpoolctl.threadpool_limits(1):
        tried = [_log_probabilities(features, labels, parts, strength, num_classes) for strength in _STRENGTHS]
    rows = np.arange(len(labels))
    found = min(tried, key=lambda values: -values[rows, labels].mean())
    own = found[rows, labels]
    without = found.copy()
    without[rows, labels] = -np.inf
    others = without.argmax(axis=1)
    margins = own - without[rows, others]
    return Look(labels.astype(np.int32), -own.astype(np.float32), margins.astype(np.float32), others.astype(np.int32))


def _parts(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], groups: Sequence[str]
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """(places to fit to, places left) of each fold: as many as groups and the largest class allow, none below two."""
    count = min(FOLDS, len(set(groups)), int(np.bincount(labels).max(initial=0)))
    if count < 2:
        return []
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer examples than folds
        # Groups of very unequal sizes can leave a fold empty.
        return [part for part in folds.split(features, labels, groups) if all(map(len, part))]


def _log_probabilities(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    parts: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]],
    strength: float,
    num_classes: int,
) -> npt.NDArray[np.float64]:
    """float64 [n, classes], each example's by the model of the fold that it is not in.

    Where that was fitted to one class only, it is sure of it.
    """
    found = np.full([len(labels), num_classes], np.log(_LEAST_PROBABILITY))
    for fitted, left in parts:
        if len(only := np.unique(labels[fitted])) == 1:
            found[left, only] = np.log1p(-_LEAST_PROBABILITY)
            continue
        scaler = StandardScaler().fit(features[fitted])
        model = LogisticRegression(C=strength, max_iter=_ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # nearly there is as good
            model.fit(scaler.transform(features[fitted]), labels[fitted])
        probabilities = model.predict_proba(scaler.transform(features[left]))
        found[np.ix_(left, model.classes_)] = np.log(np.maximum(probabilities, _LEAST_PROBABILITY))
    return found
