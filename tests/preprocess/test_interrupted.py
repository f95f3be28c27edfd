"""A job that is killed: nothing half-done counts as a dataset, and the next run gives what an undisturbed one gives."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from pipeline import manifest
from tests.preprocess.folders import Outcome, contents


def slow_folders(root: pathlib.Path) -> pathlib.Path:
    """Noise that is encoded again, so that writing takes a second or more."""
    noise = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True)
        for index in range(35):
            Image.fromarray(noise.integers(0, 256, (256, 256, 3), np.uint8)).save(root / name / f"{index}.bmp")
    return root


def kill_while_writing(process: subprocess.Popen[str], beside: pathlib.Path) -> None:
    deadline = time.monotonic() + 60
    while not list(beside.glob("1.0.0.incomplete-*/dataset/*.tfrecord-00003-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_killed_and_run_again(
    start: Callable[..., subprocess.Popen[str]], command: Callable[..., Outcome], tmp_path: pathlib.Path
) -> None:
    folders = slow_folders(tmp_path / "in")
    directory = tmp_path / "out/tiny/1.0.0"
    kill_while_writing(start(input=folders, output=tmp_path / "out"), directory.parent)
    assert not directory.exists()
    (left,) = directory.parent.iterdir()
    (left / "dataset/tiny-train.tfrecord-00000-of-00099").write_text("of a run with other settings")
    again = command(input=folders, output=tmp_path / "out")
    assert again.status == 0
    assert f"cleared the unfinished {left}\n" in again.err
    assert list(directory.parent.iterdir()) == [directory]
    assert command(input=folders, output=tmp_path / "undisturbed").status == 0
    assert contents(directory) == contents(tmp_path / "undisturbed/tiny/1.0.0")

    # Replacing it is killed as well: the old one is whole until the new one is.
    before = contents(directory)
    kill_while_writing(start(input=folders, output=tmp_path / "out", seed=7, overwrite=True), directory.parent)
    assert contents(directory) == before
    manifest.verify(str(directory), manifest.load(str(directory)), ["train", "validation", "test"])
