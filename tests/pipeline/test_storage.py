"""Files on disk and in fsspec's memory, through the same functions."""

from __future__ import annotations

import concurrent.futures
import errno
import os
import pathlib
import uuid

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import storage, versions


@pytest.fixture(params=["disk", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    return str(tmp_path) if request.param == "disk" else f"memory://{uuid.uuid4().hex}"


def test_join() -> None:
    assert storage.join("/data/", "leaves", "1.0.0") == "/data/leaves/1.0.0"
    assert storage.join("gs://bucket", "leaves") == "gs://bucket/leaves"
    assert storage.join("/", "data") == "/data"


def test_what_is_written_is_read_listed_copied_and_removed(root: str) -> None:
    for name in ("b/2", "b/10", "a.txt", "b/c/1"):
        storage.write_text(storage.join(root, name), name)
    assert storage.read_bytes(storage.join(root, "b/c/1")) == b"b/c/1"
    assert storage.children(root) == [("a.txt", False), ("b", True)]
    assert list(storage.files_under(root)) == ["a.txt", "b/10", "b/2", "b/c/1"]
    assert storage.size_bytes(storage.join(root, "a.txt")) == 5
    storage.copy(storage.join(root, "a.txt"), storage.join(root, "d/a.txt"))
    assert storage.read_bytes(storage.join(root, "d/a.txt")) == b"a.txt"
    storage.remove_tree(storage.join(root, "b"))
    storage.remove_tree(storage.join(root, "b"))
    assert list(storage.files_under(root)) == ["a.txt", "d/a.txt"]
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


def test_scan_finds_every_file_without_following_links(root: str) -> None:
    for name in ("b/2", "b/10", "a.txt", "b/c/1"):
        storage.write_text(storage.join(root, name), name)
    expected = [("a.txt", False, None), ("b/10", False, None), ("b/2", False, None), ("b/c/1", False, None)]
    assert list(storage.scan(root)) == expected
    if storage.is_local(root):
        os.symlink("..", storage.join(root, "b/up"))
        assert list(storage.scan(storage.join(root, "b")))[2] == ("up", True, None)
        ((name, is_link, error),) = storage.scan(storage.join(root, "none"))
        assert (name, is_link) == ("", False)
        assert isinstance(error, FileNotFoundError)


def test_read_part_reads_a_range(root: str) -> None:
    path = storage.join(root, "x")
    storage.write_text(path, "0123456789")
    assert storage.read_part(path, 0, 100) == b"0123456789"
    assert storage.read_part(path, 3, 4) == b"3456"
    assert storage.read_part(path, 10, 4) == b""
    with pytest.raises(FileNotFoundError):
        storage.read_part(storage.join(root, "none"), 0, 1)


class Marked(MemoryFileSystem):  # type: ignore[misc]  # fsspec ships no types
    """Lists a folder inside itself, as bucket drivers do where somebody made the folder by hand, and keeps listings."""

    protocol = "marked"
    kept: set[str] = set()  # noqa: RUF012  # one for all instances, as fsspec's memory is

    def invalidate_cache(self, path: str | None = None) -> None:
        self.kept.discard(str(path))

    def ls(self, path: str, detail: bool = True, **options: object) -> list[dict[str, object]]:
        self.kept.add(path)
        return [{"name": path.rstrip("/"), "type": "directory", "size": 0}, *super().ls(path, detail=True)]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("marked://").strip("/")


def test_folders_made_by_hand_in_a_bucket_are_not_inside_themselves() -> None:
    fsspec.register_implementation("marked", Marked, clobber=True)
    root = f"marked://{uuid.uuid4().hex}"
    storage.write_text(f"{root}/ant/1", "1")
    assert storage.children(root) == [("ant", True)]
    Marked.kept.clear()
    assert list(storage.scan(root)) == [("ant/1", False, None)]
    assert Marked.kept == set()  # ten million names would fill a worker's memory


def test_a_whole_file_appears_when_it_is_complete_or_not_at_all(tmp_path: pathlib.Path) -> None:
    path, scratch = tmp_path / "out/x", tmp_path / "scratch"
    with pytest.raises(FileNotFoundError), storage.whole_file(str(path), str(scratch)):
        pass  # the job's folder is gone: nobody makes a new one
    scratch.mkdir()
    path.parent.mkdir()
    with storage.whole_file(str(path), str(scratch)) as slow:
        with storage.whole_file(str(path), str(scratch)) as fast:
            fast.write(b"fast")
            slow.write(b"slow")
            assert not path.exists()
            assert len(list(scratch.iterdir())) == 2
        assert path.read_bytes() == b"fast"
    assert path.read_bytes() == b"slow"  # the last to end
    with pytest.raises(TypeError), storage.whole_file(str(path), str(scratch)) as stream:
        stream.writelines([b"half", None])  # type: ignore[list-item]  # the mistake in the middle
    assert path.read_bytes() == b"slow"
    assert list(scratch.iterdir()) == []
    assert list(path.parent.iterdir()) == [path]


def test_link_or_copy(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = storage.join(root, "a/x"), storage.join(root, "b/x")
    storage.write_bytes(source, b"1")
    storage.link_or_copy(source, target)
    storage.link_or_copy(source, target)  # a repeated step
    assert storage.read_bytes(target) == b"1"
    assert list(storage.files_under(root)) == ["a/x", "b/x"]
    assert not storage.is_local(root) or os.path.samefile(source, target)
    storage.write_bytes(source, b"2")  # a new file under the old name: the link keeps the old content
    assert storage.read_bytes(target) == b"1"

    def refuses(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuses)
        storage.link_or_copy(source, target)
    assert storage.read_bytes(target) == b"2"
    assert not storage.is_local(root) or not os.path.samefile(source, target)
    with pytest.raises(FileNotFoundError):
        storage.link_or_copy(storage.join(root, "none"), target)


def test_versions_tell_equal_content_apart(root: str) -> None:
    path = storage.join(root, "x")
    assert versions.version(path) == ""
    versions.replace(path, b"1", "")
    data, first = versions.read(path) or (b"", "")
    assert data == b"1"
    for expected in ("", "another"):
        with pytest.raises(FileExistsError):
            versions.replace(path, b"2", expected)
    versions.replace(path, b"1", first)
    assert versions.version(path) not in ("", first)
    with pytest.raises(FileExistsError):
        versions.remove(path, first)
    versions.copy_new(path, storage.join(root, "y"))
    with pytest.raises(FileExistsError):
        versions.copy_new(path, storage.join(root, "y"))
    versions.remove(path, versions.version(path))
    versions.remove(path, first)
    assert list(storage.files_under(root)) == ["y"]


def test_of_many_threads_one_creates(root: str) -> None:
    def create(number: int) -> bool:
        try:
            versions.replace(storage.join(root, "x"), str(number).encode(), "")
        except FileExistsError:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(32))) == 1
