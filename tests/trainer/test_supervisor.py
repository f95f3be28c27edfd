"""The supervisor with workers that fail in every way, as real processes: see `fake_worker` for what they are told."""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from tests.trainer.commands import REPOSITORY

# Options as keywords, the folder, and for each worker the words of its starts, joined by "|".
SUPERVISOR = """
import logging, sys
from trainer import supervisor

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
options, folder, *workers = sys.argv[1:]

def commands():
    print("watching", flush=True)  # from here on it hears signals
    return [
        supervisor.Command(index, [sys.executable, "-m", "tests.trainer.fake_worker", folder, str(index), *words.split("|")], {})
        for index, words in enumerate(workers)
    ]

sys.exit(supervisor.supervise(commands, **eval(options)))
"""  # noqa: E501
DEFAULTS = {"max_restarts": 3, "stall_timeout_s": 20.0, "grace_s": 10.0, "delay_scale": 0.01}

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Start]:
    """Starts a supervisor of workers that are told so, each by the words of its starts."""
    started = []

    def start_one(*workers: str, before: tuple[str, ...] = (), **options: float) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*before, sys.executable, "-c", SUPERVISOR, repr({**DEFAULTS, **options}), str(tmp_path), *workers],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "watching\n"
        return process

    yield start_one
    for process in started:
        process.kill()
        process.wait()


def _pids(folder: pathlib.Path, index: int) -> list[int]:
    """Of each start of a worker."""
    path = folder / f"worker-{index}"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def _wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _end(process: subprocess.Popen[str], *, status: int) -> tuple[str, str]:
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == status, stderr
    return stdout.replace("watching\n", ""), stderr


def test_what_is_done_is_done(start: Start, tmp_path: pathlib.Path) -> None:
    _, stderr = _end(start("beat:1 exit:0", "rest:1 exit:0"), status=0)
    assert stderr == "launch: done\n"
    assert [len(_pids(tmp_path, index)) for index in range(2)] == [1, 1]


def test_lines_stay_whole_and_say_whose_they_are(start: Start) -> None:
    """A progress bar moves its lines by carriage returns; the end of a line need not come."""
    first = r"say:one\ntw rest:0.3 say:o\n\n say:\r10%= rest:1.5 say:\r20%==\n say:last exit:0"
    stdout, _ = _end(start(first, r"say:other\n exit:0"), status=0)
    lines = collections.defaultdict(list)
    for line in stdout.splitlines():
        lines[line[:4]].append(line[4:])
    assert lines == {"[0] ": ["one", "two", "10%=", "20%==", "last"], "[1] ": ["other"]}


def test_a_line_that_does_not_go_on_is_shown(start: Start) -> None:
    process = start("say:10% freeze", stall_timeout_s=600)
    assert select.select([process.stdout], [], [], 30)[0]
    assert process.stdout.readline() == "[0] 10%\n"


@pytest.mark.parametrize("fails", ["exit:1", "die", "exit:134"])
def test_all_are_started_again_when_one_fails(start: Start, tmp_path: pathlib.Path, fails: str) -> None:
    """The other one hears no signal, as in a collective operation that waits for the first."""
    began = time.monotonic()
    _, stderr = _end(start(f"beat:3 {fails}|exit:0", "deaf beat:3 rest:60|exit:0"), status=0)
    assert "launch: worker 0" in stderr
    assert "at step 3; 2 more restarts" in stderr
    assert [len(_pids(tmp_path, index)) for index in range(2)] == [2, 2]
    assert time.monotonic() - began < 30
    assert not any(_alive(pid) for index in range(2) for pid in _pids(tmp_path, index))


def test_the_budget_is_spent_where_nothing_moves(start: Start, tmp_path: pathlib.Path) -> None:
    _, stderr = _end(start("beat:3 exit:1", max_restarts=2), status=1)
    assert stderr.splitlines()[-1] == (
        "launch: worker 0 ended with status 1 at step 3; 2 restarts in a row came no further: giving up"
    )
    assert len(_pids(tmp_path, 0)) == 3


def test_progress_fills_the_budget_again(start: Start, tmp_path: pathlib.Path) -> None:
    _end(start("|".join([*(f"beat:{step} exit:1" for step in (1, 1, 2, 2, 3)), "exit:0"]), max_restarts=2), status=0)
    assert len(_pids(tmp_path, 0)) == 6


def test_bad_input_ends_at_once(start: Start, tmp_path: pathlib.Path) -> None:
    """Also where its peer noticed first that the other was gone."""
    _end(start("deaf rest:1 exit:2", "rest:0.5 exit:1"), status=2)
    assert [len(_pids(tmp_path, index)) for index in range(2)] == [1, 1]


