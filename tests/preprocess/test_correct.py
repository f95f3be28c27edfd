"""Corrections lie over a finished dataset: labels change where they are, and nothing else moves."""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable

import pytest

from pipeline import manifest, order, records
from pipeline.errors import InputError
from pipeline.records import Record
from preprocess import corrections, growth
from preprocess.__main__ import main
from tests.preprocess.folders import Outcome, make_folders, numbered_png

Command = Callable[..., Outcome]
AS_BEFORE = {"max_workers": 4, "near_duplicates": "ignore"}  # images of 3x2 pixels are not compared


def rows(dataset: pathlib.Path) -> dict[str, dict[str, str]]:
    """The ledger by file name."""
    parts = sorted(dataset.glob("ledger-*.jsonl"))
    return {row["file"]: row for part in parts for row in map(json.loads, part.read_text().splitlines())}


def stored(dataset: pathlib.Path) -> dict[str, list[Record]]:
    """Every shard's records, in their order."""
    found = {}
    for split in manifest.load(str(dataset)).splits.values():
        for shard in split.shards:
            with open(dataset / shard.file, "rb") as stream:
                features = [records.features(serialized) for serialized in records.read_framed(stream)]
            found[shard.file] = [
                Record(
                    bytes(one["image"][0]),
                    int(one["label"][0]),
                    *(one[name][0].decode() for name in ("id", "file", "group")),
                )
                for one in features
            ]
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with `in`: 60 images, a copy of one and one that can't be read; and version 1.0.0 of them in `out`."""
    folder = tmp_path_factory.mktemp("made")
    root = make_folders(folder / "in", {"ant": 30, "bee": 20, "cat": 10})
    (root / "ant/copy.png").write_bytes((root / "ant/3.png").read_bytes())
    (root / "cat/cut.png").write_bytes(numbered_png(7000)[:40])
    flags = ["--name=tiny", *(f"--{name}={value}" for name, value in AS_BEFORE.items())]
    assert main(["preprocess", f"--input={root}", f"--output={folder}/out", *flags]) == 0
    return folder


@pytest.fixture
def first(made: pathlib.Path) -> pathlib.Path:
    """Read by all tests of this file, written by none."""
    return made / "out/tiny/1.0.0"


@pytest.fixture
def correct(first: pathlib.Path, tmp_path: pathlib.Path, command: Command) -> Callable[..., Outcome]:
    """Runs the command with these lines of a corrections file."""

    def run(*lines: str, **flags: object) -> Outcome:
        path = tmp_path / "corrections.csv"
        path.write_text("\n".join(lines) + "\n")
        given = {"correct": first, "corrections": path, "output": tmp_path / "out", "version": "1.0.1", **flags}
        return command(**given)

    return run


def in_train(dataset: pathlib.Path, name: str) -> list[str]:
    found = sorted(file for file, row in rows(dataset).items() if row["split"] == "train" and row["class"] == name)
    return [file for file in found if file not in ("ant/3.png", "ant/copy.png")]


