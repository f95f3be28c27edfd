"""Later versions: growing moves no image and restores the shares, replaying adds images and rewrites none."""

from __future__ import annotations

import collections
import json
import pathlib
from collections.abc import Callable
from fractions import Fraction

import pytest

from pipeline import manifest, order
from preprocess.__main__ import main
from preprocess.splits import exact_counts
from tests.preprocess.folders import Outcome, make_folders, numbered_png

Command = Callable[..., Outcome]
THREE = {"train": Fraction(8, 10), "validation": Fraction(1, 10), "test": Fraction(1, 10)}


def rows(dataset: pathlib.Path) -> list[dict[str, object]]:
    parts = sorted(dataset.glob("ledger-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def split_of(dataset: pathlib.Path) -> dict[object, object]:
    return {row["file"]: row["split"] for row in rows(dataset) if row["status"] == "written"}


def counts_of(dataset: pathlib.Path) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = manifest.load(str(dataset)).statistics["examples_by_class"]
    return counts


@pytest.fixture
def first(tmp_path: pathlib.Path, command: Command) -> pathlib.Path:
    """Version 1.0.0 of 60 images."""
    make_folders(tmp_path / "in", {"ant": 30, "bee": 20, "cat": 10})
    assert command(input=tmp_path / "in", output=tmp_path / "out").status == 0
    return tmp_path / "out/tiny/1.0.0"


def test_half_as_many_again_move_nothing(first: pathlib.Path, tmp_path: pathlib.Path, command: Command) -> None:
    for name, count in {"ant": 15, "bee": 10, "cat": 5}.items():
        for index in range(count):
            (tmp_path / "in" / name / f"new{index}.png").write_bytes(numbered_png(100 * (ord(name[0]) - 90) + index))
    done = command(input=tmp_path / "in", output=tmp_path / "out", version="2.0.0", grow_from=first)
    assert done.status == 0, done.err
    second = tmp_path / "out/tiny/2.0.0"
    before, after = split_of(first), split_of(second)
    assert len(after) == 90
    assert all(after[file] == split for file, split in before.items())
    for name, total in {"ant": 45, "bee": 30, "cat": 15}.items():
        wanted = exact_counts(total, THREE)
        assert {split: counts_of(second)[split][name] for split in THREE} == wanted
    old, new = (manifest.load(str(dataset)) for dataset in (first, second))
    assert (old.grown_from, new.grown_from) == (None, old.fingerprint)
    assert list(new.settings["splits"].split(",")) == ["train=4/5", "validation=1/10", "test=1/10"]


def test_growing_by_other_fractions_moves_nothing_either(
    first: pathlib.Path, tmp_path: pathlib.Path, command: Command
) -> None:
    flags = {"version": "2.0.0", "grow_from": first, "splits": "train=0.5,validation=0.25,test=0.25"}
    assert command(input=tmp_path / "in", output=tmp_path / "out", **flags).status == 0
    assert split_of(first) == split_of(tmp_path / "out/tiny/2.0.0")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"version": "1.0.0"}, "--version=1.0.0 is the earlier version itself"),
        ({"splits": "train=0.9,test=0.1"}, "an image keeps its split"),
        ({"grow_from": "elsewhere/1.0.0"}, "holds no finished dataset"),
    ],
)
def test_what_cannot_grow_is_refused(
    first: pathlib.Path, tmp_path: pathlib.Path, command: Command, flags: dict[str, str], message: str
) -> None:
    given = {"version": "2.0.0", "grow_from": str(first), **flags}
    assert message in command(input=tmp_path / "in", output=tmp_path / "out", **given).refusal
    assert sorted(path.name for path in (tmp_path / "out/tiny").iterdir()) == ["1.0.0"]


def test_an_incomplete_ledger_is_refused(first: pathlib.Path, tmp_path: pathlib.Path, command: Command) -> None:
    next(first.glob("ledger-*")).unlink()
    flags = {"version": "2.0.0", "grow_from": first}
    assert "ledger-*.jsonl files" in command(input=tmp_path / "in", output=tmp_path / "out", **flags).refusal


