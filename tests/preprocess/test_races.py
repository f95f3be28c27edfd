"""Two processes publish different content at the same moment: exactly one wins, and the other is told in one line."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.preprocess.folders import make_folders
from tests.preprocess.publisher import new_settings
from tests.preprocess.test_publish import assert_whole

ROUNDS = 3


@pytest.fixture
def inputs(tmp_path: pathlib.Path) -> list[str]:
    return [str(make_folders(tmp_path / str(index), {"ant": 2, "bee": 2}, first=100 * index)) for index in range(2)]


def race(inputs: list[str], output: str, *more: str) -> list[tuple[int, str]]:
    """Runs one job per input up to publishing, then lets all go at once; returns their exit statuses and last lines."""
    script = pathlib.Path(__file__).with_name("publisher.py")
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), source, output, f"{os.urandom(4).hex()}", *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for source in inputs
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ended = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert err == ""
        ended.append((process.returncode, out))
    return ended


def assert_one_winner(inputs: list[str], output: str, *more: str) -> None:
    (status, out), (other_status, other_out) = sorted(race(inputs, output, *more))
    assert (status, out) == (0, "published\n"), (out, other_out)
    assert other_status == 2, (out, other_out)
    assert re.match(r"error: (another job published|job \w+ publishes|\S+ was deleted while it was being)", other_out)
    assert other_out.count("\n") == 1
    assert_whole(new_settings(inputs[0], output, "a").directory)


def test_on_a_disk(inputs: list[str], tmp_path: pathlib.Path) -> None:
    for number in range(ROUNDS):
        output = str(tmp_path / f"out{number}")
        assert_one_winner(inputs, output)
        assert_one_winner(inputs, output, "--overwrite")
        assert_one_winner(inputs, output, "--overwrite")
        assert [path.name for path in (tmp_path / f"out{number}/tiny").iterdir()] == ["1.0.0"]


def test_in_a_bucket(inputs: list[str], bucket: str) -> None:
    for number in range(ROUNDS):
        assert_one_winner(inputs, f"{bucket}/{number}")
        assert_one_winner(inputs, f"{bucket}/{number}", "--overwrite")


def test_equal_content_has_no_loser(inputs: list[str], bucket: str, tmp_path: pathlib.Path) -> None:
    for output in (str(tmp_path / "out"), bucket):
        assert race([inputs[0]] * 2, output) == [(0, "published\n")] * 2
        assert_whole(new_settings(inputs[0], output, "a").directory)
