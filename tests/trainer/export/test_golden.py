"""The records that formats are judged by stand for all classes, are the same each time, and become cameras' files."""

from __future__ import annotations

import collections
import dataclasses
import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from pipeline import images, manifest
from pipeline.errors import InputError
from tests.pipeline import shard_files
from tests.trainer.export import tiny
from trainer.export import golden


@pytest.fixture
def dataset(tmp_path: pathlib.Path) -> tuple[str, manifest.Manifest]:
    """A split of 40 records in three shards, of which two classes have four and three."""
    written = [dataclasses.replace(shard_files.record(number), label=max(0, number - 37)) for number in range(40)]
    for number, label in ((3, 1), (4, 1), (5, 1), (6, 2), (7, 2)):
        written[number] = dataclasses.replace(written[number], label=label)
    parts = [written[:9], written[9:30], written[30:]]
    return str(tmp_path), shard_files.write(tmp_path, {"train": parts, "validation": []})


def test_classes_have_equal_shares_as_far_as_they_go(dataset: tuple[str, manifest.Manifest]) -> None:
    data, described = dataset
    for count, expected in ((6, {0: 2, 1: 2, 2: 2}), (12, {0: 4, 1: 4, 2: 3})):
        found = golden.sample(data, described, split="train", count=count, by_class=True, seed=0)
        assert collections.Counter(record.label for record in found) == expected
    everything = golden.sample(data, described, split="train", count=100, by_class=False, seed=0)
    assert len({record.id for record in everything}) == 40
    assert everything[0].image == next(
        shard_files.record(n).image for n in range(40) if shard_files.record(n).id == everything[0].id
    )


def test_another_order_of_shards_chooses_the_same(dataset: tuple[str, manifest.Manifest]) -> None:
    data, described = dataset
    split = described.splits["train"]
    turned = dataclasses.replace(split, shards=split.shards[::-1])
    other = dataclasses.replace(described, splits={"train": turned})
    chosen = [
        [record.id for record in golden.sample(data, each, split="train", count=10, by_class=by_class, seed=seed)]
        for by_class in (True, False)
        for each, seed in ((described, 0), (other, 0), (described, 1))
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    assert chosen[3] == chosen[4] != chosen[5]
    with pytest.raises(InputError, match="has no examples"):
        golden.sample(data, described, split="validation", count=10, by_class=True, seed=0)


def test_files_are_turned_in_all_ways_and_some_are_larger_than_stored() -> None:
    photos = tiny.photos(8)
    files = golden.files(photos, images.Storing(shorter_side=48))
    orientations, larger = [], 0
    for photo, file in zip(photos, files, strict=True):
        with Image.open(io.BytesIO(photo.image)) as opened:
            stored = opened.convert("RGB")
        _, upright = golden.read_by_pillow(file)
        with Image.open(io.BytesIO(file)) as opened:
            orientations.append(opened.getexif()[0x0112])
        larger += min(upright.shape[:2]) > 48
        scaled = np.asarray(Image.fromarray(upright).resize(stored.size), np.float32)
        assert np.abs(scaled - np.asarray(stored, np.float32)).mean() < 8, orientations[-1]
    assert orientations == [1, 2, 3, 4, 5, 6, 7, 8]
    assert larger == 4
