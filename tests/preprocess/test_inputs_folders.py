"""Class folders and split folders as --input: what counts, what is left out, what may never be read."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import pickle
import uuid

import pytest

from pipeline import storage
from pipeline.errors import InputError
from preprocess.inputs import Hidden, Input, Rejected, Source, find_classes, open_inputs


def write(root: pathlib.Path, *names: str) -> pathlib.Path:
    """Files that hold their own name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(name))
    return root


def everything(one: Input) -> list[Source | Rejected | Hidden]:
    """What all pieces give, as workers see it: after a journey as bytes."""
    one = pickle.loads(pickle.dumps(one))
    return [found for piece in one.pieces() for found in one.sources(piece)]


def opened(root: object, **options: object) -> Input:
    (one,) = open_inputs([str(root)], **options)  # type: ignore[arg-type]
    return one


def test_every_file_of_a_class_is_a_source_and_can_be_read_twice(tmp_path: pathlib.Path) -> None:
    names = [
        "ant/1.jpg",
        "ant/2 x#?%20.jpg",
        "ant/x.jpg/deep/3.png",
        "bee/new\nline.jpg",
        "bee/b\udcff.jpg",
        "bee/lá.jpg",
    ]
    one = opened(write(tmp_path / "in", *names))
    found = everything(one)
    assert found == [Source(0, name, name[:3]) for name in [*names[:3], "bee/b\udcff.jpg", "bee/lá.jpg", names[3]]]
    for _ in range(2):
        assert [one.read(source.file, 100) for source in found] == [os.fsencode(source.file) for source in found]
    assert one.read("ant/1.jpg", 3) == b"ant"
    assert one.splits == ()


def test_paths_longer_than_a_name_may_be_and_deeper_than_python_recurses(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "in", f"ant/{'x' * 250}/{'y' * 246}.jpg", "bee/1.jpg")
    folder = os.open(tmp_path / "in/bee", os.O_RDONLY)
    for _ in range(3000):  # deeper than any path may be long
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    found = everything(opened(tmp_path / "in"))
    assert [one.file for one in found if isinstance(one, Source)] == [f"ant/{'x' * 250}/{'y' * 246}.jpg", "bee/1.jpg"]
    (rejected,) = [one for one in found if isinstance(one, Rejected)]
    assert (rejected.reason, rejected.source.class_name) == ("cannot_read", "bee")
    assert rejected.detail == "the folder cannot be listed: File name too long"
    os.rename(tmp_path / "in/bee/d", tmp_path / "in/d")  # or pytest cannot clear its folder
    os.system(f"rm -r {tmp_path}/in/d")


def test_hidden_files_are_counted_and_not_read(tmp_path: pathlib.Path) -> None:
    hidden = ["ant/.DS_Store", "ant/.git/config", "ant/a/__MACOSX/1.jpg", "ant/a/.b/1.jpg"]
    root = write(
        tmp_path / "in", *hidden, "ant/a/1.jpg", "bee/x.y.jpg", "bee/my__MACOSX.jpg", ".git/x/y", "__MACOSX/ant/1"
    )
    write(root, "notes.txt")
    found = everything(opened(root))
    assert sorted(one.file for one in found if isinstance(one, Hidden)) == sorted(hidden)
    assert sorted(one.file for one in found if isinstance(one, Source)) == [
        "ant/a/1.jpg",
        "bee/my__MACOSX.jpg",
        "bee/x.y.jpg",
    ]
    assert len(found) == 7
    classes = find_classes([opened(root)])
    assert classes.names == ("ant", "bee")
    assert sorted(classes.left_out) == [".git", "__MACOSX", "notes.txt"]


