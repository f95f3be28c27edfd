"""A bucket whose answers fail, or arrive cut or with flipped bits, in another process: the same bytes, or an error."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable

import pytest

from pipeline import bucket_client, buckets, storage, versions

DATA = bytes(range(256)) * 40
LARGE = DATA * 1000  # beyond what one request uploads


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries show nothing here."""
    monkeypatch.setattr(bucket_client, "_FIRST_PAUSE_S", 0.01)


def test_folders_are_in_names_only(bucket: str) -> None:
    for name in ("a/b/1", "a/b/2", "a/c", "ab"):
        storage.write_text(f"{bucket}/{name}", name)
    storage.write_bytes(f"{bucket}/a/", b"")  # as consoles make a folder
    assert storage.children(f"{bucket}/a") == storage.children(f"{bucket}/a/") == [("b", True), ("c", False)]
    assert list(storage.files_under(bucket)) == ["a/b/1", "a/b/2", "a/c", "ab"]
    assert [name for name, *_ in storage.scan(f"{bucket}/a")] == ["c", "b/1", "b/2"]
    for path, is_folder in ((bucket, True), (f"{bucket}/a", True), (f"{bucket}/a/c", False), (f"{bucket}/ab", False)):
        assert (storage.exists(path), storage.is_directory(path)) == (True, is_folder)
    for path in (f"{bucket}/b", f"{bucket}/a/b/1/x"):
        assert (storage.exists(path), storage.is_directory(path)) == (False, False)
        with pytest.raises(FileNotFoundError, match=path):
            storage.children(path)
        for function in (storage.size_bytes, storage.identity, storage.read_bytes, storage.open_file):
            with pytest.raises(FileNotFoundError, match=path):
                function(path)
    storage.remove_tree(f"{bucket}/a")
    assert list(storage.files_under(bucket)) == ["ab"]


def test_cut_and_flipped_answers_are_asked_for_again(
    serve_bucket: Callable[..., str], faults: Callable[[], dict[str, int]], tmp_path: pathlib.Path
) -> None:
    bucket = serve_bucket("--failures=0.1", "--cuts=0.2", "--flips=0.2")
    for number in range(10):
        path = f"{bucket}/{number}"
        storage.write_bytes(path, DATA)
        assert storage.read_bytes(path) == DATA
        assert storage.read_part(path, 0, len(DATA) + 1) == DATA
        with storage.open_file(path) as stream:
            assert stream.read() == DATA
        storage.copy(path, str(tmp_path / "x"))
        assert (tmp_path / "x").read_bytes() == DATA
        assert versions.read(path) == (DATA, versions.version(path))
    storage.write_bytes(f"{bucket}/large", LARGE)
    assert storage.read_bytes(f"{bucket}/large") == LARGE
    assert faults().keys() == {"requests", "503 before", "503 after", "cut", "cut unseen", "flip"}


def test_what_never_arrives_whole_is_named(serve_bucket: Callable[..., str], tmp_path: pathlib.Path) -> None:
    bucket = serve_bucket("--flips=1")
    storage.write_bytes(f"{bucket}/x", DATA)
    for read in (
        storage.read_bytes,
        storage.open_file,
        lambda path: storage.read_part(path, 0, 1 << 20),
        lambda path: storage.copy(path, str(tmp_path / "x")),
    ):
        with pytest.raises(ConnectionError, match=rf"^{bucket}/x arrived damaged 5 times"):
            read(f"{bucket}/x")
    assert list(tmp_path.iterdir()) == []
    assert storage.read_part(f"{bucket}/x", 1, 4) != DATA[1:5]  # of a part nobody can say; whoever asks has its hash


def test_a_bucket_that_is_down_is_given_up_in_time(
    serve_bucket: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    bucket = serve_bucket("--failures=1")
    monkeypatch.setattr(bucket_client, "PATIENCE_S", 1.0)
    (tmp_path / "x").write_bytes(DATA)
    path = f"{bucket}/folder/x"
    for ask in (
        storage.exists,  # no answer is no "no": a run would begin anew over its checkpoints
        storage.is_directory,
        storage.children,
        storage.read_bytes,
        storage.open_file,
        storage.remove_tree,
        lambda path: storage.write_bytes(path, DATA),
        lambda path: storage.copy(str(tmp_path / "x"), path),
        lambda path: storage.copy(path, f"{path}2"),
        lambda path: versions.replace(path, DATA, ""),
    ):
        began = time.monotonic()
        with pytest.raises(ConnectionError, match=rf"^{path} can't be reached for 1 s \(status 503\)$") as raised:
            ask(path)
        assert "\n" not in str(raised.value)
        assert time.monotonic() - began < 10


def test_an_upload_that_nobody_answers_is_there_once(serve_bucket: Callable[..., str]) -> None:
    """Half of the failures come after the object was made: created again it would be found, and be another's."""
    bucket = serve_bucket("--failures=0.5", "--seed=3")
    created = 0
    for number in range(30):
        try:
            versions.replace(f"{bucket}/{number}", DATA, "")
            created += 1
        except FileExistsError:  # this very one, so that whoever creates has to look
            assert buckets.read_bytes(f"{bucket}/{number}") == DATA
    assert 0 < created < 30