def test_labels_change_in_place_and_other_shards_stay_as_they_are(
    first: pathlib.Path, tmp_path: pathlib.Path, correct: Callable[..., Outcome]
) -> None:
    ledger = rows(first)
    ant, bee = in_train(first, "ant")[0], in_train(first, "bee")[0]
    lines = [
        "id,file,label,note",
        f"{ledger['ant/3.png']['sha256']},,bee,by id",
        f",{ant},cat,by file",
        f",{bee},remove,",
    ]
    plan = correct(*lines, plan=True)
    assert "2 images with another label, 1 removed" in plan.out
    assert not (tmp_path / "out/tiny/1.0.1").exists()
    done = correct(*lines)
    assert done.status == 0, done.err
    second = tmp_path / "out/tiny/1.0.1"
    old, new = (manifest.load(str(dataset)) for dataset in (first, second))
    manifest.verify(str(second), new, list(new.splits))

    # Record by record: the same images at the same places, but for one.
    relabelled, before, after = {"ant/3.png": 1, ant: 2}, stored(first), stored(second)
    assert list(before) == list(after)
    for file, expected in before.items():
        left = [one for one in expected if one.file != bee]
        assert after[file] == [
            Record(one.image, relabelled.get(one.file, one.label), one.id, one.file, one.group) for one in left
        ]
    touched = {ledger[file]["shard"] for file in ("ant/3.png", ant, bee)}
    for name, split in old.splits.items():
        for stood, stands in zip(split.shards, new.splits[name].shards, strict=True):
            assert (stood == stands) == (stood.file not in touched)
            if stood.file not in touched:
                assert (first / stood.file).samefile(second / stands.file)

    # What it says of itself.
    assert new.grown_from == old.fingerprint != new.fingerprint
    assert new.fingerprint == manifest.fingerprint(new.classes, new.splits)
    assert new.statistics["corrections"] == {"relabelled": 2, "removed": 1, "shards_rewritten": len(touched)}
    counts = new.statistics["examples_by_class"]
    for split, shards in new.splits.items():
        of_split = collections.Counter(one.label for shard in shards.shards for one in after[shard.file])
        assert counts[split] == {name: of_split[label] for label, name in enumerate(new.classes)}
    four = ("seen", "written", "quarantined", "duplicates")
    # ant had 31 files, of which three images' became others: ant/3.png, its copy, and `ant`.
    assert [new.ledger["by_class"]["ant"][key] for key in four] == [28, 28, 0, 0]
    assert [new.ledger["by_class"]["bee"][key] for key in four] == [22, 20, 1, 1]
    assert [new.ledger["by_class"]["cat"][key] for key in four] == [12, 11, 1, 0]
    now = rows(second)
    assert now["ant/copy.png"]["class"] == now["ant/3.png"]["class"] == "bee"
    assert now["ant/3.png"]["corrected_from"] == "ant"
    assert "corrected_from" not in now["cat/0.png"]
    assert (now[bee]["status"], now[bee]["reason"], now[bee]["shard"]) == ("quarantined", "removed", "")
    page = (second / "report.html").read_text()
    assert "2 images corrected" in page
    assert page.count("data:image/jpeg") >= 24  # eight of a class

    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder_from_directory(str(second))
    read = {row["file"].decode(): int(row["label"]) for row in builder.as_dataset("train").as_numpy_iterator()}
    assert read == {one.file: one.label for shard in new.splits["train"].shards for one in after[shard.file]}


def test_a_removed_image_that_unbalances_shards_is_told_of(
    first: pathlib.Path, tmp_path: pathlib.Path, correct: Callable[..., Outcome]
) -> None:
    shard = manifest.load(str(first)).splits["train"].shards[0]
    removed = [one.file for one in stored(first)[shard.file][:3]]
    done = correct("file,label", *(f"{file},remove" for file in removed))
    assert done.status == 0
    assert f"note: the shards of train hold {shard.examples - 3} to" in done.err
    assert "training reads 1, not 4, equal streams" in done.err
    split = manifest.load(str(tmp_path / "out/tiny/1.0.1")).splits["train"]
    assert len(order.plan(split, global_batch=64, shuffle_mib=256).streams) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["name,label", "ant/1.png,bee"], "has the columns ['name', 'label']: expected label, and id or file"),
        (["file,label"], "holds no corrections"),
        (["file,label", "ant/1.png,be"], "line 2: 'be' is no class of tiny 1.0.0, nor 'remove': did you mean 'bee'?"),
        (["file,label", ",bee"], "line 2: neither id nor file"),
        (["file,label", "ant/1.png,bee", "ant/1.png,cat"], "line 3: ant/1.png is to be 'cat', and 'bee' in line 2"),
        (
            ["file,label", "ant/1.png," + 200_000 * "x"],
            "line 2: field larger than field limit (131072): is there a quote",
        ),
        ([200_000 * "x"], "line 1: field larger than field limit (131072): is there a quote that nothing closes?"),
        (["file,label,note", 'ant/1.png,bee,"x', "ant/2.png,bee,"], "line 3: unexpected end of data: is there a quote"),
        (["file,label", *(f"cat/{number}.png,bee" for number in range(10))], "leave no image to the class 'cat'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    first: pathlib.Path, tmp_path: pathlib.Path, correct: Callable[..., Outcome], lines: list[str], message: str
) -> None:
    assert message in correct(*lines).refusal
    assert not (tmp_path / "out/tiny").exists() or not list((tmp_path / "out/tiny").iterdir())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["ant/1.png,bee", "ant/none.png,cat"], r"ant/none\.png \(line 3\) names no image of tiny 1\.0\.0: delete"),
        (["cat/cut.png,bee"], r"names no image of tiny 1\.0\.0; the first was left out \(cannot_decode\)"),
        (["ant/1.png,ant", "ant/2.png,bee"], r"ant/1\.png \(line 2\) names an image that has that label already"),
        (["ant/3.png,bee", "ant/copy.png,cat"], r"lines 2 and 3 name the same image, which is to be 'bee' and 'cat'"),
        (["both.png,bee"], r"both\.png is 2 images, of several inputs"),
    ],
)
def test_lines_that_name_no_image_or_several_or_change_nothing(
    first: pathlib.Path, tmp_path: pathlib.Path, lines: list[str], message: str
) -> None:
    (tmp_path / "corrections.csv").write_text("\n".join(["file,label", *lines]))
    old = manifest.load(str(first))
    given = corrections.read(str(tmp_path / "corrections.csv"), old)
    there = [row for part in growth.ledger_parts(str(first)) for batch in growth.read_rows(part) for row in batch]
    ant = next(row for row in there if row.file == "ant/1.png")
    there += [dataclasses.replace(ant, input=place, file="both.png", sha256=str(place)) for place in range(2)]
    with pytest.raises(InputError, match=message):
        corrections.resolve(corrections.match(there, given), given, old)


