"""A matplotlib figure in, an SVG picture for a page out; and the look that all pictures of a report share."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

INK, QUIET, RULE, ACCENT = "#1b1f24", "#4a5159", "#c3cad1", "#0b4f8a"  # as in the page's style sheet
# Lines are told apart by their pattern as well, for print and for who sees no colours.
LINES = (("#0b4f8a", "-"), ("#b3471b", "--"), ("#2b7a4b", "-."), ("#7a3f9d", ":"), ("#7d6608", (0, (5, 1, 1, 1, 1, 1))))

WIDTH_INCH = 4.2  # two pictures beside each other on a desk; on a phone letters of 9 points keep 8 of them
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "font.sans-serif": ["DejaVu Sans"],  # all others by name, at each word, would be a third of a picture
    "axes.titlesize": 9,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "shardline",
}


class Picture(NamedTuple):
    uri: str  # data:image/svg+xml;base64,…
    width_px: int
    height_px: int
    alt: str  # what it shows, in words


def style() -> AbstractContextManager[None]:
    """The settings that figures are made and drawn under."""
    return matplotlib.rc_context(_STYLE)


def diagram(height_inch: float) -> tuple[Figure, Axes]:
    """A figure with one empty diagram; call it under `style()`."""
    figure = Figure(figsize=(WIDTH_INCH, height_inch), layout="constrained")
    return figure, figure.subplots()


def shares(*sides: Axis) -> None:
    """Gives axes, as `axes.xaxis`, marks from 0 to 100 %."""
    for side in sides:
        side.set_ticks([0, 0.2, 0.4, 0.6, 0.8, 1], labels=["0", "20 %", "40 %", "60 %", "80 %", "100 %"])


def luminance(rgb: Sequence[float]) -> float:
    """Relative luminance, 0 to 1, of sRGB in 0..1: https://www.w3.org/TR/WCAG21/#dfn-relative-luminance."""
    red, green, blue = (value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def label(name: str, *, most: int = 24) -> str:
    """A name that fits into a picture, of at most `most` characters; what XML forbids or cannot be seen is replaced."""
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in name)
    return shown if len(shown) <= most else f"{shown[: most // 2]}…{shown[-((most - 1) // 2) :]}"


def svg(figure: Figure, alt: str) -> Picture:
    """Text stays text, so that the reader's own fonts show scripts that matplotlib's font lacks; it warns of those."""
    stream = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # a page has no use for them
    # A fixed salt makes equal pictures equal bytes.
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(stream, format="svg", dpi=200, metadata=nothing)
    width_inch, height_inch = figure.get_size_inches()
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(f"data:image/svg+xml;base64,{data}", round(96 * width_inch), round(96 * height_inch), alt)