def test_the_user_s_groups_stay_whole_over_classes_and_versions(tmp_path: pathlib.Path, command: Command) -> None:
    root = tmp_path / "in"
    number = 0
    for patient in range(30):
        for name, count in {"ill": patient % 3 + 1, "well": patient % 2}.items():
            for index in range(count):
                (root / name).mkdir(parents=True, exist_ok=True)
                (root / name / f"p{patient}_{index}.png").write_bytes(numbered_png(number))
                number += 1
    flags = {"input": root, "output": tmp_path / "out", "group_by": r"/(p\d+)_"}
    (root / "well/nobody.png").write_bytes(numbered_png(number))
    done = command(**flags)
    assert done.status == 0
    assert "--group_by finds nothing in the names of 1 files" in done.err
    first = tmp_path / "out/tiny/1.0.0"
    sides = collections.defaultdict(set)
    for file, split in split_of(first).items():
        sides[str(file).split("/")[1].split("_")[0]].add(split)
    assert len(sides) == 31
    assert all(len(splits) == 1 for splits in sides.values())
    for name, total in {"ill": 60, "well": 16}.items():
        counts = {split: counts_of(first)[split][name] for split in THREE}
        assert all(abs(counts[split] - wanted) <= 3 for split, wanted in exact_counts(total, THREE).items())
    # A new photo of a patient goes where the patient stands.
    (root / "well/p7_9.png").write_bytes(numbered_png(5000))
    assert command(**flags, version="2.0.0", grow_from=first).status == 0
    after = split_of(tmp_path / "out/tiny/2.0.0")
    assert {after["well/p7_9.png"]} == sides["p7"]


@pytest.fixture
def quarantined(tmp_path: pathlib.Path, command: Command) -> pathlib.Path:
    """Version 1.0.0 of 60 images, beside three files that cannot be read."""
    root = make_folders(tmp_path / "in", {"ant": 30, "bee": 30})
    for name in ("ant/cut.png", "bee/cut.png", "bee/hopeless.png"):
        (root / name).write_bytes(numbered_png(7000)[:40])
    assert command(input=root, output=tmp_path / "out").status == 0
    return tmp_path / "out/tiny/1.0.0"


def test_repaired_images_are_added_and_nothing_is_rewritten(
    quarantined: pathlib.Path, tmp_path: pathlib.Path, command: Command
) -> None:
    (tmp_path / "in/ant/cut.png").write_bytes(numbered_png(7001))
    (tmp_path / "in/bee/cut.png").write_bytes(numbered_png(5))  # of which ant has the same bytes
    flags = {"input": tmp_path / "in", "output": tmp_path / "out", "version": "1.0.1"}
    plan = command(**flags, replay_quarantine=quarantined, plan=True)
    assert plan.status == 0, plan.err
    done = command(**flags, replay_quarantine=quarantined)
    assert done.status == 0, done.err
    second = tmp_path / "out/tiny/1.0.1"
    old, new = (manifest.load(str(dataset)) for dataset in (quarantined, second))
    manifest.verify(str(second), new, list(new.splits))
    assert new.grown_from == old.fingerprint
    for split, before in old.splits.items():
        after = new.splits[split].shards
        assert [shard.sha256 for shard in after[: len(before.shards)]] == [shard.sha256 for shard in before.shards]
        plans = [order.plan(stored, global_batch=8, shuffle_mib=1) for stored in (new.splits[split], before)]
        assert len({len(plan.streams) for plan in plans}) == 1
    assert sum(split.examples for split in new.splits.values()) == 61
    status = {row["file"]: (row["status"], row["reason"]) for row in rows(second)}
    assert status["ant/cut.png"] == ("written", "")
    assert status["bee/cut.png"] == ("quarantined", "conflicting_labels")
    assert status["bee/hopeless.png"] == ("quarantined", "cannot_decode")
    four = ("seen", "written", "quarantined", "duplicates")
    assert [new.ledger[key] for key in four] == [63, 61, 2, 0]
    for row in rows(second):
        if row["status"] == "written":
            assert str(row["file"]).encode() in (second / str(row["shard"])).read_bytes()
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder_from_directory(str(second))
    found = {
        row["file"].decode() for split in builder.info.splits for row in builder.as_dataset(split).as_numpy_iterator()
    }
    assert found == {str(file) for file, (state, _) in status.items() if state == "written"}


