"""A worker's signs of life in; a small local file, from which its supervisor knows that it moves and how far, out.

Beats say that something was done, and may be minutes apart while a graph is built. A thread's pulse says only that the
process runs at all, and that once a second: one that is stopped is told from one that is busy within seconds.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

VARIABLE = "SHARDLINE_HEARTBEAT"  # of the environment: the file's name; without it nothing is written
PERIOD_S = 0.25  # between two writes: far below any time after which somebody would worry

PULSE_PERIOD_S = 1.0
# Without a pulse a process counts as stopped. Other threads get the interpreter within milliseconds; what keeps it for
# itself, such as reading weights, was seen to take 2 s, and a machine with four times the load that it has cores, 5.
STOPPED_S = 15.0

Beat = Callable[..., None]  # as `Heartbeat.__call__`


class Heartbeat:
    """To be called at least as often as something is done; most calls only look at the clock."""

    def __init__(self, path: str | None) -> None:
        """Raises OSError where there can't be such a file."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600) if path else None
        self._count = 0
        self._step = 0
        self._due = 0.0
        if self._file is not None:
            os.pwrite(self._file, _BEATS % (0, 0), 0)
            threading.Thread(target=self._pulse, args=(self._file,), name="pulse", daemon=True).start()

    def __call__(self, step: int | None = None) -> None:
        """Something was done, maybe the step to global step `step`."""
        if self._file is None:
            return
        if step is not None:
            self._step = step
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + PERIOD_S
        self._count += 1
        os.pwrite(self._file, _BEATS % (self._count, self._step), 0)

    @staticmethod
    def _pulse(file: int) -> None:
        for number in itertools.count(1):
            os.pwrite(file, b"%20d\n" % number, len(_BEATS % (0, 0)))
            time.sleep(PULSE_PERIOD_S)


def silent(step: int | None = None) -> None:
    """A `Beat` that nobody listens to."""


class Reading(NamedTuple):
    number: int = 0  # of the beat
    step: int = 0  # the last that was told
    pulse: int = 0


def read(path: str) -> Reading:
    """What the worker that beats into `path` wrote last; all zero before its first beat."""
    try:
        with open(path, "rb") as stream:
            return Reading(*map(int, stream.read().split()))
    except FileNotFoundError:
        return Reading()


_BEATS = b"%20d %20d\n"  # always of one length, so that it replaces the last one whole
