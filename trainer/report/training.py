"""A run's logged history in; pictures of its curves, and a table of the same, out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.evaluation.curves import thin
from trainer.report import picture
from trainer.report.picture import Picture

_POINTS = 200  # of a line; a picture has some 350 pixels for them
_ROWS = 12  # of the table
_PANELS = (
    ("loss", {"training": "train_loss", "validation": "validation_loss"}),
    ("validation accuracy", {"": "validation_accuracy"}),
    ("learning rate", {"": "learning_rate"}),
)
_COLUMNS = ("train_loss", "validation_loss", "validation_accuracy", "learning_rate")

History = Sequence[Mapping[str, float | None]]


class Training(NamedTuple):
    pictures: list[Picture]  # one each of what was logged of loss, validation accuracy and learning rate
    columns: list[str]  # of the table, beside `step`
    rows: list[list[float | None]]  # the step, and the value of each column


def summarize(history: History) -> Training | None:
    """None where nothing can be drawn.

    Args:
      history: one mapping per logged step with any of `step`, `train_loss`, `learning_rate`, `validation_loss` and
        `validation_accuracy`.
    """
    panels = [
        (name, lines)
        for name, keys in _PANELS
        if (lines := {label: line for label, key in keys.items() if (line := _line(history, key))})
    ]
    if not panels:
        return None
    columns = [key for key in _COLUMNS if _line(history, key)]
    told = [
        row for row in history if row.get("step") is not None and any(_number(row, key) is not None for key in columns)
    ]
    places = sorted({round(place) for place in np.linspace(0, len(told) - 1, min(_ROWS, len(told))).tolist()})
    rows = [[_number(told[place], key) for key in ("step", *columns)] for place in places]
    with picture.style():
        return Training([_panel(name, lines) for name, lines in panels], columns, rows)


def _panel(name: str, lines: Mapping[str, list[tuple[float, float]]]) -> Picture:
    figure, axes = picture.diagram(2.6)
    said = []
    for (label, points), (colour, pattern) in zip(lines.items(), picture.LINES, strict=False):
        steps, values = np.array(points).T
        shown = thin(_unit(steps), _unit(values), limit=_POINTS) if len(points) > _POINTS else np.arange(len(points))
        marker = "o" if len(points) < 30 else None
        axes.plot(
            steps[shown], values[shown], color=colour, linestyle=pattern, marker=marker, markersize=3, label=label
        )
        said.append(f"{label} from {values[0]:.4g} at step {steps[0]:.0f} to {values[-1]:.4g} at step {steps[-1]:.0f}")
    axes.set_title(name, loc="left")
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    if any(lines):
        axes.legend()
    if name == "validation accuracy":
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
    return picture.svg(figure, f"{name} over training steps: {'; '.join(said).strip()}.")


def _line(history: History, key: str) -> list[tuple[float, float]]:
    """(step, value) where both were logged and are finite."""
    points = [(row.get("step"), _number(row, key)) for row in history]
    return [(x, y) for x, y in points if x is not None and y is not None]


def _number(row: Mapping[str, float | None], key: str) -> float | None:
    value = row.get(key)
    return value if value is not None and math.isfinite(value) else None


def _unit(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    low, high = values.min(), values.max()
    return (values - low) / ((high - low) or 1)
