"""A confusion matrix in; a figure of it, and pictures of its counts and of its shares, out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from trainer.report import picture
from trainer.report.picture import Picture, luminance

NAMED_CLASSES = 60  # more names on an axis overlap; indices take their place
COUNTED_CLASSES = 20  # with more, the counts inside the picture's cells are too small to read
_PERCENT_CLASSES = 50  # per cent are shorter
_MOST_INCH = 12.0  # with numbers in the cells, which need it
_MOST_UNWRITTEN_INCH = 8.5  # as wide as the page, with its bar


def pictures(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> list[Picture]:
    """Shares of the rows, and beside them counts where these can be read."""
    correct, total = sum(row[i] for i, row in enumerate(confusion)), sum(map(sum, confusion))
    alt = f"Confusion matrix of {len(classes)} classes. {correct:,} of {total:,} images are on the diagonal, so right."
    drawn = []
    with picture.style():
        for percent in (False, True) if len(classes) <= COUNTED_CLASSES else (True,):
            unit = "per cent of the true class" if percent else "images"
            figure = matrix_figure(confusion, classes, percent=percent)
            figure.axes[0].set_title(f"In {unit}", loc="left")
            drawn.append(picture.svg(figure, f"{alt} Numbers are {unit}."))
    return drawn


def matrix_figure(
    confusion: Sequence[Sequence[int]] | npt.NDArray[np.int64], classes: Sequence[str], *, percent: bool = False
) -> Figure:
    """The confusion matrix for 2 to 1,000 classes; colour is the share of the row, so rare classes are seen as well.

    Args:
      percent: the cells say that share too, instead of their count; two digits fit where a count doesn't.
    """
    counts = np.asarray(confusion, dtype=np.int64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labels = [picture.label(name) for name in classes]
    written = len(classes) <= (_PERCENT_CLASSES if percent else COUNTED_CLASSES)
    most = _MOST_INCH if written else _MOST_UNWRITTEN_INCH
    margin_inch = 0.6 + (0.075 * max(map(len, labels)) if len(classes) <= NAMED_CLASSES else 0.5)
    side_inch = min(margin_inch + max(1.8, 0.33 * min(len(classes), 20) + 0.15 * max(0, len(classes) - 20)), most)
    figure = Figure(figsize=(side_inch + (0 if written else 1), side_inch), layout="constrained")
    axes = figure.subplots()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    # The square root lifts the few per cent of a typical confusion out of the white.
    # "none" leaves the enlarging to whoever shows an SVG: a cell is a pixel of the file, which keeps it small.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1), interpolation="none")
    if written:
        grounds = [luminance(colour[:3]) for colour in image.to_rgba(shares).reshape(-1, 4).tolist()]
        _write_cells(axes, counts, np.reshape(grounds, counts.shape), percent=percent)
    else:
        bar = figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class's images")
        bar.set_ticks([0, 0.01, 0.1, 0.25, 0.5, 1], labels=["0", "1 %", "10 %", "25 %", "50 %", "100 %"])
    if len(classes) <= NAMED_CLASSES:
        upright = max(map(len, labels)) <= 3
        size = 9 if len(classes) <= 40 else 7
        axes.set_xticks(range(len(classes)), labels, rotation=0 if upright else 90, fontsize=size, parse_math=False)
        axes.set_yticks(range(len(classes)), labels, fontsize=size, parse_math=False)
    note = "" if len(classes) <= NAMED_CLASSES else " (its number in the table of classes)"
    axes.set_xlabel(f"predicted class{note}")
    axes.set_ylabel(f"true class{note}")
    return figure


def _write_cells(axes: Axes, counts: npt.NDArray[np.int64], grounds: npt.NDArray[np.float64], *, percent: bool) -> None:
    size = 8 if len(counts) <= COUNTED_CLASSES else 6
    totals = counts.sum(axis=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            share = count / totals[row]
            text = f"{count}" if not percent else "<1" if share < 0.005 else f"{100 * share:.0f}"
            # Where black and white have the same contrast, 4.58.
            colour = "black" if grounds[row, column] > 0.179 else "white"
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
