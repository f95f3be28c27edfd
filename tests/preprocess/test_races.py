"""Processes publish different content at the same moment: exactly one wins, and the others are told in one line."""

from __future__ import annotations

import collections
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest

from pipeline import storage
from tests.preprocess.folders import make_folders
from tests.preprocess.publisher import new_settings
from tests.preprocess.test_publish import assert_whole

ROUNDS = 3
PUBLISHERS, RACES = 8, 50
PUBLISHED = "published"


def make_inputs(root: pathlib.Path, count: int) -> list[str]:
    return [str(make_folders(root / str(index), {"ant": 2, "bee": 2}, first=100 * index)) for index in range(count)]


@pytest.fixture
def start() -> Iterator[Callable[[int], list[subprocess.Popen[str]]]]:
    """Starts processes of `publisher.py`, which are ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def run(count: int) -> list[subprocess.Popen[str]]:
        script = pathlib.Path(__file__).with_name("publisher.py")
        started.extend(
            subprocess.Popen(
                [sys.executable, str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(count)
        )
        return started[-count:]

    yield run
    for process in started:
        process.kill()
        _, err = process.communicate()
        assert err == ""


def tell(processes: Sequence[subprocess.Popen[str]], lines: Sequence[str]) -> None:
    for process, line in zip(processes, lines, strict=True):
        assert process.stdin is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()


def hear(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    answers = []
    for process in processes:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()
        answers.append(line.rstrip("\n"))
    return answers


def race(processes: Sequence[subprocess.Popen[str]], inputs: Sequence[str], output: str, *more: str) -> list[str]:
    """Runs one job per input up to publishing, then lets all go at once; returns what each says in the end."""
    tell(processes, [" ".join([source, output, os.urandom(4).hex(), *more]) for source in inputs])
    assert hear(processes) == ["ready"] * len(inputs)
    tell(processes, [""] * len(inputs))
    return hear(processes)


def assert_one_winner(
    processes: Sequence[subprocess.Popen[str]], inputs: Sequence[str], output: str, *more: str
) -> collections.Counter[str]:
    """Returns how often each was said, without names."""
    said = race(processes, inputs, output, *more)
    assert said.count(PUBLISHED) == 1, said
    told = r"error: (another job published|job \w+ publishes|\S+ was deleted while it was being)"
    found = [re.match(told, answer) for answer in said if answer != PUBLISHED]
    assert all(found), said
    assert_whole(new_settings(inputs[0], output, "a").directory)
    return collections.Counter(
        [PUBLISHED, *(re.sub(r"gs:\S+|job [0-9a-f]{8}\b", "…", match[1]) for match in found if match)]
    )


def test_on_a_disk(start: Callable[[int], list[subprocess.Popen[str]]], tmp_path: pathlib.Path) -> None:
    processes, inputs = start(2), make_inputs(tmp_path, 2)
    for number in range(ROUNDS):
        output = str(tmp_path / f"out{number}")
        assert_one_winner(processes, inputs, output)
        assert_one_winner(processes, inputs, output, "--overwrite")
        assert_one_winner(processes, inputs, output, "--overwrite")
        assert [path.name for path in (tmp_path / f"out{number}/tiny").iterdir()] == ["1.0.0"]


def test_in_a_bucket(bucket: str, start: Callable[[int], list[subprocess.Popen[str]]], tmp_path: pathlib.Path) -> None:
    processes, inputs = start(2), make_inputs(tmp_path, 2)
    for number in range(ROUNDS):
        assert_one_winner(processes, inputs, f"{bucket}/{number}")
        assert_one_winner(processes, inputs, f"{bucket}/{number}", "--overwrite")
        assert storage.children(f"{bucket}/{number}/tiny") == [("1.0.0", True)]


def test_equal_content_has_no_loser(
    bucket: str, start: Callable[[int], list[subprocess.Popen[str]]], tmp_path: pathlib.Path
) -> None:
    processes, inputs = start(2), make_inputs(tmp_path, 1) * 2
    for output in (str(tmp_path / "out"), bucket):
        assert race(processes, inputs, output) == [PUBLISHED] * 2
        assert_whole(new_settings(inputs[0], output, "a").directory)


@pytest.mark.soak
@pytest.mark.parametrize("failures", [0.0, 0.05])
def test_fifty_races_of_eight(
    serve_bucket: Callable[..., str],
    faults: Callable[[], dict[str, int]],
    start: Callable[[int], list[subprocess.Popen[str]]],
    tmp_path: pathlib.Path,
    failures: float,
) -> None:
    bucket = serve_bucket(f"--failures={failures}")
    processes, inputs = start(PUBLISHERS), make_inputs(tmp_path, PUBLISHERS)
    tally: collections.Counter[str] = collections.Counter()
    for number in range(RACES):
        # Every other race replaces what the one before published.
        replaces = ["--overwrite"] if number % 2 else []
        tally += assert_one_winner(processes, inputs, f"{bucket}/{number // 2}", *replaces)
        assert storage.children(f"{bucket}/{number // 2}/tiny") == [("1.0.0", True)]
    print(f"\n{RACES} races of {PUBLISHERS} at {failures:.0%} failures: {dict(tally)}; the bucket: {faults()}")
    assert faults()["status 412"] > RACES  # preconditions that did not hold any more
    assert tally[PUBLISHED] == RACES
    assert tally.total() == RACES * PUBLISHERS