def test_corrections_may_lie_in_the_home_folder(
    first: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corrections.csv").write_text("file,label\nant/1.png,bee\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    given = corrections.read("~/corrections.csv", manifest.load(str(first)))
    assert [(line.number, line.label) for line in given.lines] == [(2, "bee")]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"seed": 7}, "--seed does not apply to --correct"),
        ({"input": "in"}, "--input does not apply to --correct"),
        ({"corrections": None}, "--corrections is missing"),
        ({"correct": None}, "--correct is missing"),
        ({"corrections": "none.csv"}, "--corrections=none.csv cannot be read"),
        ({"correct": "OUT/tiny/1.0.1"}, "--version=1.0.1 is the earlier version itself"),
    ],
)
def test_flags_that_do_not_belong_together(
    tmp_path: pathlib.Path, correct: Callable[..., Outcome], flags: dict[str, object], message: str
) -> None:
    given = {
        name: f"{tmp_path}/out/tiny/1.0.1" if value == "OUT/tiny/1.0.1" else value for name, value in flags.items()
    }
    assert message in correct("file,label", "ant/1.png,bee", **given).refusal


def test_a_damaged_shard_is_not_corrected(
    first: pathlib.Path, tmp_path: pathlib.Path, correct: Callable[..., Outcome]
) -> None:
    damaged = shutil.copytree(first, tmp_path / "damaged")
    shard = damaged / rows(first)["ant/3.png"]["shard"]
    data = bytearray(shard.read_bytes())
    data[60] ^= 1
    shard.write_bytes(bytes(data))
    assert f"{shard} cannot be read back" in correct("file,label", "ant/3.png,bee", correct=damaged).refusal
    assert not list((tmp_path / "out/tiny").iterdir())


