"""Logs that lie elsewhere: what was sent is whole, what has not changed is not sent again, and nothing stays behind."""

from __future__ import annotations

import os
import pathlib
import tempfile
import uuid

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from pipeline import storage
from trainer import log_folder, tensorboard


@pytest.fixture
def temporary(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The folder of temporary files."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def fetch(folder: str, target: pathlib.Path) -> list[str]:
    """Copies a folder to a disk; returns the names of its files."""
    names = list(storage.files_under(folder))
    for name in names:
        storage.copy(storage.join(folder, name), str(target / name))
    return names


def test_what_has_changed_is_sent_whole(temporary: pathlib.Path) -> None:
    target = f"memory://{uuid.uuid4().hex}/logs"
    logs = log_folder.LogFolder(target)
    pathlib.Path(logs.local, "a").write_text("1")
    storage.write_text(storage.join(logs.local, "b/c"), "2")
    logs.send()
    assert list(storage.files_under(target)) == ["a", "b/c"]
    storage.remove_tree(storage.join(target, "a"))  # to see that it is not sent again
    with open(os.path.join(logs.local, "b/c"), "a") as stream:
        stream.write("3")
    logs.send()
    assert list(storage.files_under(target)) == ["b/c"]
    assert storage.read_bytes(storage.join(target, "b/c")) == b"23"
    pathlib.Path(logs.local, "d").write_text("4")
    logs.close()
    assert list(storage.files_under(target)) == ["b/c", "d"]
    assert list(temporary.iterdir()) == []


def test_somebody_who_watches_sees_it_before_the_next_checkpoint(
    temporary: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_folder, "_SEND_S", 0.01)
    target = f"memory://{uuid.uuid4().hex}/logs"
    logs = log_folder.LogFolder(target)
    logs.keep_sending()
    pathlib.Path(logs.local, "a").write_text("1")
    while not storage.exists(storage.join(target, "a")):
        pass
    logs.close()


def test_tensorboard_reads_what_was_flushed(
    temporary: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorboard, "_FILE_BYTES", 1000)  # so that there are several
    target = f"memory://{uuid.uuid4().hex}/logs"
    board = tensorboard.TensorBoard(target, first_step=0)
    for step in range(1, 21):
        board.scalars(step, {"train/loss": float(step)})
    board.flush()
    board.scalars(21, {"train/loss": 21.0})  # what a kill would take
    assert len(fetch(target, tmp_path / "fetched")) > 1
    events = EventAccumulator(str(tmp_path / "fetched"), tensor_size_guidance={"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Tensors("train/loss")] == list(range(1, 21))
    board.close(failed=False)
    assert list(temporary.iterdir()) == []
