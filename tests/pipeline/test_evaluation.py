"""Evaluation input: every example exactly once, whatever the workers and the batch, in equally many steps."""

from __future__ import annotations

import collections
import hashlib
import io
import itertools
import pathlib
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline import evaluation, records
from pipeline import manifest as manifest_lib
from pipeline.batches import Batches
from pipeline.errors import InputError
from pipeline.manifest import Manifest, Shard
from tests.pipeline import shard_files

_BUFFER = io.BytesIO()
Image.new("RGB", (40, 30), "teal").save(_BUFFER, "JPEG")
_JPEG = _BUFFER.getvalue()


def _batches(
    directory: str, manifest: Manifest, *, batch: int, worker: int = 0, num_workers: int = 1, size: int = 32
) -> Batches:
    return evaluation.batches(
        directory,
        manifest,
        split="test",
        batch=batch,
        image_size=size,
        crop_fraction=1.0,
        worker=worker,
        num_workers=num_workers,
    )


@pytest.mark.parametrize(("num_workers", "batch"), [(1, 7), (2, 64), (5, 3)])
def test_every_example_once(digits: str, num_workers: int, batch: int) -> None:
    manifest = manifest_lib.load(digits)
    labels: collections.Counter[int] = collections.Counter()
    pictures = set()
    steps = []
    for worker in range(num_workers):
        batches = list(_batches(digits, manifest, batch=batch, worker=worker, num_workers=num_workers))
        steps.append(len(batches))
        for images, batch_labels, mask in batches:
            assert images.shape == (batch, 32, 32, 3)
            labels.update(batch_labels[mask].numpy().tolist())
            pictures.update(image.numpy().tobytes() for image in images[mask])
            assert not images[~mask].numpy().any()
            assert not batch_labels[~mask].numpy().any()
    examples = manifest.split("test").examples
    assert labels == dict(enumerate(manifest.class_counts("test")))
    assert len(pictures) == examples
    assert set(steps) == {evaluation.num_steps(examples, batch=batch, num_workers=num_workers)}


def test_a_worker_without_examples_gets_padding_for_every_step(digits: str) -> None:
    manifest = manifest_lib.load(digits)
    num_workers = manifest.split("test").examples + 1
    batches = list(_batches(digits, manifest, batch=2, worker=0, num_workers=num_workers))
    assert len(batches) == 1
    assert not batches[0][2].numpy().any()
    assert batches[0][0].shape == (2, 32, 32, 3)


def test_shapes_are_known_before_anything_is_read(digits: str) -> None:
    specs = _batches(digits, manifest_lib.load(digits), batch=5).dataset.element_spec
    assert [(tuple(spec.shape), spec.dtype) for spec in specs] == [
        ((5, 32, 32, 3), tf.uint8),
        ((5,), tf.int64),
        ((5,), tf.bool),
    ]


def test_examples_keep_the_order_they_are_stored_in(digits: str) -> None:
    """Against the shards read without TensorFlow, three workers' parts one behind the other."""
    manifest = manifest_lib.load(digits)
    stored = []
    for shard in manifest.split("test").shards:
        with open(f"{digits}/{shard.file}", "rb") as stream:
            stored += [records.features(serialized)["label"][0] for serialized in records.read_framed(stream)]
    found = [
        int(label)
        for worker in range(3)
        for _, labels, mask in _batches(digits, manifest, batch=4, worker=worker, num_workers=3)
        for label in labels[mask]
    ]
    assert found == stored
    assert found != sorted(found)


def test_a_worker_opens_no_shard_of_others(digits: str, tmp_path: pathlib.Path) -> None:
    """With the shards behind its half deleted, the first of two workers reads on."""
    manifest = manifest_lib.load(digits)
    shards = manifest.split("test").shards
    half = manifest.split("test").examples // 2
    before = itertools.accumulate((shard.examples for shard in shards), initial=0)
    for shard, first in zip(shards, before, strict=False):
        if first < half:
            shutil.copy(f"{digits}/{shard.file}", tmp_path)
    assert len(list(tmp_path.iterdir())) < len(shards)
    batches = list(_batches(str(tmp_path), manifest, batch=4, worker=0, num_workers=2))
    assert sum(int(mask.numpy().sum()) for _, _, mask in batches) == half
    with pytest.raises(InputError, match="is missing"):
        list(_batches(str(tmp_path), manifest, batch=4, worker=1, num_workers=2))


