"""A model of floats and its right answers in; the smallest integer form whose accuracy is within the budget out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# From the smallest and fastest to the safest; the last is taken without asking.
FALLBACKS = ("int8", "int16", "float16")


class Chosen(NamedTuple):
    kind: str  # one of `FALLBACKS`
    content: bytes
    tried: tuple[dict[str, Any], ...]  # of each kind in order: what it loses, and what came of it

    @property
    def note(self) -> str:
        """In words, what a person has to know; empty where int8 is within the budget."""
        if self.kind == FALLBACKS[0]:
            return ""
        lost = "; ".join(f"{each['kind']} {_result(each)}" for each in self.tried[:-1])
        return f"{lost}: {self.kind} instead"


def choose(
    convert: Callable[[str], bytes],
    answer: Callable[[bytes], npt.NDArray[np.floating[Any]]],
    *,
    probabilities: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.int64],
    budget: float,
) -> Chosen:
    """Tries one kind after the other.

    The budget is on right answers lost: among examples whose two likeliest classes are close, some decisions turn by
    any rounding, as many to the better as to the worse, and those cost nothing. How many turn is counted beside it.

    Args:
      convert: a kind of `FALLBACKS` to the file's content.
      answer: that to probabilities [n, classes] of the examples.
      probabilities: the trainer's of the same, and `labels` the truth, both [n].
      budget: accuracy that may be lost, in points of 100.
    """
    before = probabilities.argmax(axis=1)
    tried: list[dict[str, Any]] = []
    for kind in FALLBACKS:
        try:
            content = convert(kind)
        except Exception as error:  # the converter raises many types where a kernel is missing
            if kind == FALLBACKS[-1]:
                raise
            tried.append({"kind": kind, "error": str(error).strip().splitlines()[-1]})
            continue
        after = answer(content).argmax(axis=1)
        lost = 100 * int(np.sum(before == labels) - np.sum(after == labels)) / len(labels)
        flipped = 100 * float(np.mean(before != after))
        tried.append({"kind": kind, "examples": len(labels), "points_lost": lost, "decisions_turned": flipped})
        if lost <= budget or kind == FALLBACKS[-1]:
            break
    chosen = Chosen(kind, content, tuple(tried))
    if chosen.note:
        logging.warning("tflite_int8: over the budget of %g points: %s", budget, chosen.note)
    return chosen


def _result(tried: dict[str, Any]) -> str:
    return f"can't be made ({tried['error']})" if "error" in tried else f"loses {tried['points_lost']:.2f} points"