def test_nothing_repaired_is_refused_and_nothing_written(
    quarantined: pathlib.Path, tmp_path: pathlib.Path, command: Command
) -> None:
    flags = {"input": tmp_path / "in", "output": tmp_path / "out", "version": "1.0.1", "replay_quarantine": quarantined}
    assert "nothing to add to tiny 1.0.0" in command(**flags).refusal
    assert sorted(path.name for path in (tmp_path / "out/tiny").iterdir()) == ["1.0.0"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"seed": 7}, "was prepared with seed 42, now it is 7"),
        ({"shorter_side": 128}, "was prepared with storing"),
        ({"group_by": "/(.)"}, "was prepared with group_by"),
        ({"near_duplicates": "drop"}, "was prepared with near_duplicates join, now it is drop"),
    ],
)
def test_images_are_added_by_the_rules_of_those_beside_them(
    quarantined: pathlib.Path, tmp_path: pathlib.Path, command: Command, flags: dict[str, object], message: str
) -> None:
    given = {"input": tmp_path / "in", "output": tmp_path / "out", "version": "1.0.1", "replay_quarantine": quarantined}
    assert message in command(**given, **flags).refusal


def test_a_damaged_shard_is_not_taken_over(quarantined: pathlib.Path, tmp_path: pathlib.Path, command: Command) -> None:
    (tmp_path / "in/ant/cut.png").write_bytes(numbered_png(7001))
    shard = next(quarantined.glob("tiny-train.tfrecord-00003-*"))
    data = bytearray(shard.read_bytes())
    data[60] ^= 1
    shard.write_bytes(bytes(data))
    given = {"input": tmp_path / "in", "output": tmp_path / "out", "version": "1.0.1", "replay_quarantine": quarantined}
    assert f"{shard} cannot be read back" in command(**given).refusal
    assert sorted(path.name for path in (tmp_path / "out/tiny").iterdir()) == ["1.0.0"]


def test_a_version_that_kept_its_input_s_splits_cannot_grow(tmp_path: pathlib.Path, command: Command) -> None:
    for split in ("train", "test"):
        make_folders(tmp_path / "in" / split, {"ant": 3, "bee": 3}, first=10 * len(split))
    assert command(input=tmp_path / "in", output=tmp_path / "out").status == 0
    flags = {"output": tmp_path / "out", "version": "2.0.0", "grow_from": tmp_path / "out/tiny/1.0.0"}
    assert "kept the splits that its input has" in command(input=tmp_path / "in", **flags).refusal


def test_inputs_with_and_without_splits_do_not_mix(tmp_path: pathlib.Path, command: Command) -> None:
    for split in ("train", "test"):
        make_folders(tmp_path / "said" / split, {"ant": 3, "bee": 3}, first=10 * len(split))
    make_folders(tmp_path / "unsaid", {"ant": 10, "bee": 10}, first=500)
    listing = tmp_path / "both.csv"
    listing.write_text(
        "path,label\n" + "".join(f"unsaid/ant/{index}.png,ant\nunsaid/bee/{index}.png,bee\n" for index in range(10))
    )
    outcome = command(input=tmp_path / "said", output=tmp_path / "out", splits=None)
    assert outcome.status == 0
    both = [f"--input={tmp_path}/said", f"--input={tmp_path}/unsaid", f"--output={tmp_path}/out", "--name=both"]
    assert main(["preprocess", *both]) == 2
    assert main(["preprocess", *both, "--splits=train=0.8,test=0.2"]) == 0
    assert main(["preprocess", f"--input={listing}", f"--output={tmp_path}/out", "--name=listed"]) == 0
    assert split_of(tmp_path / "out/listed/1.0.0").keys() == {
        f"unsaid/{name}/{index}.png" for name in ("ant", "bee") for index in range(10)
    }