def test_preempted_workers_are_started_again_for_nothing(start: Start, tmp_path: pathlib.Path) -> None:
    _, stderr = _end(start("beat:3 exit:42|exit:42|exit:0", max_restarts=0), status=0)
    assert "launch: the workers were preempted at step 3, and saved; starting again" in stderr
    assert len(_pids(tmp_path, 0)) == 3


@pytest.mark.parametrize("stuck", ["deaf rest:60", "freeze"])
def test_a_worker_that_shows_no_sign_of_life_is_ended(start: Start, tmp_path: pathlib.Path, stuck: str) -> None:
    beats = " ".join(["beat:3"] * 200)
    _, stderr = _end(start(f"beat:3 {stuck}|exit:0", f"{beats}|exit:0", stall_timeout_s=2), status=0)
    assert "launch: no sign of life from worker 0 at step 3" in stderr
    assert not any(_alive(pid) for pid in _pids(tmp_path, 0))


def test_one_that_does_not_even_run_is_ended_long_before(start: Start, tmp_path: pathlib.Path) -> None:
    """The other one is as silent, and busy: it is not the one that is named."""
    _, stderr = _end(start("rest:1 freeze|exit:0", "rest:60|exit:0", stall_timeout_s=600, stopped_s=3), status=0)
    assert "launch: no sign of life from worker 0 at step 0" in stderr
    assert not any(_alive(pid) for pid in _pids(tmp_path, 0))


def test_one_that_never_beats_has_as_long_from_its_start(start: Start) -> None:
    _, stderr = _end(start("rest:60", stall_timeout_s=1, max_restarts=0), status=1)
    assert "no sign of life from worker 0 at step 0" in stderr


def test_beats_without_a_step_are_signs_of_life(start: Start, tmp_path: pathlib.Path) -> None:
    """As during a long evaluation."""
    _end(start(" ".join(["beat:3"] * 16) + " exit:0", stall_timeout_s=2), status=0)
    assert len(_pids(tmp_path, 0)) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_workers_save(start: Start, tmp_path: pathlib.Path, number: signal.Signals) -> None:
    process = start("saves beat:3 rest:60", "saves beat:3 rest:60")
    _wait_for(lambda: _pids(tmp_path, 0) and _pids(tmp_path, 1))
    time.sleep(0.5)
    process.send_signal(number)
    _, stderr = _end(process, status=42)
    assert "all is saved: start the same command to go on" in stderr


def test_a_signal_before_workers_have_begun_loses_nothing(start: Start) -> None:
    process = start("saves rest:60")
    process.send_signal(signal.SIGTERM)
    _end(process, status=42)


def test_who_has_begun_may_save_for_long_when_another_has_not(start: Start, tmp_path: pathlib.Path) -> None:
    process = start("rest:60", "saves:7 beat:3 rest:60")
    _wait_for(lambda: _pids(tmp_path, 0) and _pids(tmp_path, 1))
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _end(process, status=42)


def test_who_does_not_save_in_time_is_killed(start: Start, tmp_path: pathlib.Path) -> None:
    process = start("deaf beat:3 rest:60", "saves beat:3 rest:60", grace_s=1)
    _wait_for(lambda: _pids(tmp_path, 0) and _pids(tmp_path, 1))
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, stderr = _end(process, status=1)
    assert "not all was saved" in stderr
    assert not _alive(_pids(tmp_path, 0)[0])


def test_a_second_interrupt_waits_for_nobody(start: Start, tmp_path: pathlib.Path) -> None:
    process = start("deaf rest:600", grace_s=600, stall_timeout_s=600)
    _wait_for(lambda: _pids(tmp_path, 0))
    time.sleep(0.5)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    _end(process, status=1)


def test_a_signal_between_two_starts_ends(start: Start, tmp_path: pathlib.Path) -> None:
    process = start("beat:3 exit:1", delay_scale=10)
    assert "starting again in" in process.stderr.readline()
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    _end(process, status=42)
    assert len(_pids(tmp_path, 0)) == 1


def test_workers_die_with_a_supervisor_that_is_killed(start: Start, tmp_path: pathlib.Path) -> None:
    process = start("deaf rest:60", "freeze")
    _wait_for(lambda: _pids(tmp_path, 0) and _pids(tmp_path, 1))
    process.kill()
    process.wait()
    _wait_for(lambda: not any(_alive(_pids(tmp_path, index)[0]) for index in range(2)))


@pytest.mark.skipif(not shutil.which("unshare") or os.geteuid() != 0, reason="needs root and unshare")
def test_as_the_first_process_of_a_container_it_leaves_no_zombies(start: Start) -> None:
    """A worker leaves processes to it, and then lists those that have ended and were not taken leave of."""
    unshared = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if subprocess.run([*unshared, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no namespaces here")
    stdout, _ = _end(start("orphan orphan rest:2 zombies exit:0", before=unshared), status=0)
    assert stdout == "[0] zombies 0 of 2\n"
