"""What the model will see: a training dataset in, one HTML page with its first images and their labels out.

A page and not a picture, because class names may be in any script, and a browser brings the letters.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline import page, storage

_LEAST_SHARE = 0.005  # would be shown as 0 %
_SHOWN_CLASSES = 3  # of a mixed label, the largest first; MixUp and CutMix mix two


class Tile(NamedTuple):
    place: int  # in the global sequence of examples
    label: str
    pixels: npt.NDArray[np.uint8]  # [height, width, 3]


def steps(batches: Iterable[Sequence[Any]], classes: Sequence[str], count: int) -> Iterator[list[Tile]]:
    """The tiles of each global batch from the start of training on, `count` in all.

    Args:
      batches: (images uint8 [batch, size, size, 3], labels int64 [batch] or float32 [batch, classes], places) as
        `training.batches` gives them to a single worker.
    """
    first = 0
    for images, labels, places, *_ in batches:
        tiles = [
            Tile(int(place), describe(label, classes), image)
            for place, image, label in zip(places, np.asarray(images), np.asarray(labels), strict=True)
        ]
        yield tiles[: count - first]
        first += len(tiles)
        if first >= count:  # before the next batch is asked for
            return


def describe(label: npt.NDArray[Any], classes: Sequence[str]) -> str:
    """`cat`, or `cat 70%, dog 30%` for a mixed one.

    Args:
      label: a class's index as int64 [], or a weight for each class as float32 [classes].
    """
    if not label.ndim:
        return classes[int(label)]
    by_share = np.argsort(-label, kind="stable")
    if label[by_share[0]] == 1:
        return classes[by_share[0]]
    shares = [(float(label[index]), classes[index]) for index in by_share if label[index] >= _LEAST_SHARE]
    return ", ".join(f"{name} {share:.0%}" for share, name in shares[:_SHOWN_CLASSES])


def write(
    path: str,
    batches: Iterable[Sequence[Any]],
    *,
    classes: Sequence[str],
    count: int,
    title: str,
    settings: Mapping[str, Any],
) -> None:
    """Writes the page to `path`, every picture inside it, pixel by pixel as the model gets it."""
    shown = [
        [{"place": tile.place, "label": tile.label, "source": _source(tile.pixels)} for tile in tiles]
        for tiles in steps(batches, classes, count)
    ]
    template = page.environment("pipeline").get_template("sheet.html")
    storage.write_text(path, template.render(title=title, steps=shown, settings=list(page.flatten(settings))))


def _source(pixels: npt.NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")  # lossless: artefacts would look like augmentation
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
