"""A version is there whole or not at all, whoever else publishes and whenever it is killed."""

from __future__ import annotations

import hashlib
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from pipeline import storage
from tests.conftest import REPOSITORY
from trainer.export import publish

CARD = {"name": "leaves", "step": 3}
# Writes a part of an export, says so, and waits to be killed.
HALF = """
import sys, time
from trainer.export import publish
with publish.scratch(sys.argv[1]) as folder:
    open(f"{folder}/saved_model.pb", "wb").write(b"half")
    print(folder, flush=True)
    time.sleep(60)
"""


def export(workdir: str, content: bytes = b"model") -> int:
    with publish.scratch(workdir) as folder:
        storage.write_bytes(os.path.join(folder, "saved_model.pb"), content)
        storage.write_bytes(os.path.join(folder, "variables/variables.index"), b"index")
        return publish.publish(folder, workdir, CARD)


def test_versions_follow_each_other(tmp_path: pathlib.Path) -> None:
    workdir = str(tmp_path)
    assert publish.newest(workdir) is None
    assert [export(workdir), export(workdir, b"other")] == [1, 2]
    assert sorted(os.listdir(tmp_path / "exports")) == ["1", "2"]
    card = publish.read(workdir, 2)
    assert (
        card
        == publish.newest(workdir)
        == {
            **CARD,
            "version": 2,
            "files": {
                "saved_model.pb": {"bytes": 5, "sha256": hashlib.sha256(b"other").hexdigest()},
                "variables/variables.index": {"bytes": 5, "sha256": hashlib.sha256(b"index").hexdigest()},
            },
        }
    )
    (tmp_path / "exports/2/export.json").unlink()
    assert publish.newest(workdir)["version"] == 1  # without its card an export is none


def test_what_fails_leaves_nothing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "gone").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError), publish.scratch(str(tmp_path)) as folder:
        storage.copy(str(tmp_path / "gone"), os.path.join(folder, "saved_model.pb"))
    assert os.listdir(tmp_path / "exports") == []


def test_what_a_kill_leaves_is_no_version_and_goes_at_the_next_export(tmp_path: pathlib.Path) -> None:
    workdir = str(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HALF, workdir], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as process:
        left = process.stdout.readline().strip()
        assert export(workdir) == 1
        assert os.path.exists(left)  # somebody is still writing it
        process.send_signal(signal.SIGKILL)
    assert os.path.exists(left)
    assert export(workdir, b"other") == 2
    assert sorted(os.listdir(tmp_path / "exports")) == ["1", "2"]


def test_a_version_that_somebody_else_took_is_left_to_him(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(str(tmp_path))
    monkeypatch.setattr(publish, "_numbers", lambda workdir: [])  # what both saw before either published
    assert export(str(tmp_path), b"other") == 2
    assert (tmp_path / "exports/1/saved_model.pb").read_bytes() == b"model"
    assert publish.read(str(tmp_path), 2)["version"] == 2


def test_in_a_bucket_the_card_comes_last(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    workdir = f"{bucket}/runs/leaves"
    write, seen = storage.write_json, []

    def watched(path: str, value: object, scratch: str = "") -> None:
        seen.append(sorted(storage.files_under(f"{workdir}/exports/1")))
        write(path, value, scratch)

    monkeypatch.setattr(storage, "write_json", watched)
    assert export(workdir) == 1
    assert seen == [[".claimed", "saved_model.pb", "variables/variables.index"]]
    monkeypatch.undo()
    assert publish.newest(workdir)["version"] == 1
    assert export(workdir, b"other") == 2
