"""A finished dataset's manifest and a few thumbnails in, `report.html` out: one page that needs nothing but itself."""

from __future__ import annotations

import base64
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import page
from preprocess import samples
from preprocess.inputs.source import in_usual_order
from preprocess.samples import Sample

FILE = "report.html"

_TABLE_CLASSES = 60  # a longer table of classes is folded away, and its ends are named
_ENDS = 5  # how many of the largest and of the smallest classes are named then
_PLOT_WIDTH, _PLOT_HEIGHT = 300, 84  # in the picture's own units; it scales with the page
_TICKS = 5
_SHOWN_BINS = 7  # at least
_ASPECT_NAMES = (
    *("beyond 1:4", "1:3", "1:2", "9:16", "2:3, 3:4", "4:5"),
    *("1:1", "5:4", "4:3, 3:2", "16:9", "2:1", "3:1", "beyond 4:1"),
)
_ASPECT_TICKS = {2: "1:2", 4: "2:3", 6: "1:1", 8: "3:2", 10: "2:1"}  # in the middle of their bins


@dataclasses.dataclass(frozen=True)
class Histogram:
    title: str
    note: str
    bins: Sequence[str]  # names of those between the first and the last that hold anything
    counts: Mapping[str, Sequence[int]]  # split -> images per bin
    plots: Mapping[str, Plot]


@dataclasses.dataclass(frozen=True)
class Plot:
    bars: Sequence[tuple[float, float, float, float]]  # x, y, width, height
    peak: tuple[float, float, str]  # x, y and share of the highest bar
    ticks: Sequence[tuple[float, str]]  # x and text below the axis
    summary: str  # the picture in words


@dataclasses.dataclass(frozen=True)
class Picture:
    uri: str
    sample: Sample


def render(manifest: Mapping[str, Any], shown: Sequence[Sample], advice: Mapping[str, str]) -> str:
    """The page as HTML text; equal arguments give equal text, in whatever order `shown` comes.

    Args:
      manifest: as in manifest.json, with `preprocess.statistics.to_json` in its `statistics`. `statistics["groups"]`
        (`preprocess.relations.to_json`) and `statistics["growth"]` (`kept`, `added`, `gone`) may be missing.
      shown: with thumbnails, or without where none could be made.
      advice: what to do about each reason for which files are left out, and about "duplicate".
    """
    statistics = manifest["statistics"]
    pictures = [Picture(_uri(one.thumbnail), one) for one in sorted(shown, key=_order)]
    splits = {name: manifest["splits"][name] for name in in_usual_order(manifest["splits"])}  # JSON sorts by name
    counts = {
        name: [statistics["examples_by_class"][split].get(name, 0) for split in splits] for name in manifest["classes"]
    }
    by_size = sorted(counts, key=lambda name: (-sum(counts[name]), name))
    return (
        page.environment("preprocess")
        .get_template("report.html")
        .render(
            manifest=manifest,
            statistics=statistics,
            splits=splits,
            examples=sum(split["examples"] for split in splits.values()),
            bytes={name: sum(shard["bytes"] for shard in split["shards"]) for name, split in splits.items()},
            counts=counts,
            by_size=by_size,
            folded=len(counts) > _TABLE_CLASSES,
            ends=_ENDS,
            histograms=_histograms(statistics, list(splits)),
            contacts=_grouped(pictures, samples.CONTACT, "class_name"),
            quarantined=_grouped(pictures, samples.QUARANTINED, "reason"),
            pairs=[pair for pair in _grouped(pictures, samples.PAIR, "pair").values() if len(pair) == 2],
            group_bins=_whole_bins(statistics["groups"]["sizes"]["bounds"]) if "groups" in statistics else [],
            advice=advice,
            settings=dict(sorted(page.flatten(manifest["settings"]))),
            plot_width=_PLOT_WIDTH,
            plot_height=_PLOT_HEIGHT,
        )
    )


def _order(sample: Sample) -> tuple[str, ...]:
    return sample.kind, sample.reason, sample.class_name, sample.pair, sample.file, sample.caption


def _uri(thumbnail: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(thumbnail).decode('ascii')}" if thumbnail else ""


def _grouped(pictures: Sequence[Picture], kind: str, field: str) -> dict[str, list[Picture]]:
    groups: dict[str, list[Picture]] = {}
    for picture in pictures:
        if picture.sample.kind == kind:
            groups.setdefault(getattr(picture.sample, field), []).append(picture)
    return groups


