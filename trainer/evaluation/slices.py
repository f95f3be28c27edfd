"""A column of values and which answers are right in; the accuracy on each part of the values out."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from trainer.evaluation import intervals

# Sizes, light and the user's groups: what photos differ by for reasons that have nothing to do with their class.
DEFAULT_COLUMNS = ("shorter_side", "bytes", "brightness", "key")
_NUMERIC_PARTS = 4  # quartiles: each a quarter of the examples, so no interval is much wider than the others
_TEXTS = 10  # of the most frequent values
_MIN_EXAMPLES = 10  # of a text's own slice: with fewer, the interval covers half of all accuracies
REST, UNKNOWN, EMPTY = "(others)", "(unknown)", "(none)"


class Slice(NamedTuple):
    column: str
    value: str  # a text, or of numbers the smallest and the largest
    examples: int
    accuracy: float
    interval: tuple[float, float]  # see `intervals.of_share`


def choose(asked: Sequence[str], available: Sequence[str], data: str) -> tuple[str, ...]:
    """The columns to slice by: those asked for, or without any those of `DEFAULT_COLUMNS` that there are.

    Raises:
      InputError: where one is asked for that the dataset's ledger doesn't have.
    """
    for name in asked:
        if not available:
            raise InputError(
                f"--slice={name}: {data} has no ledger-*.jsonl to slice by: copy it there, or leave --slice"
            )
        if name not in available:
            raise InputError(f"--slice={name}: the ledger of {data} has the columns {', '.join(available)}")
    return tuple(dict.fromkeys(asked)) or tuple(name for name in DEFAULT_COLUMNS if name in available)


def summarize(
    columns: Sequence[str],
    rows: Mapping[str, Sequence[Any]],
    ids: Sequence[str],
    correct: npt.NDArray[np.bool_],
    groups: Sequence[str],
    *,
    keep_single: bool,
) -> list[dict[str, Any]]:
    """The slices of each column as mappings; see `Slice`.

    Args:
      keep_single: also where a column has the same value everywhere, which says nothing unless somebody asked.
      rows: the columns' values by an example's id; an example without is in `UNKNOWN`.
      ids, correct, groups: [n] examples.
    """
    found: list[dict[str, Any]] = []
    for place, column in enumerate(columns):
        values = [rows[name][place] if name in rows else None for name in ids]
        of_one = of_column(column, values, correct, groups)
        found += [part._asdict() for part in of_one if keep_single or len(of_one) > 1]
    return found


def of_column(column: str, values: Sequence[Any], correct: npt.NDArray[np.bool_], groups: Sequence[str]) -> list[Slice]:
    """Slices without overlap that together hold every example.

    Numbers are cut at quantiles, or told apart where they take few values; texts are told apart, the most frequent
    first, with all that are rare in `REST`. What has no value is in `UNKNOWN`.

    Args:
      column: its name.
      values: [n] numbers, or texts; None where not known.
      correct: [n].
      groups: [n]; an empty one is a group of its own.
    """
    found = []
    for name, members in _parts(values):
        hits = correct[members]
        interval = intervals.of_share(hits, [groups[member] for member in members])
        found.append(Slice(column, name, len(members), int(hits.sum()) / len(members), interval))
    return found


def _parts(values: Sequence[Any]) -> list[tuple[str, list[int]]]:
    """(name, indices of the examples) of each slice."""
    numeric = all(isinstance(value, (int, float)) for value in values if value is not None)
    members: dict[Any, list[int]] = collections.defaultdict(list)
    for index, value in enumerate(values):
        members[value].append(index)
    unknown = members.pop(None, [])
    parts = _numeric(members) if numeric else _textual(members)
    return [*parts, (UNKNOWN, unknown)] if unknown else parts


def _numeric(members: Mapping[Any, list[int]]) -> list[tuple[str, list[int]]]:
    distinct = sorted(members)
    if len(distinct) <= _NUMERIC_PARTS:
        return [(f"{value:,}", members[value]) for value in distinct]
    everything = np.repeat(distinct, [len(members[value]) for value in distinct])
    cuts = np.quantile(everything, np.arange(1, _NUMERIC_PARTS) / _NUMERIC_PARTS)
    parts = collections.defaultdict(list)
    for value, place in zip(distinct, np.searchsorted(cuts, distinct).tolist(), strict=True):
        parts[place].append(value)
    return [
        (
            f"{of_part[0]:,}" if len(of_part) == 1 else f"{of_part[0]:,} to {of_part[-1]:,}",
            [index for value in of_part for index in members[value]],
        )
        for of_part in parts.values()
    ]


def _textual(members: Mapping[Any, list[int]]) -> list[tuple[str, list[int]]]:
    by_size = sorted(members, key=lambda value: (-len(members[value]), str(value)))
    shown = [value for value in by_size[:_TEXTS] if len(members[value]) >= _MIN_EXAMPLES]
    rest = [index for value in by_size[len(shown) :] for index in members[value]]
    return [*((str(value) or EMPTY, members[value]) for value in shown), *([(REST, rest)] if rest else [])]
