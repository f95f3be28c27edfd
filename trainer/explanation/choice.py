"""What a model says of every example in; the positions of those worth looking at out, the same ones each time."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_PER_PAIR = 3  # two classes that are confused show their likeness in a few; the other places are for other pairs
_LEAST_OF_A_PAIR = 2  # one error is an accident, and `wrong` is the place for it


class Choice(NamedTuple):
    """Positions of examples; none stands in two of them."""

    correct: tuple[int, ...]  # one half the surest, of as many classes as fit; then the least sure, the least first
    wrong: tuple[int, ...]  # the surest first
    confused: tuple[int, ...]  # pair by pair of (truth, prediction), the most frequent first; the surest of each first


def choose(
    labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64], ids: Sequence[str], *, limit: int
) -> Choice:
    """Chooses at most `limit` of each kind.

    What is equally sure is taken in the order of its id, so that the order examples are stored in decides nothing.
    Examples whose probabilities are no numbers, of a model that diverged, are left out.

    Args:
      labels: int64 [n], the truth.
      probabilities: [n, classes].
      ids: n different texts.
    """
    predicted = probabilities.argmax(axis=-1)
    confidence = probabilities.max(axis=-1)
    numbers = np.flatnonzero(np.isfinite(probabilities).all(axis=-1))
    surest_first = sorted(numbers.tolist(), key=lambda number: (-confidence[number], ids[number]))
    right = [number for number in surest_first if predicted[number] == labels[number]]
    errors = [number for number in surest_first if predicted[number] != labels[number]]
    least_sure = right[::-1][: limit // 2]
    chosen = set(least_sure)
    surest = _spread([number for number in right if number not in chosen], labels)[: limit - limit // 2]
    wrong = errors[:limit]
    confused = _of_pairs(errors, wrong, labels, predicted, limit=limit)
    return Choice((*surest, *least_sure), tuple(wrong), tuple(confused))


def _spread(numbers: Sequence[int], labels: npt.NDArray[np.int64]) -> list[int]:
    """The first of each class, then the second of each, and so on: the surest are often all of one class."""
    seen: collections.Counter[int] = collections.Counter()
    rounds: list[tuple[int, int]] = []
    for number in numbers:
        rounds.append((seen[int(labels[number])], number))
        seen[int(labels[number])] += 1
    return [number for _, number in sorted(rounds, key=lambda entry: entry[0])]  # stable: the surest stay first


def _of_pairs(
    errors: Sequence[int],
    shown: Iterable[int],
    labels: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    *,
    limit: int,
) -> list[int]:
    """The surest errors of the pairs that are confused most, without those that are shown already."""
    pairs: dict[tuple[int, int], list[int]] = collections.defaultdict(list)
    for number in errors:
        pairs[int(labels[number]), int(predicted[number])].append(number)
    taken = set(shown)
    found: list[int] = []
    for _, members in sorted(pairs.items(), key=lambda entry: (-len(entry[1]), entry[0])):
        if len(members) >= _LEAST_OF_A_PAIR:
            found += [number for number in members if number not in taken][:_PER_PAIR]
    return found[:limit]
