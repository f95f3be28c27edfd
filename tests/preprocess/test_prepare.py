"""The whole command on good folders: what it writes, read by others; that it repeats itself; that --plan is right."""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pipeline import manifest
from preprocess import partitions, progress
from tests.preprocess.folders import Outcome, contents, make_folders

COUNTS = {"ant": 13, "bee": 10, "cat": 11}
# Largest remainders by hand of 13, 10 and 11 times 0.8, 0.1, 0.1: 10.4 1.3 1.3; 8 1 1; 8.8 1.1 1.1.
EXPECTED = {
    "train": {"ant": 11, "bee": 8, "cat": 9},
    "validation": {"ant": 1, "bee": 1, "cat": 1},
    "test": {"ant": 1, "bee": 1, "cat": 1},
}


@pytest.fixture
def folders(tmp_path: pathlib.Path) -> pathlib.Path:
    return make_folders(tmp_path / "in", COUNTS)


@pytest.fixture
def dataset(folders: pathlib.Path, tmp_path: pathlib.Path, command: Callable[..., Outcome]) -> pathlib.Path:
    outcome = command(input=folders, output=tmp_path / "out")
    assert outcome.status == 0, outcome.err
    return tmp_path / "out/tiny/1.0.0"


def examples(dataset: pathlib.Path, split: str) -> list[tuple[str, dict[str, Any]]]:
    """(shard, features) in stored order, through TensorFlow's reader and protobuf instead of ours."""
    tf = pytest.importorskip("tensorflow")
    found = []
    for shard in sorted(dataset.glob(f"tiny-{split}.tfrecord-*")):
        for serialized in tf.data.TFRecordDataset(str(shard)):
            feature = tf.train.Example.FromString(serialized.numpy()).features.feature
            row: dict[str, Any] = {name: feature[name].bytes_list.value[0] for name in ("image", "id", "file", "group")}
            row["label"] = feature["label"].int64_list.value[0]
            found.append((shard.name, row))
    return found


def test_every_image_is_stored_once_where_hash_order_says(folders: pathlib.Path, dataset: pathlib.Path) -> None:
    classes = sorted(COUNTS)
    stored = {split: examples(dataset, split) for split in EXPECTED}
    by_file = {row["file"].decode(): (split, row) for split, rows in stored.items() for _, row in rows}
    assert sum(map(len, stored.values())) == len(by_file) == sum(COUNTS.values())

    def order(data: bytes) -> str:
        return hashlib.sha256(b"42/" + hashlib.sha256(data).hexdigest().encode()).hexdigest()

    for label, name in enumerate(classes):
        files = {f"{name}/{path.name}": path.read_bytes() for path in (folders / name).iterdir()}
        in_order = sorted(files, key=lambda file: order(files[file]))
        splits = [split for split in EXPECTED for _ in range(EXPECTED[split][name])]
        for file, split in zip(in_order, splits, strict=True):
            sha256 = hashlib.sha256(files[file]).hexdigest().encode()
            expected = {"image": files[file], "label": label, "id": sha256, "file": file.encode(), "group": sha256}
            assert by_file[file] == (split, expected)
    for rows in stored.values():
        for shard in {shard for shard, _ in rows}:
            orders = [order(row["image"]) for of, row in rows if of == shard]
            assert orders == sorted(orders)


