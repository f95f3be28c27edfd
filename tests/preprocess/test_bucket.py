"""The whole job with its output in a bucket, served by another process: requests that fail, and jobs that die."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from pipeline import storage, versions
from preprocess.inputs import listing, open_inputs, reading
from tests.preprocess.folders import Outcome, make_folders
from tests.preprocess.test_publish import assert_whole, contents


@pytest.fixture
def folders(tmp_path: pathlib.Path) -> pathlib.Path:
    return make_folders(tmp_path / "in", {"ant": 8, "bee": 8})


def test_conditions_are_the_service_s(bucket: str) -> None:
    path, other = f"{bucket}/a/x", f"{bucket}/a/y"
    versions.replace(path, b"1", "")
    data, first = versions.read(path) or (b"", "")
    assert data == b"1"
    with pytest.raises(FileExistsError):
        versions.replace(path, b"2", "")
    with pytest.raises(FileExistsError):
        versions.remove(path, str(int(first) + 1))
    versions.copy_new(path, other)
    with pytest.raises(FileExistsError):
        versions.copy_new(path, other)
    with pytest.raises(FileNotFoundError):
        versions.copy_new(f"{bucket}/none", f"{bucket}/b")
    versions.replace(path, b"1", first)
    assert versions.version(path) not in ("", first)
    versions.remove(path, versions.version(path))
    versions.remove(path, first)
    assert versions.read(path) is None
    assert list(storage.files_under(bucket)) == ["a/y"]
    storage.remove_tree(f"{bucket}/a")
    storage.remove_tree(f"{bucket}/a")
    assert not storage.exists(other)


@pytest.mark.parametrize("size", [10, 6 << 20])
def test_an_upload_that_fails_leaves_no_object(bucket: str, size: int) -> None:
    def fails() -> None:
        with storage.whole_file(f"{bucket}/x") as stream:
            stream.write(b"\r\n" * size)
            raise OSError("the input is gone")

    with pytest.raises(OSError, match="the input is gone"):
        fails()
    assert not storage.exists(f"{bucket}/x")
    storage.write_bytes(f"{bucket}/x", b"\r\n" * size)
    assert storage.read_bytes(f"{bucket}/x") == b"\r\n" * size


def test_parts_are_checked_as_well(
    serve_bucket: Callable[..., str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_PIECE_BYTES", 400)
    monkeypatch.setattr(reading, "_AHEAD_BYTES", 100)
    bucket = serve_bucket("--flips=0.4")
    rows = "path,label\n" + "".join(f"photos/{number:03}.png,{number % 3}\n" for number in range(100))
    (tmp_path / "all.csv").write_text(rows)
    storage.copy(str(tmp_path / "all.csv"), f"{bucket}/all.csv")
    (there,), (here,) = open_inputs([f"{bucket}/all.csv"]), open_inputs([str(tmp_path / "all.csv")])
    assert there.pieces() == here.pieces()
    assert len(there.pieces()) == 5
    for piece in there.pieces():
        assert list(there.sources(piece)) == list(here.sources(piece))
    paths = [f"{bucket}/all.csv"] * 20
    assert list(reading.read_files(paths, 1 << 20, remote=True)) == [rows.encode()] * 20


@pytest.mark.parametrize("seed", [1, 2])
def test_failing_requests_change_nothing_about_the_dataset(
    serve_bucket: Callable[..., str],
    command: Callable[..., Outcome],
    folders: pathlib.Path,
    tmp_path: pathlib.Path,
    seed: int,
) -> None:
    assert command(input=folders, output=tmp_path / "disk", max_workers=2).status == 0
    output = serve_bucket("--failures=0.03", f"--seed={seed}")
    assert command(input=folders, output=output, max_workers=2).status == 0
    directory = f"{output}/tiny/1.0.0"
    assert contents(directory) == contents(str(tmp_path / "disk/tiny/1.0.0"))
    assert list(storage.files_under(output)) == [f"tiny/1.0.0/{name}" for name in sorted(contents(directory))]


def test_killed_in_the_middle_of_publishing_and_run_with_other_settings(
    serve_bucket: Callable[..., str],
    start: Callable[..., subprocess.Popen[str]],
    command: Callable[..., Outcome],
    folders: pathlib.Path,
) -> None:
    bucket = serve_bucket("--copy_s=0.3")
    process = start(input=folders, output=bucket, seed=7)
    deadline = time.monotonic() + 120
    while not storage.exists(f"{bucket}/tiny/1.0.0.claim"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not storage.exists(f"{bucket}/tiny/1.0.0/manifest.json")
    again = command(input=folders, output=bucket)
    assert again.status == 0
    (note,) = [line for line in again.err.splitlines() if line.startswith("note: ")]
    assert note.startswith(f"note: {bucket}/tiny/1.0.0.incomplete-")
    assert note.endswith(" belongs to another job: delete it if that job is dead")
    assert_whole(f"{bucket}/tiny/1.0.0")
    assert command(input=folders, output=f"{bucket}/x").status == 0
    assert contents(f"{bucket}/tiny/1.0.0") == contents(f"{bucket}/x/tiny/1.0.0")
    # Publishing displaced the dead job, which cleared its folder and its claim.
    assert storage.children(f"{bucket}/tiny") == [("1.0.0", True)]
