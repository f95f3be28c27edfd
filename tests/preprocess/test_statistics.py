"""Sums over images: against numpy on the pixels themselves, and equal however the images were divided."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_sample_images

from preprocess import statistics


@dataclasses.dataclass(frozen=True)
class Facts:
    class_name: str = "ant"
    size_bytes: int = 1000
    width: int = 100
    height: int = 100
    channels: Sequence[int] = (0, 0, 0, 0, 0, 0)


IMAGES = st.lists(
    st.tuples(
        st.sampled_from(["train", "test"]),
        st.builds(
            Facts,
            class_name=st.sampled_from(["ant", "bee"]),
            size_bytes=st.integers(1, 2**31),
            width=st.integers(1, 20_000),
            height=st.integers(1, 20_000),
            channels=st.binary(min_size=6, max_size=6),
        ),
    ),
    max_size=30,
)


def described(images: Sequence[Facts]) -> dict[str, Any]:
    return statistics.to_json(statistics.summarize(("train", one) for one in images), ["train"], ["ant"])


def bins(name: str, images: Sequence[Facts]) -> dict[str, int]:
    """Images per bin that holds any, called by its bounds."""
    found = described(images)[name]
    bounds = ["-", *map(str, found["bounds"]), "-"]
    counts = found["images"]["train"]
    assert len(counts) == len(bounds) - 1
    return {f"{bounds[i]}..{bounds[i + 1]}": count for i, count in enumerate(counts) if count}


def test_pooled_channels_are_those_of_all_pixels_together() -> None:
    """Tiles of one size: then every pixel weighs the same, and numpy over all of them is the second implementation."""
    photos = [photo[:400, :600].reshape(4, 100, 6, 100, 3) for photo in load_sample_images().images]
    tiles = np.concatenate([photo.transpose(0, 2, 1, 3, 4).reshape(24, 100 * 100, 3) for photo in photos])
    images = [Facts(channels=bytes(np.concatenate([t.mean(0), t.std(0)]).round().astype(np.uint8))) for t in tiles]
    pixels = tiles.reshape(-1, 3)
    channels = described(images)["channels"]["train"]
    # Half a level is what rounding each image's own to a byte may cost.
    np.testing.assert_allclose(channels["mean"], pixels.mean(axis=0), atol=0.5)
    np.testing.assert_allclose(channels["std"], pixels.std(axis=0), atol=0.5)
    assert pixels.std(axis=0).min() > 1.2 * tiles.std(axis=1).mean(axis=0).min()  # the spread between images counts


def test_pooled_channels_by_hand() -> None:
    found = described([Facts(channels=(10, 0, 255, 3, 0, 0)), Facts(channels=(20, 0, 255, 4, 0, 0))])
    # Red: mean 15; (10² + 3² + 20² + 4²) / 2 - 15² = 262.5 - 225 = 37.5, and its root is 6.12.
    assert found["channels"] == {"train": {"mean": [15, 0, 255], "std": [6.12, 0, 0]}}


def test_images_fall_into_the_bins_that_the_bounds_say() -> None:
    sides = [Facts(width=width, height=height) for width, height in ((15, 9000), (16, 16), (300, 224), (9000, 5000))]
    assert bins("shorter_side", sides) == {"-..16": 1, "16..32": 1, "192..256": 1, "4096..-": 1}
    sizes = [Facts(size_bytes=size) for size in (1, 1023, 1024, 2047, 2**26 - 1, 2**26)]
    assert bins("file_bytes", sizes) == {"-..1024": 2, "1024..2048": 2, "33554432..67108864": 1, "67108864..-": 1}
    # Luma weights 0.299, 0.587, 0.114: pure green is 149 and blue 29.
    colours = [Facts(channels=(*rgb, 0, 0, 0)) for rgb in ((0, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255))]
    assert bins("brightness", colours) == {"-..16": 1, "144..160": 1, "16..32": 1, "240..-": 1}


def test_usual_formats_have_their_own_bins_and_turned_images_the_mirrored_ones() -> None:
    formats = {
        (1000, 1000): ("0.9091..1.1", "0.9091..1.1"),
        (1280, 1024): ("1.1..1.3", "0.7692..0.9091"),
        (640, 480): ("1.3..1.55", "0.6452..0.7692"),
        (3000, 2000): ("1.3..1.55", "0.6452..0.7692"),
        (1920, 1080): ("1.55..1.85", "0.5405..0.6452"),
        (2000, 1000): ("1.85..2.5", "0.4..0.5405"),
        (3000, 1000): ("2.5..4.0", "0.25..0.4"),
        (9000, 10): ("4.0..-", "-..0.25"),
    }
    for (long, short), (lying, standing) in formats.items():
        for pixel in (-1, 0, 1):
            assert bins("aspect_ratio", [Facts(width=long + pixel, height=short)]) == {lying: 1}
            assert bins("aspect_ratio", [Facts(width=short, height=long + pixel)]) == {standing: 1}


def test_counts_per_class_and_split_and_zeros_where_there_is_nothing() -> None:
    ant, bee = Facts("ant", 10, 4, 5, (255,) * 6), Facts("bee", 7, 2, 3, (1,) * 6)
    sums = statistics.summarize([("train", ant), ("test", ant), ("train", ant), ("train", bee)])
    found = statistics.to_json(sums, ["train", "validation", "test"], ["ant", "bee", "cat"])
    assert found["examples_by_class"] == {
        "train": {"ant": 2, "bee": 1, "cat": 0},
        "validation": {"ant": 0, "bee": 0, "cat": 0},
        "test": {"ant": 1, "bee": 0, "cat": 0},
    }
    assert found["source_bytes"] == {"train": 27, "validation": 0, "test": 10}
    assert found["source_pixels"] == {"train": 46, "validation": 0, "test": 20}
    assert found["by_class"] == {
        "ant": {"source_bytes": 30, "brightness": 255},
        "bee": {"source_bytes": 7, "brightness": 1},
        "cat": {"source_bytes": 0, "brightness": None},
    }
    assert found["channels"]["validation"] == {"mean": None, "std": None}
    assert sum(found["brightness"]["images"]["validation"]) == 0


@given(IMAGES, st.randoms(use_true_random=False), st.integers(1, 5))
def test_sums_do_not_depend_on_order_or_division(images: list[tuple[str, Facts]], random: Any, parts: int) -> None:
    shuffled = random.sample(images, len(images))
    sums = [statistics.summarize(shuffled[part::parts]) for part in range(parts)]
    grouped = statistics.merge([sums[0], statistics.merge([]), statistics.merge(sums[1:])])
    splits, classes = ["train", "test"], ["ant", "bee"]
    expected = json.dumps(statistics.to_json(statistics.summarize(images), splits, classes))
    assert json.dumps(statistics.to_json(grouped, splits, classes)) == expected
    for histogram in ("shorter_side", "aspect_ratio", "file_bytes", "brightness"):
        for split, counts in json.loads(expected)[histogram]["images"].items():
            assert sum(counts) == sum(name == split for name, _ in images)


def test_a_thousand_classes_stay_small() -> None:
    classes = [f"class {number}" for number in range(1000)]
    images = [(split, Facts(name)) for split in ("train", "validation", "test") for name in classes]
    found = statistics.to_json(statistics.summarize(images), ["train", "validation", "test"], classes)
    assert len(json.dumps(found, indent=1)) < 200_000


@pytest.mark.parametrize("bounds", [statistics.SHORTER_SIDE_PX, statistics.ASPECT_RATIO, statistics.FILE_BYTES])
def test_bounds_rise(bounds: Sequence[float]) -> None:
    assert list(bounds) == sorted(set(bounds))
