"""Several --input together, of any kinds, and reading ahead where files are remote."""

from __future__ import annotations

import pathlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import storage
from pipeline.errors import InputError
from preprocess.inputs import find_classes, open_inputs, reading


def folders(root: pathlib.Path, *names: str) -> pathlib.Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def test_kinds_are_mixed_and_equal_names_are_one_class(tmp_path: pathlib.Path, digits: str) -> None:
    first = folders(tmp_path / "first", "7/1.jpg", "notes.txt")
    second = folders(tmp_path / "second", "train/ant/1.jpg", "test/ant/2.jpg")
    (tmp_path / "third.csv").write_text("path,label\nx.jpg,bee\n")
    inputs = open_inputs([str(first), str(second), f"{tmp_path}/third.csv", digits])
    assert find_classes(inputs).names == (*map(str, range(10)), "ant", "bee")
    assert find_classes(inputs).left_out == (f"{first}/notes.txt",)
    assert [one.splits for one in inputs] == [(), ("train", "test"), (), ("train", "validation", "test")]
    indices = {source.input for one in inputs for piece in one.pieces() for source in one.sources(piece)}  # type: ignore[union-attr]
    assert indices == {0, 1, 2, 3}


def test_names_of_all_inputs_stand_beside_each_other(tmp_path: pathlib.Path) -> None:
    folders(tmp_path / "first", "Ant/1.jpg", "bee/1.jpg")
    (tmp_path / "x.csv").write_text("path,label\nx.jpg,ant\n")
    with pytest.raises(InputError) as refusal:
        find_classes(open_inputs([f"{tmp_path}/first", f"{tmp_path}/x.csv"]))
    told = f"class folder 'Ant' in {tmp_path}/first and label 'ant' in {tmp_path}/x.csv differ only in case"
    assert told in str(refusal.value)


def test_inputs_that_overlap_are_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders(tmp_path / "in", "ant/a/1.jpg", "bee/b/1.jpg", "x.csv")
    (tmp_path / "in/x.csv").write_text("path,label\nx.jpg,bee\n")
    (tmp_path / "link").symlink_to("in")
    folders(tmp_path / "in-more", "ant/1.jpg")
    monkeypatch.chdir(tmp_path)
    for second in ("in/", f"{tmp_path}/in", "./in", "link"):
        with pytest.raises(InputError, match=r"is given twice .*: drop one"):
            open_inputs(["in", second])
    for first, second in (("in", "in/ant"), ("in/ant", "in"), ("in", "link/x.csv")):
        with pytest.raises(
            InputError, match=r"/(ant|x\.csv) lies inside --input=.*/in, so its files would count twice"
        ):
            open_inputs([first, second])
    assert len(open_inputs(["in", "in-more"])) == 2


class SlowFileSystem(MemoryFileSystem):  # type: ignore[misc]  # fsspec ships no types
    """A bucket: each request takes 50 ms; how many are under way at most is counted."""

    protocol = "slow"
    store: dict[str, Any] = {}  # noqa: RUF012  # as fsspec has it
    pseudo_dirs = [""]  # noqa: RUF012
    lock = threading.Lock()
    running = most = requests = 0
    broken = ""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("slow://").strip("/")

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        cls = type(self)
        with cls.lock:
            cls.running += 1
            cls.requests += 1
            cls.most = max(cls.most, cls.running)
        time.sleep(0.05)
        with cls.lock:
            cls.running -= 1
        if cls.broken and path.endswith(cls.broken):
            raise OSError("503 try again")
        data: bytes = super().cat_file(path)
        if start is not None and start >= len(data):
            raise RuntimeError("416 Range Not Satisfiable")  # what HTTP answers, RFC 9110 section 15.5.17
        return data[start:end]


@pytest.fixture
def slow() -> Iterator[type[SlowFileSystem]]:
    fsspec.register_implementation("slow", SlowFileSystem, clobber=True)
    SlowFileSystem.store.clear()
    SlowFileSystem.running = SlowFileSystem.most = SlowFileSystem.requests = 0
    SlowFileSystem.broken = ""
    yield SlowFileSystem
    SlowFileSystem.store.clear()


def bucket(names: dict[str, bytes]) -> str:
    for name, data in names.items():
        with storage.open_file(f"slow://in/{name}", "wb") as stream:
            stream.write(data)
    return "slow://in"


def test_remote_files_are_read_ahead_in_order_and_within_bounds(slow: type[SlowFileSystem]) -> None:
    files = {f"ant/{number}.jpg": b"%d" % number for number in range(100)}
    (one,) = open_inputs([bucket({**files, "ant/empty.jpg": b"", "bee/1.jpg": b"1"})])
    names = [*files, "ant/none.jpg", "ant/empty.jpg"]
    *data, missing, empty = one.read_many(names, 100)
    assert data == list(files.values())
    assert isinstance(missing, FileNotFoundError)
    assert empty == b""
    assert slow.most == reading.REQUESTS
    assert slow.requests == 102
    assert one.read("ant/7.jpg", 100) == b"7"


def test_no_more_is_read_ahead_than_asked_for(slow: type[SlowFileSystem]) -> None:
    names = [f"ant/{number}.jpg" for number in range(200)]
    (one,) = open_inputs([bucket({**dict.fromkeys(names, b"1"), "bee/1.jpg": b"1"})])
    left = iter(names)
    some = one.read_many(left, 100)
    assert next(some) == b"1"
    some.close()  # type: ignore[attr-defined]
    assert len(list(left)) == 200 - (reading.REQUESTS + 1)
    assert slow.requests <= reading.REQUESTS + 1


def test_large_remote_files_are_read_in_two_parts(slow: type[SlowFileSystem], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_AHEAD_BYTES", 10)
    sizes = [0, 9, 10, 11, 25, 40]
    files = {f"ant/{size}.jpg": bytes(range(size)) for size in sizes}
    (one,) = open_inputs([bucket({**files, "bee/1.jpg": b"1"})])
    assert list(one.read_many(files, 30)) == [bytes(range(min(size, 30))) for size in sizes]
    assert list(one.read_many(files, 5)) == [bytes(range(min(size, 5))) for size in sizes]


def test_a_bucket_that_fails_for_a_moment_says_nothing_of_the_file(slow: type[SlowFileSystem]) -> None:
    (one,) = open_inputs([bucket({"ant/1.jpg": b"1", "ant/2.jpg": b"2", "bee/1.jpg": b"1"})])
    slow.broken = "2.jpg"
    reader = one.read_many(["ant/1.jpg", "ant/2.jpg"], 10)
    assert next(reader) == b"1"
    with pytest.raises(OSError, match="503"):
        next(reader)
