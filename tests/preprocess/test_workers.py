"""The same job in two worker processes: equal bytes, and errors that arrive as one line."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Callable

from tests.preprocess.folders import Outcome, contents, make_folders

TWO_WORKERS = "--runner=DirectRunner --direct_num_workers=2 --direct_running_mode=multi_processing"


def test_two_worker_processes_write_the_same_bytes(
    start: Callable[..., subprocess.Popen[str]], command: Callable[..., Outcome], tmp_path: pathlib.Path
) -> None:
    folders = make_folders(tmp_path / "in", {"ant": 30, "bee": 25})
    (folders / "bee/text.jpg").write_text("no image")
    (folders / "bee/again.png").write_bytes((folders / "bee/0.png").read_bytes())
    process = start(input=folders, output=tmp_path / "two", beam_args=TWO_WORKERS)
    assert command(input=folders, output=tmp_path / "one").status == 0
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert contents(tmp_path / "two/tiny/1.0.0") == contents(tmp_path / "one/tiny/1.0.0")


def test_a_refusal_inside_a_worker_is_one_line(
    start: Callable[..., subprocess.Popen[str]], tmp_path: pathlib.Path
) -> None:
    folders = make_folders(tmp_path / "in", {"ant": 5, "bee": 1})
    process = start(input=folders, output=tmp_path / "out", beam_args=TWO_WORKERS)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    # Beam's workers log what they like; what the user reads last is ours.
    assert err.splitlines()[-1] == (
        "error: a classifier needs two classes with usable images, and only 'ant' is left "
        "('bee': of 1 files 1 class_too_small): repair or add images"
    )
    assert not (tmp_path / "out/tiny/1.0.0").exists()
