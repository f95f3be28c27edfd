"""The manifest: what it accepts, what it refuses, and what makes two datasets the same."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import pytest

from pipeline import manifest
from pipeline.errors import InputError

SPLITS = {
    "train": manifest.Split(3, (manifest.Shard("a", 2, 5, "11"), manifest.Shard("b", 1, 3, "22"))),
    "test": manifest.Split(1, (manifest.Shard("c", 1, 4, "33"),)),
}
MANIFEST = manifest.Manifest(
    name="leaves",
    version="1.0.0",
    fingerprint=manifest.fingerprint(("healthy", "ill"), SPLITS),
    grown_from=None,
    classes=("healthy", "ill"),
    splits=SPLITS,
    ledger={"seen": 4, "written": 4, "quarantined": 0, "duplicates": 0},
    settings={"seed": 42},
    statistics={"examples_by_class": {"train": {"healthy": 3}, "test": {"ill": 1}}},
)


@pytest.fixture
def dataset(tmp_path: pathlib.Path) -> pathlib.Path:
    for split in SPLITS.values():
        for shard in split.shards:
            (tmp_path / shard.file).write_bytes(bytes(shard.bytes))
    (tmp_path / manifest.FILE).write_text(json.dumps(MANIFEST.to_json()))
    return tmp_path


def test_what_is_written_is_loaded_and_verified(dataset: pathlib.Path) -> None:
    loaded = manifest.load(str(dataset))
    assert loaded == MANIFEST
    manifest.verify(str(dataset), loaded, ["train", "test"])
    assert loaded.class_counts("train") == [3, 0]
    assert loaded.class_counts("test") == [0, 1]


def test_the_fingerprint_changes_with_content_and_class_order_only() -> None:
    classes = ("healthy", "ill")
    same = manifest.fingerprint(classes, dict(reversed(SPLITS.items())))
    assert same == MANIFEST.fingerprint
    assert manifest.fingerprint(classes[::-1], SPLITS) != same
    shard = manifest.Shard("c", 1, 4, "34")
    assert manifest.fingerprint(classes, {**SPLITS, "test": manifest.Split(1, (shard,))}) != same
    renamed = {"train": SPLITS["train"], "validation": SPLITS["test"]}
    assert manifest.fingerprint(classes, renamed) != same


def test_a_split_that_contradicts_its_shards_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="4 examples"):
        dataclasses.replace(SPLITS["train"], examples=4)


def test_without_a_manifest_there_is_no_dataset(dataset: pathlib.Path) -> None:
    (dataset / manifest.FILE).unlink()
    with pytest.raises(InputError, match="no finished dataset"):
        manifest.load(str(dataset))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"name": "leaves"}', json.dumps({**MANIFEST.to_json(), "x": 1})]
)
def test_a_damaged_manifest_is_named(dataset: pathlib.Path, text: str) -> None:
    (dataset / manifest.FILE).write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        manifest.load(str(dataset))


def test_missing_and_cut_shards_are_named(dataset: pathlib.Path) -> None:
    (dataset / "b").write_bytes(b"12")
    with pytest.raises(InputError, match=r"shard .*/b has 2 bytes, the manifest says 3"):
        manifest.verify(str(dataset), MANIFEST, ["test", "train"])
    (dataset / "b").unlink()
    with pytest.raises(InputError, match=r"shard .*/b is missing"):
        manifest.verify(str(dataset), MANIFEST, ["train"])
    manifest.verify(str(dataset), MANIFEST, ["test"])


def test_an_unknown_split_lists_those_there_are() -> None:
    with pytest.raises(InputError, match="'valid'; it has train, test"):
        MANIFEST.split("valid")