def test_links_are_followed_inside_the_root_and_never_out_of_it(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "outside/secret.jpg", "in-and-more/secret.jpg")
    root = write(tmp_path / "in", "ant/1.jpg", "ant/sub/2.jpg", "bee/1.jpg")
    links = {
        "bee/inside.jpg": "../ant/1.jpg",
        "bee/absolute.jpg": str(root / "ant/1.jpg"),
        "bee/dangling.jpg": "nowhere.jpg",
        "bee/loop.jpg": "loop.jpg",
        "bee/out.jpg": "../../outside/secret.jpg",
        "bee/out-dangling.jpg": "../../outside/nothing.jpg",
        "bee/neighbour.jpg": "../../in-and-more/secret.jpg",  # whose address only begins like the root's
        "bee/out-folder": "../../outside",
        "bee/twice.jpg": "out-folder/secret.jpg",
        "bee/round": "..",
        "cat": "../outside",
        "dog": "ant/sub",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    one = opened(root)
    assert one.pieces() == ["ant", "bee", "dog"]
    assert one.classes().left_out == ("cat (a link that leads out of the input)",)
    found = everything(one)
    assert {one.source.file: one.reason for one in found if isinstance(one, Rejected)} == {
        "bee/out.jpg": "outside_root",
        "bee/out-dangling.jpg": "outside_root",
        "bee/neighbour.jpg": "outside_root",
        "bee/out-folder": "outside_root",
        "bee/twice.jpg": "outside_root",
        "bee/round": "cannot_read",
    }
    sources = [one.file for one in found if isinstance(one, Source)]
    assert len(found) == len(sources) + 6
    assert [file for file in sources if file.startswith("bee/")] == [
        "bee/1.jpg",
        "bee/absolute.jpg",
        "bee/dangling.jpg",
        "bee/inside.jpg",
        "bee/loop.jpg",
    ]
    read = dict(zip(sources, one.read_many(sources, 100), strict=True))
    assert read["bee/inside.jpg"] == read["bee/absolute.jpg"] == b"ant/1.jpg"
    assert read["dog/2.jpg"] == b"ant/sub/2.jpg"
    errors = {file: error.strerror for file, error in read.items() if isinstance(error, OSError)}
    assert errors == {
        "bee/dangling.jpg": "No such file or directory",
        "bee/loop.jpg": "Too many levels of symbolic links",
    }


def test_the_root_itself_may_be_a_link(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "real", "ant/1.jpg", "bee/1.jpg")
    (tmp_path / "real/ant/2.jpg").symlink_to("1.jpg")
    (tmp_path / "in").symlink_to("real")
    found = everything(opened(tmp_path / "in"))
    assert found == [Source(0, name, name[:3]) for name in ("ant/1.jpg", "ant/2.jpg", "bee/1.jpg")]


def test_pipes_and_folders_cannot_be_read_and_are_not_waited_for(tmp_path: pathlib.Path) -> None:
    root = write(tmp_path / "in", "ant/1.jpg", "bee/1.jpg")
    os.mkfifo(root / "ant/pipe.jpg")
    one = opened(root)
    assert "ant/pipe.jpg" in [found.file for found in everything(one) if isinstance(found, Source)]
    for file in ("ant/pipe.jpg", "ant"):
        with pytest.raises(OSError, match="not a regular file"):
            one.read(file, 10)


@pytest.mark.parametrize("validation", ["val", "valid", "Validation", "dev"])
def test_split_folders_are_kept_as_they_are(tmp_path: pathlib.Path, validation: str) -> None:
    root = write(tmp_path / "in", "Train/ant/1.jpg", "Train/bee/1.jpg", f"{validation}/bee/2.jpg", "test/cat/1.jpg")
    write(root, "README", "Train/list.txt", "test/.hidden/1.jpg")
    one = opened(root)
    assert one.splits == ("train", "validation", "test")
    expected = {
        Source(0, "Train/ant/1.jpg", "ant", "train"),
        Source(0, "Train/bee/1.jpg", "bee", "train"),
        Source(0, f"{validation}/bee/2.jpg", "bee", "validation"),
        Source(0, "test/cat/1.jpg", "cat", "test"),
    }
    assert set(everything(one)) == expected
    assert find_classes([one]).names == ("ant", "bee", "cat")
    assert sorted(find_classes([one]).left_out) == ["README", "Train/list.txt", "test/.hidden"]
    merged = opened(root, keep_splits=False)
    assert merged.splits == ()
    assert set(everything(merged)) == {dataclasses.replace(source, split="") for source in expected}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["train/ant/1", "val/ant/1", "validation/ant/1"],
            "'val' and 'validation' in {} both mean the split 'validation'",
        ),
        (["train/ant/1", "test/1.jpg"], "holds split folders, and 'test' has no class folders"),
        (["train/ant/1", "test/ant/1", "extra/ant/1"], "split folders test, train and beside them 'extra'"),
        (["train/ant/1", "test/Ant/1"], "class folders 'Ant' and 'ant' in {} differ only in case"),
        (["train/ant/1", "test/ant/1"], "holds one class folder only (ant)"),
        (["1.0.0/dataset_info.json", "1.1.0/x"], "holds versions of a TFDS dataset: give one, {}/1.0.0"),
    ],
)
def test_folders_that_cannot_be_what_they_seem(tmp_path: pathlib.Path, names: list[str], message: str) -> None:
    root = write(tmp_path / "in", *names)
    with pytest.raises(InputError) as refusal:
        find_classes([opened(root)])
    assert message.format(root) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_classes_may_be_called_like_splits(tmp_path: pathlib.Path) -> None:
    vehicles = write(tmp_path / "in", "train/ice/1.jpg", "car/red/2.jpg", "test/3.jpg")
    assert opened(vehicles).splits == ()
    assert opened(vehicles).classes().names == ("car", "test", "train")
    assert opened(write(tmp_path / "two", "train/1.jpg", "car/2.jpg")).classes().names == ("car", "train")