def _histograms(statistics: Mapping[str, Any], splits: Sequence[str]) -> list[Histogram]:
    found = []
    for key, title, note in (
        ("shorter_side", "Shorter side", "In pixels of the source image, upright."),
        ("aspect_ratio", "Aspect ratio", "Width by height, upright."),
        ("file_bytes", "File size", "Of the source file; each bar reaches twice as far as the one before."),
        ("brightness", "Brightness", "The mean of an image, from 0 (black) to 255 (white)."),
    ):
        bounds = statistics[key]["bounds"]
        images = {split: statistics[key]["images"][split] for split in splits}
        used = [place for place in range(len(bounds) + 1) if any(counts[place] for counts in images.values())]
        if not used:
            continue
        first, end = _range(used[0], used[-1] + 1, len(bounds) + 1)
        names = _bin_names(key, bounds)[first:end]
        ticks = _ticks(key, bounds, first, end)
        counts = {split: of_split[first:end] for split, of_split in images.items()}
        highest = max(max(_shares(of_split)) for of_split in counts.values())
        plots = {split: _plot(of_split, highest, names, ticks) for split, of_split in counts.items()}
        found.append(Histogram(title, note, names, counts, plots))
    return found


def _range(first: int, end: int, bins: int) -> tuple[int, int]:
    """Widened where few bins hold anything, so that a picture shows where on its axis they lie."""
    missing = max(0, _SHOWN_BINS - (end - first))
    first = max(0, min(first - missing // 2, bins - _SHOWN_BINS))
    return first, max(end, min(bins, first + _SHOWN_BINS))


def _plot(counts: Sequence[int], highest: float, names: Sequence[str], ticks: Sequence[tuple[float, str]]) -> Plot:
    """All splits are drawn to one scale, so that they can be compared by eye."""
    shares = _shares(counts)
    width = _PLOT_WIDTH / len(counts)
    bars = [
        (round(place * width + 1, 2), round(_PLOT_HEIGHT * (1 - share / highest), 2), round(width - 2, 2), share)
        for place, share in enumerate(shares)
    ]
    top = max(range(len(shares)), key=lambda place: shares[place])
    x, y, _, _ = bars[top]
    return Plot(
        [(left, upper, wide, round(_PLOT_HEIGHT - upper, 2)) for left, upper, wide, _ in bars],
        (min(max(x + width / 2, 16), _PLOT_WIDTH - 16), y, f"{shares[top]:.0%}"),
        [(round(place * width, 2), text) for place, text in ticks],
        f"Most images, {shares[top]:.0%}: {names[top]}." if any(shares) else "No images.",
    )


def _shares(counts: Sequence[int]) -> list[float]:
    return [count / (sum(counts) or 1) for count in counts]


def _ticks(key: str, bounds: Sequence[float], first: int, end: int) -> list[tuple[float, str]]:
    """(place in bins from the left, text)."""
    if key == "aspect_ratio":
        return [(place + 0.5 - first, text) for place, text in _ASPECT_TICKS.items() if first <= place < end]
    inner = list(range(first + 1, end))  # bound number `place - 1` is the left edge of bin `place`
    step = max(1, -(-len(inner) // _TICKS))
    return [(place - first, _bound(key, bounds[place - 1])) for place in inner[::step]]


def _bin_names(key: str, bounds: Sequence[float]) -> list[str]:
    if key == "aspect_ratio":
        return list(_ASPECT_NAMES)
    texts = [_bound(key, bound) for bound in bounds]
    between = [f"{lower} to {upper}" for lower, upper in itertools.pairwise(texts)]
    return [f"under {texts[0]}", *between, f"{texts[-1]} and more"]


def _bound(key: str, bound: float) -> str:
    if key != "file_bytes":
        return f"{bound:,.0f}"
    return f"{bound / 2**10:,.0f} KiB" if bound < 2**20 else f"{bound / 2**20:,.0f} MiB"


def _whole_bins(bounds: Sequence[int]) -> list[str]:
    starts = [2, *bounds]
    between = [
        f"{start}" if end == start + 1 else f"{start:,} to {end - 1:,}"
        for start, end in zip(starts, bounds, strict=False)
    ]
    return [*between, f"{bounds[-1]:,} and more"]
