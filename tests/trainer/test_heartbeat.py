"""Signs of life that cost next to nothing, and are read whole."""

from __future__ import annotations

import pathlib
import time
import timeit

import pytest

from trainer import heartbeat
from trainer.heartbeat import Heartbeat, Reading


def test_what_is_written_is_read(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "PERIOD_S", 0.0)
    path = str(tmp_path / "beats")
    assert heartbeat.read(path) == Reading(0, 0, 0)
    beat = Heartbeat(path)
    assert heartbeat.read(path)[:2] == (0, 0)
    beat()
    assert heartbeat.read(path)[:2] == (1, 0)
    beat(12345)
    beat()  # as in an evaluation: it moves, and takes no step
    assert heartbeat.read(path)[:2] == (3, 12345)
    beat(7)  # after it went back
    assert heartbeat.read(path)[:2] == (4, 7)


def test_the_pulse_goes_on_by_itself(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "PULSE_PERIOD_S", 0.01)
    path = str(tmp_path / "beats")
    Heartbeat(path)
    deadline = time.monotonic() + 10
    while heartbeat.read(path).pulse < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert heartbeat.read(path)[:2] == (0, 0)


def test_it_writes_a_few_times_a_second_at_most_and_the_latest_step(tmp_path: pathlib.Path) -> None:
    path, began = str(tmp_path / "beats"), time.monotonic()
    beat = Heartbeat(path)
    step = 0
    while (passed_s := time.monotonic() - began) < 3 * heartbeat.PERIOD_S:
        step += 1
        beat(step)
    number, written, _ = heartbeat.read(path)
    assert 2 <= number <= passed_s / heartbeat.PERIOD_S + 1
    assert 0 < written < step


def test_most_calls_cost_microseconds(tmp_path: pathlib.Path) -> None:
    beat = Heartbeat(str(tmp_path / "beats"))
    assert min(timeit.repeat(beat, number=1000, repeat=20)) / 1000 < 20e-6  # 0.3e-6 where nobody else computes


def test_without_a_file_nothing_is_done(tmp_path: pathlib.Path) -> None:
    Heartbeat(None)(3)
    Heartbeat("")(3)
    heartbeat.silent(3)
    with pytest.raises(FileNotFoundError):
        Heartbeat(str(tmp_path / "nowhere" / "beats"))