def test_groups_come_from_a_regular_expression_on_the_name(tmp_path: pathlib.Path) -> None:
    root = write(tmp_path / "in", "ant/p1_a.jpg", "ant/p1_b.jpg", "bee/p2/x_y.jpg", "bee/lone.jpg")
    found = everything(opened(root, group_by=r"/(?:.*/)?([^/]+)_"))
    assert {one.file: one.group for one in found if isinstance(one, Source)} == {
        "ant/p1_a.jpg": "p1",
        "ant/p1_b.jpg": "p1",
        "bee/p2/x_y.jpg": "x",
        "bee/lone.jpg": "",
    }


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "no regular expression"), ("a", "has 0 groups"), ("(a)(b)", "has 2 groups")]
)
def test_a_group_expression_has_exactly_one_group(tmp_path: pathlib.Path, pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_inputs([str(tmp_path)], group_by=pattern)


def test_folders_in_a_bucket(tmp_path: pathlib.Path) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    for name in ("train/ant/1.jpg", "train/bee/x/2.jpg", "test/ant/3.jpg", "test/ant/.x"):
        storage.write_text(storage.join(root, name), name)
    one = opened(root)
    found = everything(one)
    sources = [one.file for one in found if isinstance(one, Source)]
    assert sources == ["test/ant/3.jpg", "train/ant/1.jpg", "train/bee/x/2.jpg"]
    assert Hidden("test/ant/.x") in found
    assert list(one.read_many(sources, 100)) == [name.encode() for name in sources]
    (missing,) = one.read_many(["test/ant/no.jpg"], 100)
    assert isinstance(missing, FileNotFoundError)


def test_class_folders_that_are_links_elsewhere_are_said_to_be(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "elsewhere", "ant/1.jpg", "bee/1.jpg")
    root = write(tmp_path / "in", "notes.txt")
    splits = write(tmp_path / "splits", "train/ant/1.jpg", "test/notes.txt")
    for folder in (root, splits / "test"):
        for name in ("ant", "bee"):
            (folder / name).symlink_to(tmp_path / "elsewhere" / name)
    cure = "and nothing outside is read: copy the folders in, or give the one that holds them, or a listing"
    for folder, first, message in (
        (root, "ant", f"--input={root} holds 1 files but no class folders"),
        (splits, "test/ant", f"--input={splits} holds split folders, and 'test' has no class folders"),
    ):
        with pytest.raises(InputError) as refusal:
            opened(folder)
        assert str(refusal.value) == f"{message}, only {first} (a link that leads out of the input) and 1 more, {cure}"
