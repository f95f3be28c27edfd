"""Slices and robustness of metrics.json in; tables with bars, a picture, and the worst of each out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trainer.report import picture
from trainer.report.picture import Picture

_COLUMNS = {
    "shorter_side": "shorter side of the source image, pixels",
    "bytes": "size of the source file, bytes",
    "brightness": "brightness, from 0 (black) to 255 (white)",
    "key": "group",
}
_CORRUPTIONS = {
    "gaussian_noise": "noise",
    "gaussian_blur": "blur",
    "jpeg_compression": "strong JPEG compression",
    "brightness": "too much light",
}

_MUCH = 0.05  # of accuracy, lost to spoilt images that a person hardly notices


class Bar(NamedTuple):
    """An interval on the scale that all rows of a table share, in per cent of its width."""

    left: float
    width: float
    middle: float


class Row(NamedTuple):
    value: str
    examples: int
    accuracy: float
    interval: tuple[float, float]
    bar: Bar
    apart: str  # "below" or "above" where the interval doesn't hold the accuracy of all; else ""


class Slices(NamedTuple):
    columns: dict[str, list[Row]]  # by what a column is called for people
    lowest: float  # of the scale, which ends at 1
    everything: float  # the accuracy of all images on that scale, in per cent of its width


class Robustness(NamedTuple):
    severities: list[int]
    rows: dict[str, list[float | None]]  # accuracy by what a corruption is called, in the order of `severities`
    picture: Picture


def slices(found: Sequence[Mapping[str, Any]], accuracy: float) -> Slices | None:
    """None where there are none."""
    if not found:
        return None
    lowest = math.floor(10 * min(part["interval"][0] for part in found)) / 10
    lowest = min(lowest, 0.9)

    def place(share: float) -> float:
        return round(100 * (share - lowest) / (1 - lowest), 2)

    columns: dict[str, list[Row]] = {}
    for part in found:
        low, high = part["interval"]
        bar = Bar(place(low), round(place(high) - place(low), 2), place(part["accuracy"]))
        apart = "below" if high < accuracy else "above" if low > accuracy else ""
        row = Row(part["value"], part["examples"], part["accuracy"], (low, high), bar, apart)
        columns.setdefault(column_name(part["column"]), []).append(row)
    return Slices(columns, lowest, place(accuracy))


def weakest_slice(found: Sequence[Mapping[str, Any]], accuracy: float) -> Mapping[str, Any] | None:
    """The slice whose interval lies farthest below the accuracy of all; None where no interval does."""
    below = [part for part in found if part["interval"][1] < accuracy]
    return min(below, key=lambda part: part["interval"][1], default=None)


def fragile(found: Sequence[Mapping[str, Any]], accuracy: float) -> Mapping[str, Any] | None:
    """The corruption that costs the most at the mildest severity; None where none costs `_MUCH`."""
    mildest = min((part["severity"] for part in found), default=None)
    costly = [part for part in found if part["severity"] == mildest and part["accuracy"] <= accuracy - _MUCH]
    return min(costly, key=lambda part: part["accuracy"], default=None)


def column_name(column: str) -> str:
    return _COLUMNS.get(column, column)


def corruption_name(corruption: str) -> str:
    return _CORRUPTIONS.get(corruption, corruption)


def robustness(found: Sequence[Mapping[str, Any]], accuracy: float) -> Robustness | None:
    """None where it was not asked for; severity 0 is the images as they are."""
    if not found:
        return None
    severities = sorted({part["severity"] for part in found})
    by_name: dict[str, dict[int, float]] = {}
    for part in found:
        by_name.setdefault(corruption_name(part["corruption"]), {})[part["severity"]] = part["accuracy"]
    with picture.style():
        figure, axes = picture.diagram(3.4)
        for (name, values), (colour, pattern) in zip(by_name.items(), picture.LINES * len(by_name), strict=False):
            points = [(0, accuracy), *sorted(values.items())]
            axes.plot(
                *zip(*points, strict=True),
                color=colour,
                linestyle=pattern,
                marker="o",
                markersize=3,
                label=picture.label(name),
            )
        axes.set_title("Accuracy on spoilt images", loc="left")
        axes.set_xlabel("severity; 0 is the image as it is")
        axes.set_xticks([0, *severities])
        picture.shares(axes.yaxis)
        axes.set_ylim(-0.02, 1.04)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)
        worst = severities[-1]
        said = ", ".join(f"{name} {100 * values[worst]:.1f} %" for name, values in by_name.items() if worst in values)
        alt = f"Accuracy falls from {100 * accuracy:.1f} % as images get worse. At severity {worst}: {said}."
        drawn = picture.svg(figure, alt)
    return Robustness(
        severities, {name: [values.get(one) for one in severities] for name, values in by_name.items()}, drawn
    )
