"""Counts from workers in; Beam counters on every runner, and a line per stage on stderr while a local job runs, out.

Beam's local runner answers `run()` only when the job has ended, and its counters with it. So each process of a local
job also keeps its sums in one small file of a folder for temporary files, which the command reads twice a second. The
folder's name travels in the environment: worker processes on this machine inherit it, others know nothing of it.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from apache_beam.metrics import Metrics

# Everything the job counts; the order is that of the sums in a process's file.
FILES_SEEN = "files_seen"  # listed, hidden ones left out
FILES_INSPECTED = "files_inspected"
IMAGES_PLACED = "images_placed"  # have a split, and so a shard to come
IMAGES_WRITTEN = "images_written"
QUARANTINED = "quarantined"
DUPLICATES = "duplicates"
HIDDEN_FILES = "hidden_files"
NOT_GROUPED = "files_without_group"  # in which --group_by finds nothing
COUNTERS = (
    FILES_SEEN,
    FILES_INSPECTED,
    IMAGES_PLACED,
    IMAGES_WRITTEN,
    QUARANTINED,
    DUPLICATES,
    HIDDEN_FILES,
    NOT_GROUPED,
)

_NAMESPACE = "preprocess"
_FOLDER = "SHARDLINE_PROGRESS"
_SUMS = struct.Struct(f"={len(COUNTERS)}q")
_TERMINAL_PERIOD_S = 0.5
_LOG_FILE_PERIOD_S = 10.0  # a line twice a second would fill a log file
_WINDOW_S = 30.0  # of the speed: shorter and the time left jumps, longer and it hides that a bucket has become slow
_MIN_SPEED_S = 1.0  # before, a speed says little
_CLEAR_LINE = "\r\x1b[K"


@dataclasses.dataclass(frozen=True)
class Stage:
    counter: str
    total: str  # the counter that says how many there will be; empty where nothing does
    verb: str
    noun: str


STAGES = (
    Stage(FILES_SEEN, "", "listed", "files"),
    Stage(FILES_INSPECTED, FILES_SEEN, "inspected", "files"),
    Stage(IMAGES_WRITTEN, IMAGES_PLACED, "written", "images"),
)


def counter(name: str) -> Any:
    """The Beam counter of that name, to add to in a worker or to ask a finished job for."""
    return Metrics.counter(_NAMESPACE, name)


def count(name: str, number: int = 1) -> None:
    """Adds to one of `COUNTERS`; for workers, once per batch. Never raises for want of a place to write."""
    counter(name).inc(number)
    _shared.add(name, number)


def count_left_out(status: str, reason: str, number: int = 1) -> None:
    """Counts ledger rows that are not "written", under their reason too: Beam's `quarantined_cannot_decode`."""
    count(DUPLICATES if status == "duplicate" else QUARANTINED, number)
    if reason:
        counter(f"{QUARANTINED}_{reason}").inc(number)


@contextlib.contextmanager
def shown(stream: TextIO | None = None, period_s: float | None = None) -> Iterator[None]:
    """While the body runs, shows on `stream` (stderr) what its workers on this machine count; then nothing more.

    On a terminal the line is rewritten in place, elsewhere there is a new one every 10 seconds: short jobs are silent.
    """
    stream = stream or sys.stderr
    terminal = stream.isatty()
    period_s = period_s or (_TERMINAL_PERIOD_S if terminal else _LOG_FILE_PERIOD_S)
    with tempfile.TemporaryDirectory(prefix="shardline-progress-", ignore_cleanup_errors=True) as folder:
        before = os.environ.get(_FOLDER)
        os.environ[_FOLDER] = folder
        ended = threading.Event()
        ticker = threading.Thread(
            target=_tick, args=(folder, stream, terminal, period_s, ended), name="progress", daemon=True
        )
        ticker.start()
        try:
            yield
        finally:
            ended.set()
            ticker.join()
            if before is None:
                del os.environ[_FOLDER]
            else:
                os.environ[_FOLDER] = before


