"""Files on disk and in fsspec's memory, through the same functions."""

from __future__ import annotations

import os
import pathlib
import uuid

import pytest

from pipeline import storage


@pytest.fixture(params=["disk", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    return str(tmp_path) if request.param == "disk" else f"memory://{uuid.uuid4().hex}"


def test_join() -> None:
    assert storage.join("/data/", "leaves", "1.0.0") == "/data/leaves/1.0.0"
    assert storage.join("gs://bucket", "leaves") == "gs://bucket/leaves"
    assert storage.join("/", "data") == "/data"


def test_what_is_written_is_read_listed_moved_and_removed(root: str) -> None:
    for name in ("b/2", "b/10", "a.txt", "b/c/1"):
        storage.write_text(storage.join(root, name), name)
    assert storage.read_bytes(storage.join(root, "b/c/1")) == b"b/c/1"
    assert storage.children(root) == [("a.txt", False), ("b", True)]
    assert list(storage.files_under(root)) == ["a.txt", "b/10", "b/2", "b/c/1"]
    assert storage.size_bytes(storage.join(root, "a.txt")) == 5
    storage.move(storage.join(root, "a.txt"), storage.join(root, "d/a.txt"))
    assert not storage.exists(storage.join(root, "a.txt"))
    assert storage.read_bytes(storage.join(root, "d/a.txt")) == b"a.txt"
    storage.remove_tree(storage.join(root, "b"))
    storage.remove_tree(storage.join(root, "b"))
    assert list(storage.files_under(root)) == ["d/a.txt"]
    with pytest.raises(FileNotFoundError):
        storage.size_bytes(storage.join(root, "b/2"))


def test_json_keeps_every_name_and_sorts_keys(root: str) -> None:
    path = storage.join(root, "x.json")
    storage.write_json(path, {"b": "lá chuối \udcff", "a": 1})
    assert list(storage.read_json(path).items()) == [("a", 1), ("b", "lá chuối \udcff")]


def test_a_failed_write_leaves_the_old_content(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "x")
    storage.write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        storage.write_text(path, "new \udcff")
    assert storage.read_bytes(path) == b"old"


@pytest.mark.parametrize(
    "name", ["two::colons.png", "a b#c?d%20.png", "lá.png", b"\xff.png".decode("utf-8", "surrogateescape")]
)
def test_any_file_name_works(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"1")
    assert list(storage.files_under(str(tmp_path))) == [name]
    assert storage.read_bytes(storage.join(str(tmp_path), name)) == b"1"
    assert storage.size_bytes(storage.join(str(tmp_path), name)) == 1


def test_pipes_and_folders_are_refused_and_not_waited_for(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match="not a regular file"):
            storage.read_bytes(str(tmp_path / name))


def test_links_to_folders_count_as_folders_at_the_top_and_as_files_below(tmp_path: pathlib.Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"1")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "circle").symlink_to("..")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert storage.children(str(tmp_path)) == [("dangling", False), ("link", True), ("real", True)]
    assert list(storage.files_under(str(tmp_path / "link"))) == ["circle", "x"]
