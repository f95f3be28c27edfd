"""What people give by mistake: refused in one line before any work, or left out by name while the rest goes on."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import resource
import socket
from collections.abc import Callable, Iterator

import pytest
from PIL import Image

from pipeline import manifest
from pipeline.errors import InputError
from preprocess import inspection, places, settings, shards
from preprocess.inputs import Source, open_inputs
from preprocess.layout import Layout, SplitLayout
from tests.preprocess import publisher
from tests.preprocess.folders import Outcome, contents, make_folders, numbered_png
from tests.preprocess.test_settings import GOOD

Command = Callable[..., Outcome]


def reject(command: Command, root: pathlib.Path, **more: object) -> str:
    """The refusal's one line; nothing may be written for it."""
    line = command(**{"input": root / "in", "output": root / "out", **more}).refusal
    assert not (root / "out").exists()
    return line


def test_missing_input(command: Command, tmp_path: pathlib.Path) -> None:
    assert f"--input={tmp_path}/in does not exist" in reject(command, tmp_path)
    assert "--input is missing" in reject(command, tmp_path, input="")


def test_input_that_is_a_file(command: Command, tmp_path: pathlib.Path) -> None:
    (tmp_path / "in").write_text("")
    assert "is a file: give the folder" in reject(command, tmp_path)


def test_empty_input(command: Command, tmp_path: pathlib.Path) -> None:
    (tmp_path / "in/.hidden").mkdir(parents=True)
    (tmp_path / "in/__MACOSX").mkdir()
    assert "holds no class folders: put the images into one sub-folder per class" in reject(command, tmp_path)


def test_images_without_class_folders(command: Command, tmp_path: pathlib.Path) -> None:
    make_folders(tmp_path, {"in": 3})
    assert "holds 3 files but no class folders: put the images into one" in reject(command, tmp_path)


def test_one_class(command: Command, tmp_path: pathlib.Path) -> None:
    make_folders(tmp_path / "in", {"photos": 4})
    assert "holds one class folder only (photos)" in reject(command, tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("Ant", "ant", "class folders 'Ant' and 'ant' in {} differ only in case"),
        ("l\u00e1", "la\u0301", "differ only in case or in how letters are encoded"),
        ("ant", " bee", "class folder ' bee' in {} has spaces around its name"),
        ("ant", "b\ne", "has spaces around its name or controls in it"),
        ("ant", b"\xff".decode("utf-8", "surrogateescape"), "is not named in UTF-8"),
    ],
)
def test_class_names_that_cannot_be(
    command: Command, tmp_path: pathlib.Path, first: str, second: str, message: str
) -> None:
    make_folders(tmp_path / "in", {first: 4, second: 4})
    assert message.format(tmp_path / "in") in reject(command, tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "Leaves!"}, "--name='Leaves!'"),
        ({"version": "1"}, "--version='1'"),
        ({"splits": "train=0.8"}, "sum to 0.8, expected exactly 1"),
        ({"seed": "x"}, "--seed=x"),
        ({"seeed": "1"}, "Unknown command line flag 'seeed'. Did you mean: seed ?"),
        ({"beam_args": "--runner=DirectRuner"}, "Unexpected pipeline runner: DirectRuner"),
        ({"beam_args": "--runner=DirectRunner --direct_num_wrkers=2"}, "no argument '--direct_num_wrkers=2'"),
        ({"beam_args": "--direct_num_workers=two"}, "argument --direct_num_workers: invalid int value: 'two'"),
        ({"beam_args": "--runner='"}, "No closing quotation"),
        ({"beam_args": "--runner=DataflowRunner"}, "project"),
    ],
)
def test_flags(command: Command, tmp_path: pathlib.Path, given: dict[str, str], message: str) -> None:
    make_folders(tmp_path / "in", {"ant": 4, "bee": 4})
    assert message in reject(command, tmp_path, **given)


