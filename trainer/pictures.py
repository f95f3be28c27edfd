"""A confusion matrix, or a batch with its labels, in; a picture for TensorBoard as PNG out."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from pipeline import sheet
from trainer import report

_DPI = 100
_TILE_PX = 160  # small images are enlarged to about this, so that a label fits above them
_SHEET_PX = 1600  # wider sheets are scaled down: nobody scrolls through more
_CAPTION_PX = 20
_GAP_PX = 8
_COMPRESS_LEVEL = 2  # the default takes twice as long for files that are no smaller


class Picture(NamedTuple):
    png: bytes
    width_px: int
    height_px: int


def confusion(counts: npt.NDArray[np.int64], classes: Sequence[str], *, title: str) -> Picture:
    """Rows are true classes and add up to 100 %; `counts` is int64 [classes, classes], truth in rows.

    Up to 50 classes each cell says its share in per cent; with more, colour alone speaks.
    """
    figure = report.matrix_figure(counts, classes, percent=True)
    figure.suptitle(title, fontsize=10, parse_math=False)
    return _png(figure)


def samples(images: npt.NDArray[np.uint8], labels: npt.NDArray[Any], classes: Sequence[str]) -> Picture:
    """A sheet of training images as the model gets them, each below its label.

    Args:
      images: uint8 [n, size, size, 3].
      labels: int64 [n], or float32 [n, classes] where images are mixed (`cat 70%, dog 30%`).
    """
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    size = images.shape[1]
    tile = size * max(1, round(_TILE_PX / size))
    tile = min(tile, _SHEET_PX // columns)
    width, height = columns * (tile + _GAP_PX) + _GAP_PX, rows * (tile + _CAPTION_PX + _GAP_PX)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    canvas = np.full([height, width, 3], 255, np.uint8)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        left = _GAP_PX + index % columns * (tile + _GAP_PX)
        top = index // columns * (tile + _CAPTION_PX + _GAP_PX) + _CAPTION_PX
        canvas[top : top + tile, left : left + tile] = _resized(image, tile)
        caption = _shortened(sheet.describe(np.asarray(label), classes), characters=max(3, tile // 6))
        figure.text(left / width, 1 - (top - 5) / height, caption, fontsize=7, va="baseline", parse_math=False)
    figure.figimage(canvas, zorder=-1)
    return _png(figure)


def _resized(image: npt.NDArray[np.uint8], side_px: int) -> npt.NDArray[np.uint8]:
    if side_px == image.shape[0]:
        return image
    # Enlarged pixels stay pixels: smoothing would look like augmentation.
    how = Image.Resampling.NEAREST if side_px > image.shape[0] else Image.Resampling.BOX
    return np.asarray(Image.fromarray(image).resize((side_px, side_px), how))


def _shortened(text: str, *, characters: int) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def _png(figure: Figure) -> Picture:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # matplotlib's font lacks some scripts
        figure.savefig(stream, format="png", dpi=_DPI, pil_kwargs={"compress_level": _COMPRESS_LEVEL})
    with Image.open(stream) as image:
        return Picture(stream.getvalue(), *image.size)