class Display:
    """Turns sums, as they grow, into lines: the newest of the running stage, and a last one of each that has ended."""

    def __init__(self) -> None:
        self._running: Stage | None = None
        self._history: collections.deque[tuple[float, int]] = collections.deque()

    def update(self, now_s: float, sums: Mapping[str, int]) -> tuple[str, str]:
        """Returns (last line of the stage that has just ended or "", line of the running stage or "")."""
        begun = [stage for stage in STAGES if sums.get(stage.counter, 0)]
        if not begun:
            return "", ""
        last = ""
        if begun[-1] != self._running:
            if self._running:
                last = self._line(self._running, now_s, sums)
            self._running = begun[-1]
            self._history.clear()
        return last, self._line(self._running, now_s, sums)

    def _line(self, stage: Stage, now_s: float, sums: Mapping[str, int]) -> str:
        done = sums[stage.counter]
        total = sums.get(stage.total, 0)
        if not self._history or self._history[-1][1] < done or done < total:  # when all is done the clock stands still
            self._history.append((now_s, done))
            while len(self._history) > 2 and self._history[1][0] <= now_s - _WINDOW_S:
                self._history.popleft()
        (first_s, first), (last_s, newest) = self._history[0], self._history[-1]
        speed = (newest - first) / (last_s - first_s) if last_s - first_s >= _MIN_SPEED_S else 0.0
        return describe(stage, done, total, speed)


def describe(stage: Stage, done: int, total: int, per_s: float) -> str:
    """`total` and `per_s` are 0 where they are not known."""
    line = f"{stage.verb} {done:,}{f' of {total:,}' if total else ''} {stage.noun}"
    if per_s:
        line += f", {per_s:,.0f}/s" if per_s >= 10 else f", {per_s:.1f}/s"
        if done < total:
            line += f", about {_duration((total - done) / per_s)} left"
    return line


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _tick(folder: str, stream: TextIO, terminal: bool, period_s: float, ended: threading.Event) -> None:
    display = Display()
    line = ""
    with contextlib.suppress(OSError, ValueError):  # a stream that was closed; nobody looks, and the job goes on
        while not ended.wait(period_s):
            last, line = display.update(time.monotonic(), _read(folder))
            if terminal and line:
                stream.write(_CLEAR_LINE + (f"{last}\n" if last else "") + line)
            elif line:
                stream.write((f"{last}\n" if last else "") + f"{line}\n")
            stream.flush()
        if terminal and line:  # what comes next begins on a line of its own
            stream.write(_CLEAR_LINE + display.update(time.monotonic(), _read(folder))[1] + "\n")
            stream.flush()


def _read(folder: str) -> dict[str, int]:
    totals = [0] * len(COUNTERS)
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with open(os.path.join(folder, name), "rb") as file:
                data = file.read()
            if len(data) == _SUMS.size:
                totals = list(map(sum, zip(totals, _SUMS.unpack(data), strict=True)))
    return dict(zip(COUNTERS, totals, strict=True))


class _Shared:
    """This process's sums in its own file. One small write per batch needs no pacing and nothing to flush."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._place: tuple[str, int] | None = None
        self._file: int | None = None
        self._sums = [0] * len(COUNTERS)

    def add(self, name: str, number: int) -> None:
        folder = os.environ.get(_FOLDER, "")
        with self._lock, contextlib.suppress(OSError):  # a full disk or a job that has just ended
            if self._place != (folder, os.getpid()):
                self._open(folder)
            if self._file is not None:
                self._sums[COUNTERS.index(name)] += number
                os.pwrite(self._file, _SUMS.pack(*self._sums), 0)

    def _open(self, folder: str) -> None:
        """Begins anew for another job, and in a process that was forked off with the sums of its parent."""
        if self._file is not None and self._place and self._place[1] == os.getpid():
            os.close(self._file)
        self._place, self._file, self._sums = (folder, os.getpid()), None, [0] * len(COUNTERS)
        if folder:
            self._file = os.open(os.path.join(folder, str(os.getpid())), os.O_WRONLY | os.O_CREAT, 0o600)


_shared = _Shared()