def test_damaged_files_are_left_out_by_name_and_the_job_goes_on(command: Command, tmp_path: pathlib.Path) -> None:
    root = make_folders(tmp_path / "in", {"ant": 12, "bee": 10, "few": 2})
    ant = root / "ant"
    bomb = io.BytesIO()
    Image.new("1", (20000, 20000)).save(bomb, "PNG")
    assert len(bomb.getvalue()) < 50_000
    (ant / "nested").mkdir()
    files = {
        "ant/zero.jpg": b"",
        "ant/text.jpg": b"not an image at all",
        "ant/bomb.png": bomb.getvalue(),
        "ant/nested/cut.png": numbered_png(99)[:-20],
        "few/dup.png": numbered_png(22),
        "bee/conflict.png": numbered_png(0),
        "ant/.DS_Store": b"x",
        "notes.txt": b"x",
    }
    for name, data in files.items():
        (root / name).write_bytes(data)
    (ant / "dangling.png").symlink_to("nowhere.png")
    os.mkfifo(ant / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(ant / "socket.png"))
    (ant / "b\udcffd.png").write_bytes(b"")
    (root / "none").mkdir()
    (root / "__MACOSX").mkdir()

    outcome = command(input=root, output=tmp_path / "out")
    assert outcome.status == 0, outcome.err
    directory = tmp_path / "out/tiny/1.0.0"
    (part,) = directory.glob("ledger-*")
    rows = {row["file"]: row for row in map(json.loads, part.read_text().splitlines())}
    left_out = {file: row["reason"] or row["status"] for file, row in rows.items() if row["status"] != "written"}
    assert left_out == {
        "ant/zero.jpg": "empty_file",
        "ant/b\udcffd.png": "empty_file",
        "ant/text.jpg": "not_an_image",
        "ant/bomb.png": "too_many_pixels",
        "ant/nested/cut.png": "cannot_decode",
        "ant/dangling.png": "cannot_read",
        "ant/pipe.png": "cannot_read",
        "ant/socket.png": "cannot_read",
        "ant/0.png": "conflicting_labels",
        "bee/conflict.png": "conflicting_labels",
        "few/0.png": "class_too_small",
        "few/1.png": "class_too_small",
        "few/dup.png": "duplicate",
    }
    assert rows["ant/bomb.png"]["bytes"] == len(bomb.getvalue())
    loaded = manifest.load(str(directory))
    assert loaded.classes == ("ant", "bee")
    four = ("seen", "written", "quarantined", "duplicates")
    assert [loaded.ledger[key] for key in four] == [34, 21, 12, 1]
    assert {name: [counts[key] for key in four] for name, counts in loaded.ledger["by_class"].items()} == {
        "ant": [20, 11, 9, 0],
        "bee": [11, 10, 1, 0],
        "few": [3, 0, 2, 1],
        "none": [0, 0, 0, 0],
    }
    for file in set(left_out) - {"ant/b\udcffd.png"}:
        assert f"  {file}: " in outcome.out
    assert "  ant/b\\udcffd.png: 0 bytes" in outcome.out
    assert "conflicting_labels (2): The same bytes lie under several classes; decide for one" in outcome.out
    assert "  ant/dangling.png: No such file or directory" in outcome.out
    assert "  ant/0.png: same bytes as bee/conflict.png" in outcome.out
    assert "class folder 'none' holds no file" in outcome.err
    assert "left out beside the class folders (2): __MACOSX, notes.txt" in outcome.err
    assert "left out inside the class folders: 1 hidden files" in outcome.err


def test_too_few_classes_after_inspection(command: Command, tmp_path: pathlib.Path) -> None:
    root = make_folders(tmp_path / "in", {"ant": 5, "bee": 0, "cat": 1})
    (root / "bee/text.jpg").write_text("no image")
    line = command(input=root, output=tmp_path / "out").refusal
    assert "needs two classes with usable images, and only 'ant' is left" in line
    assert "'bee': of 1 files 1 not_an_image; 'cat': of 1 files 1 class_too_small" in line
    assert list((tmp_path / "out").rglob("*.*")) == []