def test_later_versions_keep_the_corrections(
    made: pathlib.Path, first: pathlib.Path, tmp_path: pathlib.Path, command: Command, correct: Callable[..., Outcome]
) -> None:
    """The folders still say the old class, but for one image that was moved to a third one since."""
    ant, moved, *_ = in_train(first, "ant")
    bee = in_train(first, "bee")[0]
    assert correct("file,label", "ant/copy.png,bee", f"{ant},cat", f"{moved},bee", f"{bee},remove").status == 0
    second, root = tmp_path / "out/tiny/1.0.1", shutil.copytree(made / "in", tmp_path / "in")
    (root / moved).rename(root / "cat/moved.png")
    (root / "cat/new.png").write_bytes(numbered_png(9000))
    (root / "bee/again.png").write_bytes((root / bee).read_bytes())  # a copy of what was removed
    done = command(input=root, output=tmp_path / "out", version="2.0.0", grow_from=second, **AS_BEFORE)
    assert done.status == 0, done.err
    third = tmp_path / "out/tiny/2.0.0"
    now, labels = rows(third), {one.file: one.label for shard in stored(third).values() for one in shard}
    assert {file: now[file]["class"] for file in ("ant/3.png", "ant/copy.png", ant, "cat/moved.png")} == {
        "ant/3.png": "bee",
        "ant/copy.png": "bee",
        ant: "cat",
        "cat/moved.png": "cat",
    }
    assert (labels["ant/3.png"], labels[ant], labels["cat/moved.png"]) == (1, 2, 2)
    assert now["ant/3.png"]["corrected_from"] == "ant"
    assert {now[file]["reason"] for file in (bee, "bee/again.png")} == {"removed"}
    assert now[ant]["split"] == rows(second)[ant]["split"]
    ledger = manifest.load(str(third)).ledger
    assert ledger["seen"] == 64 == ledger["written"] + ledger["quarantined"] + ledger["duplicates"]
    # And what is repaired is added to a corrected version without bringing the removed image back.
    (root / "cat/cut.png").write_bytes(numbered_png(7000))
    replayed = command(input=root, output=tmp_path / "out", version="1.0.2", replay_quarantine=second, **AS_BEFORE)
    assert replayed.status == 0, replayed.err
    assert rows(tmp_path / "out/tiny/1.0.2")[bee]["reason"] == "removed"
    assert rows(tmp_path / "out/tiny/1.0.2")["cat/cut.png"]["status"] == "written"
    assert manifest.load(str(tmp_path / "out/tiny/1.0.2")).ledger["seen"] == 62  # each file once
    # A second correction gives the folder's word back.
    again = correct("file,label", f"{ant},ant", correct=second, version="1.0.3")
    assert again.status == 0, again.err
    assert "corrected_from" not in rows(tmp_path / "out/tiny/1.0.3")[ant]


def test_repaired_copies_of_corrected_images_become_what_the_correction_said(
    made: pathlib.Path, first: pathlib.Path, tmp_path: pathlib.Path, command: Command, correct: Callable[..., Outcome]
) -> None:
    """A replay treats them as growing does: a copy of a removed image stays out, one of a relabelled image is its copy.

    Only new bytes are added, and nothing that the earlier version has written moves.
    """
    root = shutil.copytree(made / "in", tmp_path / "in")
    names = ("bee/again.png", "cat/again.png", "ant/again.png", "ant/new.png")
    for name in names:
        (root / name).write_bytes(b"damaged")
    flags = {"input": root, "output": tmp_path / "out", **AS_BEFORE}
    assert command(**flags, version="1.0.0", grow_from=first).status == 0
    second, third = tmp_path / "out/tiny/1.0.0", tmp_path / "out/tiny/1.0.1"
    removed, relabelled = in_train(second, "ant")[:2]
    assert correct("file,label", f"{removed},remove", f"{relabelled},cat", correct=second).status == 0
    contents = [(root / file).read_bytes() for file in (removed, removed, relabelled)] + [numbered_png(9000)]
    for name, content in zip(names, contents, strict=True):
        (root / name).write_bytes(content)
    said = {}
    for version, how in (("1.0.2", "replay_quarantine"), ("2.0.0", "grow_from")):
        done = command(**flags, version=version, **{how: third})
        assert done.status == 0, done.err
        now = rows(tmp_path / "out/tiny" / version)
        said[how] = {name: (now[name]["status"], now[name]["reason"], now[name]["class"]) for name in names}
        assert {file: row["split"] for file, row in rows(third).items() if row["status"] == "written"} == {
            file: row["split"] for file, row in now.items() if row["status"] == "written" and file != "ant/new.png"
        }
    assert said["replay_quarantine"] == said["grow_from"]
    assert said["grow_from"] == {
        "bee/again.png": ("quarantined", "removed", "bee"),
        "cat/again.png": ("quarantined", "removed", "cat"),
        "ant/again.png": ("duplicate", "", "cat"),
        "ant/new.png": ("written", "", "ant"),
    }
