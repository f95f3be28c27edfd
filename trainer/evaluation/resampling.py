"""Examples and their groups in; how often each group is drawn in every resample, and the measures on each, out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse  # type: ignore[import-untyped]

_CHUNK = 2**21  # weights at once: 16 MiB

Floats = npt.NDArray[np.float64]


def numbered(groups: Sequence[str]) -> npt.NDArray[np.int64]:
    """Each example's group as a number from 0; an empty name is a group of its own."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(group or place, len(numbers)) for place, group in enumerate(groups)])


def resampled(num_groups: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each group is drawn, [num_groups, some of the resamples]; each resample draws `num_groups` times."""
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK // num_groups)
    for first in range(0, resamples, step):
        size = min(step, resamples - first)
        drawn = generator.integers(num_groups, size=[size, num_groups]) + num_groups * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * num_groups)
        yield counts.reshape(size, num_groups).T.astype(np.float64)


def counts(
    labels: npt.NDArray[np.int64],
    answers: npt.NDArray[np.int64],
    in_top_k: npt.NDArray[np.bool_],
    of_group: npt.NDArray[np.int64],
    num_classes: int,
) -> scipy.sparse.csr_array:
    """[3 classes + 1, groups]: right answers, examples and answers of each class; those with the truth in the top k."""
    right = answers == labels
    rows = [labels[right], num_classes + labels, 2 * num_classes + answers, np.full(in_top_k.sum(), 3 * num_classes)]
    columns = np.concatenate([of_group[right], of_group, of_group, of_group[in_top_k]])
    places = (np.concatenate(rows), columns)
    shape = (3 * num_classes + 1, int(of_group.max()) + 1)
    return scipy.sparse.csr_array((np.ones(len(columns)), places), shape=shape)


def shares(sums: Floats, num_classes: int) -> Floats:
    """The four measures [4, m] of m columns of sums over `counts`: accuracy, top-k, balanced accuracy, macro F1."""
    right, support, answered, in_top_k = np.split(sums, [num_classes, 2 * num_classes, 3 * num_classes])
    present = support > 0
    recall = np.divide(right, support, out=np.zeros_like(right), where=present)
    f1 = np.divide(2 * right, support + answered, out=np.zeros_like(right), where=present)
    examples, classes = support.sum(axis=0), present.sum(axis=0)
    found = [
        right.sum(axis=0) / examples,
        in_top_k[0] / examples,
        recall.sum(axis=0) / classes,
        f1.sum(axis=0) / classes,
    ]
    return np.stack(found)