def test_the_manifest_says_what_is_there(folders: pathlib.Path, dataset: pathlib.Path) -> None:
    loaded = manifest.load(str(dataset))
    manifest.verify(str(dataset), loaded, list(loaded.splits))
    assert loaded.classes == ("ant", "bee", "cat")
    assert loaded.statistics["examples_by_class"] == EXPECTED
    assert loaded.statistics["pixels"] == {"train": 28 * 6, "validation": 18, "test": 18}
    assert [len(loaded.splits[split].shards) for split in EXPECTED] == [8, 3, 3]
    for split in EXPECTED:
        sizes = [shard.examples for shard in loaded.splits[split].shards]
        assert max(sizes) - min(sizes) <= 1
        for shard in loaded.splits[split].shards:
            data = (dataset / shard.file).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)
    assert loaded.fingerprint == manifest.fingerprint(loaded.classes, loaded.splits)
    four = ("seen", "written", "quarantined", "duplicates")
    assert [loaded.ledger[key] for key in four] == [34, 34, 0, 0]
    assert {name: [counts[key] for key in four] for name, counts in loaded.ledger["by_class"].items()} == {
        name: [count, count, 0, 0] for name, count in COUNTS.items()
    }
    assert loaded.settings["splits"] == "train=4/5,validation=1/10,test=1/10"
    rows = [json.loads(line) for line in (dataset / "ledger-00000-of-00001.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == sorted(f"{name}/{i}.png" for name in COUNTS for i in range(COUNTS[name]))
    for row in rows:
        assert (row["status"], row["width"], row["height"]) == ("written", 3, 2)
        assert row["sha256"] == hashlib.sha256((folders / row["file"]).read_bytes()).hexdigest()
        assert row["file"].encode() in (dataset / row["shard"]).read_bytes()


def test_the_bytes_are_pinned(dataset: pathlib.Path) -> None:
    """The input is made by hand, so this changes only where the format, the order or the splits do."""
    assert manifest.load(str(dataset)).fingerprint == "279cd3a51a12a6d01247ba8687364aa838488bb916b006c2401a6820291a58d3"


READ_WITH_TFDS = """
import json, sys
for ours in ("pipeline", "preprocess", "trainer", "configs"):
    sys.modules[ours] = None  # makes importing it an error, installed or not
import tensorflow_datasets as tfds
builder = tfds.builder_from_directory(sys.argv[1])
names = builder.info.features["label"].names
rows = [[split, row["file"].decode(), names[row["label"]], list(row["image"].shape), int(row["image"].sum())]
        for split in builder.info.splits for row in builder.as_dataset(split).as_numpy_iterator()]
pairs = [list(map(str, (image.dtype, label.dtype))) for image, label in
         builder.as_dataset("train", as_supervised=True).take(1)]
print(json.dumps({"rows": rows, "pairs": pairs, "names": names}))
"""


def test_tfds_alone_reads_it(folders: pathlib.Path, dataset: pathlib.Path, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("tensorflow")
    done = subprocess.run(
        [sys.executable, "-I", "-c", READ_WITH_TFDS, str(dataset)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["names"] == ["ant", "bee", "cat"]
    assert found["pairs"] == [["<dtype: 'uint8'>", "<dtype: 'int64'>"]]
    by_split: dict[str, dict[str, int]] = {split: dict.fromkeys(COUNTS, 0) for split in EXPECTED}
    for split, file, label, shape, total in found["rows"]:
        assert file.split("/")[0] == label
        assert shape == [2, 3, 3]
        pixels = (folders / file).read_bytes()[48:]  # behind the headers of PNG and of its one stored block
        assert total == sum(pixels[1:10]) + sum(pixels[11:20])
        by_split[split][label] += 1
    assert by_split == EXPECTED


def test_the_same_input_gives_the_same_bytes_in_any_order(
    folders: pathlib.Path, dataset: pathlib.Path, tmp_path: pathlib.Path, command: Callable[..., Outcome]
) -> None:
    other = tmp_path / "copy"
    for path in sorted(folders.rglob("*.png"), reverse=True):  # created in another order, so listed in another on disk
        target = other / path.relative_to(folders)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    assert command(input=other, output=tmp_path / "out2").status == 0
    assert contents(tmp_path / "out2/tiny/1.0.0") == contents(dataset)


def test_settings_shape_the_content(
    folders: pathlib.Path, dataset: pathlib.Path, tmp_path: pathlib.Path, command: Callable[..., Outcome]
) -> None:
    outcome = command(
        input=folders, output=tmp_path / "out", version="1.1.0", splits="test=1", seed=1, max_workers=2, shard_bytes=400
    )
    assert outcome.status == 0
    loaded = manifest.load(str(tmp_path / "out/tiny/1.1.0"))
    source_bytes = sum(path.stat().st_size for path in folders.rglob("*.png"))
    assert list(loaded.splits) == ["test"]
    assert len(loaded.splits["test"].shards) == 2 * -(-source_bytes // 800)
    assert loaded.splits["test"].examples == 34
    assert loaded.fingerprint != manifest.load(str(dataset)).fingerprint


def test_few_large_groups_leave_no_split_without_a_class(
    tmp_path: pathlib.Path, command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five films of a class, whose files lie in several partitions: its share of test lies within one film."""
    monkeypatch.setattr(partitions, "IMAGES_PER_PARTITION", 20)
    root = make_folders(tmp_path / "in", {"ant": 50, "bee": 50})
    for path in list(root.rglob("*.png")):
        path.rename(path.with_name(f"film{int(path.stem) % 5}_{path.name}"))
    for seed in range(3):
        given = {"input": root, "output": tmp_path / "out", "version": f"1.0.{seed}", "seed": seed}
        assert command(**given, group_by="([a-z]+/film[0-9])_", near_duplicates="ignore").status == 0
        by_class = manifest.load(str(tmp_path / f"out/tiny/1.0.{seed}")).statistics["examples_by_class"]
        assert sorted(by_class["train"].values()) == [30, 30]
        assert all(by_class[split] == {"ant": 10, "bee": 10} for split in ("validation", "test"))


def test_pixels_are_counted_as_they_are_stored(
    folders: pathlib.Path, tmp_path: pathlib.Path, command: Callable[..., Outcome]
) -> None:
    """Images of 3x2 become 2x1; a correction counts what is left the same way."""
    outcome = command(input=folders, output=tmp_path / "out", splits="test=1", shorter_side=1, near_duplicates="ignore")
    assert outcome.status == 0
    first = tmp_path / "out/tiny/1.0.0"
    (tmp_path / "corrections.csv").write_text("file,label\nant/0.png,remove\n")
    assert (
        command(
            correct=first, corrections=tmp_path / "corrections.csv", output=tmp_path / "out", version="1.0.1"
        ).status
        == 0
    )
    for dataset, images in ((first, 34), (tmp_path / "out/tiny/1.0.1", 33)):
        statistics = manifest.load(str(dataset)).statistics
        assert (statistics["pixels"], statistics["source_pixels"]) == ({"test": 2 * images}, {"test": 6 * images})


def test_the_plan_says_what_is_then_written(
    folders: pathlib.Path, tmp_path: pathlib.Path, command: Callable[..., Outcome]
) -> None:
    (folders / "bee" / "text.jpg").write_text("no image")
    (folders / "bee" / "again.png").write_bytes((folders / "bee/0.png").read_bytes())
    plan = command(input=folders, output=tmp_path / "out", plan=True)
    assert plan.status == 0
    assert not (tmp_path / "out").exists()
    written = command(input=folders, output=tmp_path / "out")
    table, _ = written.out.split("\ndataset:")
    same = [line for line in table.splitlines() if not line.startswith("MB")]
    assert [line for line in plan.out.splitlines() if not line.startswith("MB")][: len(same)] == same
    assert ["bee", "8", "1", "1", "1", "1"] in [line.split() for line in same]
    assert "  bee/text.jpg: 8 bytes beginning b'no image'" in same
    assert "  bee/again.png: same bytes as bee/0.png" in same
    assert f"nothing was written (--plan); the dataset would go to {tmp_path}/out/tiny/1.0.0" in plan.out


def test_help_is_quick_and_preparation_needs_no_tensorflow(folders: pathlib.Path, tmp_path: pathlib.Path) -> None:
    code = """
import sys
from preprocess.__main__ import main
heavy = {"apache_beam", "PIL", "tensorflow", "tensorflow_datasets", "fsspec"}
assert main(["preprocess", "--help"]) == 0
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert main(["preprocess", *sys.argv[1:]]) == 0
assert "apache_beam" in sys.modules
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code, f"--input={folders}", f"--output={tmp_path}/out", "--name=tiny"],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for flag in (
        "input",
        "output",
        "name",
        "version",
        "splits",
        "plan",
        "overwrite",
        "seed",
        "shard_bytes",
        "beam_args",
    ):
        assert f"--{flag}=" in done.stdout
    assert (tmp_path / "out/tiny/1.0.0/manifest.json").exists()


def test_long_work_shows_progress(
    folders: pathlib.Path, tmp_path: pathlib.Path, command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LOG_FILE_PERIOD_S", 0.01)
    outcome = command(input=folders, output=tmp_path / "out")
    assert outcome.status == 0
    assert "inspected 34 of 34 files" in outcome.err
    assert "written 34 of 34 images" in outcome.err