def test_a_finished_dataset_is_refused_and_kept_without_overwrite(command: Command, tmp_path: pathlib.Path) -> None:
    root = make_folders(tmp_path / "in", {"ant": 5, "bee": 5})
    assert command(input=root, output=tmp_path / "out").status == 0
    directory = tmp_path / "out/tiny/1.0.0"
    before = contents(directory)
    line = command(input=root, output=tmp_path / "out", seed=1).refusal
    assert f"{directory} already holds a finished dataset: give another --version, or --overwrite" in line
    assert contents(directory) == before
    # Fewer shards this time: none of the old ones may stay.
    outcome = command(input=root, output=tmp_path / "out", seed=1, max_workers=2, overwrite=True)
    assert outcome.status == 0
    after = manifest.load(str(directory))
    assert after.settings["seed"] == 1
    shard_files = {shard.file for split in after.splits.values() for shard in split.shards}
    metadata = {
        "dataset_info.json",
        "features.json",
        "label.labels.txt",
        "report.html",
        "manifest.json",
        "ledger-00000-of-00001.jsonl",
    }
    assert set(contents(directory)) == shard_files | metadata


def test_a_dead_job_s_folder_is_cleared_and_somebody_elses_dataset_is_not(
    command: Command, tmp_path: pathlib.Path
) -> None:
    """Another program's dataset has the very file names that ours have."""
    root = make_folders(tmp_path / "in", {"ant": 5, "bee": 5})
    directory, dead = tmp_path / "out/tiny/1.0.0", tmp_path / "out/tiny/1.0.0.incomplete-dead"
    for folder in (directory, dead):
        folder.mkdir(parents=True)
        (folder / "tiny-train.tfrecord-00099-of-00100").write_text("old")
    for given in ({}, {"overwrite": True}):
        line = command(input=root, output=tmp_path / "out", **given).refusal
        assert (
            f"{directory} is no dataset of ours, having no manifest.json, and holds tiny-train.tfrecord-00099" in line
        )
    assert (directory / "tiny-train.tfrecord-00099-of-00100").read_text() == "old"
    assert not dead.exists()
    (directory / "tiny-train.tfrecord-00099-of-00100").unlink()
    assert command(input=root, output=tmp_path / "out").status == 0


def test_a_dataset_in_the_place_of_its_own_input_is_refused(command: Command, tmp_path: pathlib.Path) -> None:
    root = make_folders(tmp_path / "out/tiny", {"ant": 5, "bee": 5})
    for output in (f"{tmp_path}/out", f"file://{tmp_path}/out"):
        line = command(input=root, output=output).refusal
        assert f"--output={output} with --name=tiny lies inside --input={root}" in line
    assert {path.name for path in root.iterdir()} == {"ant", "bee"}

    assert command(input=root, output=tmp_path / "data").status == 0
    directory = tmp_path / "data/tiny/1.0.0"
    before = contents(directory)
    line = command(input=directory, output=tmp_path / "data", overwrite=True).refusal
    assert f"--input={directory} lies where the dataset would be written" in line
    assert contents(directory) == before


def test_an_output_that_cannot_be_written(command: Command, tmp_path: pathlib.Path) -> None:
    make_folders(tmp_path / "in", {"ant": 5, "bee": 5})
    (tmp_path / "out").write_text("a file in the way")
    assert (
        f"--output={tmp_path}/out cannot be written" in command(input=tmp_path / "in", output=tmp_path / "out").refusal
    )


