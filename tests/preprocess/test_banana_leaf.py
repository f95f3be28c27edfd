"""937 real photos from a public collection, with its duplicates, contradictions, turned and malformed files."""

from __future__ import annotations

import collections
import hashlib
import io
import json
import pathlib
import tarfile
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import manifest, records
from preprocess.__main__ import main

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def folders(shared: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("photos")
    with tarfile.open(shared / "data/banana-leaf.tar") as archive:
        archive.extractall(root, filter="data")
    return root / "banana-leaf" if (root / "banana-leaf").is_dir() else root


@pytest.fixture(scope="module")
def dataset(folders: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    output = tmp_path_factory.mktemp("out")
    assert main(["preprocess", f"--input={folders}", f"--output={output}", "--name=leaves"]) == 0
    return output / "leaves/1.0.0"


@pytest.fixture(scope="module")
def ledger(dataset: pathlib.Path) -> dict[str, dict[str, Any]]:
    (part,) = dataset.glob("ledger-*")
    return {row["file"]: row for row in map(json.loads, part.read_text().splitlines())}


@pytest.fixture(scope="module")
def stored(dataset: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    tf = pytest.importorskip("tensorflow")
    return {
        split: [
            {name: tensor.numpy() for name, tensor in records.parse(serialized).items()}
            for serialized in tf.data.TFRecordDataset(sorted(map(str, dataset.glob(f"leaves-{split}.tfrecord-*"))))
        ]
        for split in SPLITS
    }


def test_every_file_is_in_the_ledger_and_equal_bytes_are_found(
    folders: pathlib.Path, dataset: pathlib.Path, ledger: dict[str, dict[str, Any]]
) -> None:
    by_bytes: dict[str, list[str]] = collections.defaultdict(list)
    for path in sorted(folders.rglob("*.*")):
        by_bytes[hashlib.sha256(path.read_bytes()).hexdigest()].append(str(path.relative_to(folders)))
    expected = {}
    for files in by_bytes.values():
        conflict = len({file.split("/")[0] for file in files}) > 1
        for position, file in enumerate(files):
            expected[file] = "quarantined" if conflict else "duplicate" if position else "written"
    assert {file: row["status"] for file, row in ledger.items()} == expected
    assert {file for file, row in ledger.items() if row["reason"] == "conflicting_labels"} == {
        "healthy/122.jpeg",
        "pestalotiopsis/78.jpeg",
    }
    totals = manifest.load(str(dataset)).ledger
    assert [totals[key] for key in ("seen", "written", "quarantined", "duplicates")] == [937, 897, 2, 38]


def test_no_image_stands_twice_or_in_two_splits(stored: dict[str, list[dict[str, Any]]]) -> None:
    ids = [row["id"] for split in SPLITS for row in stored[split]]
    assert len(ids) == len(set(ids)) == 897
    images = [hashlib.sha256(row["image"]).hexdigest() for split in SPLITS for row in stored[split]]
    assert len(set(images)) == 897


def test_every_stored_image_decodes_with_tensorflow(
    dataset: pathlib.Path, ledger: dict[str, dict[str, Any]], stored: dict[str, list[dict[str, Any]]]
) -> None:
    tf = pytest.importorskip("tensorflow")
    loaded = manifest.load(str(dataset))
    for split in SPLITS:
        pixels = 0
        for row in stored[split]:
            facts = ledger[row["file"].decode()]
            image = tf.io.decode_image(row["image"])
            assert image.shape == (facts["height"], facts["width"], 3)
            assert loaded.classes[row["label"]] == facts["class"]
            assert facts["split"] == split
            pixels += facts["width"] * facts["height"]
        assert loaded.statistics["pixels"][split] == pixels
        assert loaded.split(split).examples == len(stored[split])
        assert loaded.class_counts(split) == [
            sum(row["label"] == label for row in stored[split]) for label in range(len(loaded.classes))
        ]


def test_each_class_is_split_exactly(dataset: pathlib.Path) -> None:
    loaded = manifest.load(str(dataset))
    assert loaded.classes == ("cordana", "healthy", "pestalotiopsis", "sigatoka")
    # 162, 90, 172 and 473 usable images by largest remainder.
    assert {split: loaded.class_counts(split) for split in SPLITS} == {
        "train": [130, 72, 138, 379],
        "validation": [16, 9, 17, 47],
        "test": [16, 9, 17, 47],
    }


def test_photos_that_a_camera_turned_are_stored_upright(
    folders: pathlib.Path, ledger: dict[str, dict[str, Any]], stored: dict[str, list[dict[str, Any]]]
) -> None:
    turns = {3: 2, 6: -1, 8: 1}  # quarter turns against the clock that undo each orientation
    turned = {}
    for path in folders.rglob("*.jpeg"):
        orientation = Image.open(path).getexif().get(0x0112)
        if orientation in turns:
            turned[str(path.relative_to(folders))] = np.rot90(np.asarray(Image.open(path)), turns[orientation])
    assert len(turned) == 6
    by_file = {row["file"].decode(): row["image"] for split in SPLITS for row in stored[split]}
    assert set(turned) <= set(by_file)
    for file, expected in turned.items():
        image = Image.open(io.BytesIO(by_file[file]))
        assert image.getexif().get(0x0112) is None
        assert np.abs(np.asarray(image).astype(int) - expected).mean() < 3
        assert ledger[file]["detail"] == "encoded again"
    assert {file for file, row in ledger.items() if row["detail"] == "encoded again"} == set(turned)


@pytest.mark.parametrize("file", ["sigatoka/452.jpeg", "sigatoka/470.jpeg"])
def test_malformed_mpo_files_are_kept_since_both_decoders_read_them(
    folders: pathlib.Path, ledger: dict[str, dict[str, Any]], file: str
) -> None:
    tf = pytest.importorskip("tensorflow")
    with pytest.warns(UserWarning, match="malformed MPO"):
        width, height = Image.open(folders / file).size
    assert tf.io.decode_image((folders / file).read_bytes()).shape == (height, width, 3)
    assert ledger[file]["status"] == "written"
