"""Facts about written images in, sums that describe each split and class out: for the manifest, the report and drift.

Everything summed is an integer, so the sums are equal to the last digit however the images were divided among workers,
and so is what is computed from them. Their size depends on splits and classes, not on images.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

# What follows are the bounds between bins: the first bin is everything below the first bound, the last one everything
# from the last bound on, so that any later image falls into one. They are fixed, since drift compares bin by bin.
#
# Half octaves, on the sizes that models are trained at, so that the share of images below such a size can be read off.
SHORTER_SIDE_PX = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
# Width by height. The bounds lie between the usual formats (1:1, 5:4, 4:3 and 3:2, 16:9, 2:1, panoramas), so that a
# pixel more or less moves no image, and a turned image falls into the mirrored bin.
_LONG_BY_SHORT_PERCENT = (110, 130, 155, 185, 250, 400)
ASPECT_RATIO = tuple(
    [round(100 / bound, 4) for bound in reversed(_LONG_BY_SHORT_PERCENT)]
    + [bound / 100 for bound in _LONG_BY_SHORT_PERCENT]
)
# Octaves from 1 KiB to 64 MiB: files differ by factors.
FILE_BYTES = tuple(2**exponent for exponent in range(10, 27))
# Sixteen equal parts of 0..255.
BRIGHTNESS = tuple(range(16, 256, 16))


class ImageFacts(Protocol):
    """Sizes are those of the upright source image."""

    @property
    def class_name(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def channels(self) -> Sequence[int]: ...  # 6 uint8: mean R, G, B, then standard deviation R, G, B


@dataclasses.dataclass(frozen=True)
class SplitSums:
    """Histograms hold images per bin and have one bin more than their list has bounds."""

    images: int
    bytes: int
    pixels: int
    shorter_side: tuple[int, ...]
    aspect_ratio: tuple[int, ...]
    file_bytes: tuple[int, ...]
    brightness: tuple[int, ...]
    means: tuple[int, ...]  # per channel, the sum of the images' means
    squares: tuple[int, ...]  # per channel, the sum of mean² + standard deviation², an image's mean square


@dataclasses.dataclass(frozen=True)
class ClassSums:
    images: int
    bytes: int
    brightness: int  # the sum of the images' own, 0..255 each


@dataclasses.dataclass(frozen=True)
class Statistics:
    """A class has three numbers per split and no histograms: with 1,000 classes those would outgrow the manifest."""

    splits: Mapping[str, SplitSums]
    classes: Mapping[tuple[str, str], ClassSums]  # (split, class)


def summarize(images: Iterable[tuple[str, ImageFacts]]) -> Statistics:
    """Takes (split, facts) of written images, any number at once."""
    splits: dict[str, list[list[int]]] = {}
    classes: dict[tuple[str, str], list[int]] = {}
    for split, facts in images:
        red, green, blue = facts.channels[:3]
        brightness = (299 * red + 587 * green + 114 * blue) // 1000  # luma, ITU-R BT.601-7, section 2.5.1
        if (sums := splits.get(split)) is None:
            sums = splits[split] = [[0] * size for size in _SIZES]
        scalars, shorter_side, aspect_ratio, file_bytes, brightnesses, means, squares = sums
        for place, value in enumerate((1, facts.size_bytes, facts.width * facts.height)):
            scalars[place] += value
        shorter_side[bisect.bisect_right(SHORTER_SIDE_PX, min(facts.width, facts.height))] += 1
        aspect_ratio[_aspect_bin(facts.width, facts.height)] += 1
        file_bytes[bisect.bisect_right(FILE_BYTES, facts.size_bytes)] += 1
        brightnesses[brightness // 16] += 1
        for channel in range(3):
            mean, deviation = facts.channels[channel], facts.channels[channel + 3]
            means[channel] += mean
            squares[channel] += mean * mean + deviation * deviation
        of_class = classes.setdefault((split, facts.class_name), [0, 0, 0])
        for place, value in enumerate((1, facts.size_bytes, brightness)):
            of_class[place] += value
    return Statistics(
        {
            split: SplitSums(images, size, pixels, *map(tuple, lists))
            for split, ((images, size, pixels), *lists) in splits.items()
        },
        {key: ClassSums(*of_class) for key, of_class in classes.items()},
    )


def merge(parts: Iterable[Statistics]) -> Statistics:
    """Any grouping and order of the same images gives the same sums; of nothing, the empty ones."""
    splits: dict[str, SplitSums] = {}
    classes: dict[tuple[str, str], ClassSums] = {}
    for part in parts:
        for split, split_sums in part.splits.items():
            splits[split] = _add(splits[split], split_sums) if split in splits else split_sums
        for key, class_sums in part.classes.items():
            classes[key] = _add(classes[key], class_sums) if key in classes else class_sums
    return Statistics(splits, classes)


def to_json(sums: Statistics, splits: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """What the manifest says, in the order of `splits` and `classes`, absent ones as zeros.

    `channels` pools the images with equal weight, whatever their sizes: with mean m_i and standard deviation s_i of
    image i of n, the mean is M = sum(m_i) / n and the standard deviation sqrt(sum(m_i² + s_i²) / n - M²), the law of
    total variance. Both are in 0..255 and None for a split without images.
    """
    of_split = {name: sums.splits.get(name, _EMPTY) for name in splits}
    of_class = {
        name: [sums.classes[split, name] for split in splits if (split, name) in sums.classes] for name in classes
    }

    def histogram(name: str, bounds: Sequence[float]) -> dict[str, Any]:
        return {"bounds": list(bounds), "images": {split: list(getattr(one, name)) for split, one in of_split.items()}}

    return {
        "examples_by_class": {
            split: {name: sums.classes.get((split, name), ClassSums(0, 0, 0)).images for name in classes}
            for split in splits
        },
        "source_bytes": {split: one.bytes for split, one in of_split.items()},
        "source_pixels": {split: one.pixels for split, one in of_split.items()},
        "shorter_side": histogram("shorter_side", SHORTER_SIDE_PX),
        "aspect_ratio": histogram("aspect_ratio", ASPECT_RATIO),
        "file_bytes": histogram("file_bytes", FILE_BYTES),
        "brightness": histogram("brightness", BRIGHTNESS),
        "channels": {split: _channels(one) for split, one in of_split.items()},
        "by_class": {
            name: {
                "source_bytes": sum(one.bytes for one in parts),
                "brightness": _ratio(sum(one.brightness for one in parts), sum(one.images for one in parts)),
            }
            for name, parts in of_class.items()
        },
    }


def _aspect_bin(width: int, height: int) -> int:
    steps = bisect.bisect_right(_LONG_BY_SHORT_PERCENT, 100 * max(width, height) // min(width, height))
    return len(_LONG_BY_SHORT_PERCENT) + (steps if width >= height else -steps)


def _channels(sums: SplitSums) -> dict[str, Any]:
    n = sums.images
    if not n:
        return {"mean": None, "std": None}
    # n² times the variance, exactly; it cannot be negative (Cauchy-Schwarz).
    spreads = [n * square - mean * mean for mean, square in zip(sums.means, sums.squares, strict=True)]
    return {"mean": [_ratio(mean, n) for mean in sums.means], "std": [round(math.sqrt(one) / n, 2) for one in spreads]}


def _ratio(total: int, count: int) -> float | None:
    return round(total / count, 2) if count else None


_SIZES = (3, len(SHORTER_SIDE_PX) + 1, len(ASPECT_RATIO) + 1, len(FILE_BYTES) + 1, len(BRIGHTNESS) + 1, 3, 3)
_EMPTY = SplitSums(0, 0, 0, *((0,) * size for size in _SIZES[1:]))


def _add(one: Any, other: Any) -> Any:
    """Field by field, of two summaries of the same type."""
    values = []
    for field in dataclasses.fields(one):
        first, second = getattr(one, field.name), getattr(other, field.name)
        values.append(first + second if isinstance(first, int) else tuple(map(int.__add__, first, second)))
    return type(one)(*values)