@pytest.mark.parametrize("now", [b"other bytes", None])
def test_a_file_that_changes_meanwhile_stops_the_job_by_name(tmp_path: pathlib.Path, now: bytes | None) -> None:
    make_folders(tmp_path / "in", {"ant": 1, "bee": 1})
    checked = settings.parse(**{**GOOD, "input": [str(tmp_path / "in")], "output": str(tmp_path / "out")})
    for folder in (checked.staging, checked.scratch):
        os.makedirs(folder)
    inputs = open_inputs(checked.inputs)
    batch = [source for source in inputs[0].sources("ant") if isinstance(source, Source)]
    ((_, facts),) = inspection.inspect(batch, inputs, checked.storing)
    if now is None:
        (tmp_path / "in/ant/0.png").unlink()
    else:
        (tmp_path / "in/ant/0.png").write_bytes(now)
    layout = Layout(("ant", "bee"), {"train": SplitLayout(1, 10, {"ant": 1, "bee": 0})}, {})
    with pytest.raises(InputError, match=rf"{tmp_path}/in/ant/0\.png .* run the same command again"):
        list(shards.write_shard(("train", 0), [facts], checked, layout, inputs))


@pytest.mark.parametrize("address", ["s3://bucket/photos", "nosuch://bucket/photos"])
def test_an_address_that_cannot_be_reached(command: Command, tmp_path: pathlib.Path, address: str) -> None:
    assert f"--input={address} cannot be reached" in command(input=address, output=tmp_path / "out").refusal
    make_folders(tmp_path / "in", {"ant": 5, "bee": 5})
    assert f"--output={address} cannot be written" in command(input=tmp_path / "in", output=address).refusal


def test_a_job_server_that_does_not_answer(command: Command, tmp_path: pathlib.Path) -> None:
    make_folders(tmp_path / "in", {"ant": 5, "bee": 5})
    arguments = "--runner=PortableRunner --job_endpoint=localhost:1"
    assert "nobody answers at --job_endpoint=localhost:1" in reject(command, tmp_path, beam_args=arguments)


def test_a_plan_for_a_place_that_is_taken(command: Command, tmp_path: pathlib.Path) -> None:
    make_folders(tmp_path / "in", {"ant": 5, "bee": 5})
    assert command(input=tmp_path / "in", output=tmp_path / "out").status == 0
    assert (
        "already holds a finished dataset" in command(input=tmp_path / "in", output=tmp_path / "out", plan=True).refusal
    )


def test_an_output_that_a_link_brings_inside_the_input(command: Command, tmp_path: pathlib.Path) -> None:
    make_folders(tmp_path / "in", {"ant": 5, "bee": 5})
    (tmp_path / "link").symlink_to(tmp_path / "in")
    assert "lies inside --input" in command(input=tmp_path / "in", output=tmp_path / "link/out").refusal


@contextlib.contextmanager
def full_disk(file_bytes: int) -> Iterator[None]:
    """No file may grow larger, which fails where a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("file_bytes", "named"), [(500, "tiny-train.tfrecord-0000"), (8_000, "ledger-00000-of-00001.jsonl"), (30_000, "")]
)
def test_a_disk_that_fills_up(command: Command, tmp_path: pathlib.Path, file_bytes: int, named: str) -> None:
    """Amid the shards, the ledger or the report, each larger than those before."""
    root = make_folders(tmp_path / "in", {"ant": 20, "bee": 20})
    with full_disk(file_bytes):
        line = command(input=root, output=tmp_path / "out").refusal
    assert line.startswith(f"error: cannot write {tmp_path}/out/tiny/1.0.0.incomplete-")
    assert f"/dataset/{named}" in f"{line.partition(': File')[0]}/"
    assert line.endswith(": File too large; free space or check permissions")
    assert list((tmp_path / "out/tiny").iterdir()) == []


def test_a_disk_that_fills_up_where_tfds_writes(tmp_path: pathlib.Path) -> None:
    root = make_folders(tmp_path / "in", {"ant": 2, "bee": 2})
    with places.prepare(publisher.new_settings(str(root), str(tmp_path / "out"), "a"), overwrite=False) as ready:
        given = publisher.staged(ready.settings)
        with full_disk(10), pytest.raises(InputError, match=r"^cannot write .*File too large; free space"):
            given.publish()
    assert not (tmp_path / "out/tiny/1.0.0").exists()