@given(st.lists(st.integers(0, 5), max_size=9), st.integers(1, 12))
def test_parts_are_a_partition_in_order(counts: list[int], num_workers: int) -> None:
    """Against a list of all (shard, index) cut by NumPy, whose pieces differ by one at most too."""
    shards = [Shard(f"shard-{i}", count, 0, "") for i, count in enumerate(counts)]
    parts = [evaluation.part(shards, worker=worker, num_workers=num_workers) for worker in range(num_workers)]
    read = [
        [(shard.file, i) for shard in part.shards for i in range(shard.examples)][part.skipped :][: part.examples]
        for part in parts
    ]
    everything = [(shard.file, i) for shard in shards for i in range(shard.examples)]
    assert [example for part in read for example in part] == everything
    pieces = np.array_split(np.arange(len(everything)), num_workers)
    assert sorted(map(len, read)) == sorted(map(len, pieces))
    for part, examples in zip(parts, read, strict=True):
        assert {shard.file for shard in part.shards} == {file for file, _ in examples}


@pytest.mark.parametrize("worker", [2, -1])
def test_a_worker_that_there_is_not_is_refused(digits: str, worker: int) -> None:
    with pytest.raises(InputError, match=re.escape(f"worker index {worker} is outside 0..1")):
        _batches(digits, manifest_lib.load(digits), batch=4, worker=worker, num_workers=2)


def _dataset(folder: pathlib.Path, images: list[bytes], *, examples: int) -> Manifest:
    """One shard with `images`, and a manifest that says it holds `examples`."""
    with (folder / "shard").open("wb") as stream:
        for image in images:
            records.write_framed(stream, records.serialize(records.Record(image, 0, "id", "file", "group")))
    content = (folder / "shard").read_bytes()
    shard = Shard("shard", examples, len(content), hashlib.sha256(content).hexdigest())
    splits = {"test": manifest_lib.Split(examples, (shard,))}
    return Manifest("name", "1.0.0", "", None, ("class",), splits, {}, {}, {})


def test_a_shard_that_holds_less_than_the_manifest_says_is_not_padded(tmp_path: pathlib.Path) -> None:
    manifest = _dataset(tmp_path, [_JPEG, _JPEG], examples=3)
    with pytest.raises(InputError, match="shard holds 2 records, expected 3"):
        list(_batches(str(tmp_path), manifest, batch=4))


def test_an_image_that_does_not_decode_stops(tmp_path: pathlib.Path) -> None:
    manifest = _dataset(tmp_path, [_JPEG, _JPEG[:100]], examples=2)
    with pytest.raises(InputError, match=r"image file \(id id\) in shard .*/shard"):
        list(_batches(str(tmp_path), manifest, batch=4))


def test_examples_are_found_by_their_place_in_their_shards_alone(tmp_path: pathlib.Path) -> None:
    written = [shard_files.record(number) for number in range(14)]
    manifest = shard_files.write(tmp_path, {"test": [written[:5], written[5:10], written[10:]]})
    (tmp_path / manifest.splits["test"].shards[1].file).unlink()
    found = evaluation.records_at(str(tmp_path), manifest, split="test", positions=[11, 0, 4, 13, 0])
    assert found == [written[position] for position in (11, 0, 4, 13, 0)]
    assert evaluation.records_at(str(tmp_path), manifest, split="test", positions=[]) == []
    with pytest.raises(InputError, match="00001-of-00003 is missing"):
        evaluation.records_at(str(tmp_path), manifest, split="test", positions=[4, 5])
    with pytest.raises(IndexError, match="14 examples"):
        evaluation.records_at(str(tmp_path), manifest, split="test", positions=[14])
