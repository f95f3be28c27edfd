"""A worker's signs of life in; a small local file, from which its supervisor knows that it moves and how far, out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

VARIABLE = "SHARDLINE_HEARTBEAT"  # of the environment: the file's name; without it nothing is written
PERIOD_S = 0.25  # between two writes: far below any time after which somebody would worry

Beat = Callable[..., None]  # as `Heartbeat.__call__`


class Heartbeat:
    """To be called at least as often as something is done; most calls only look at the clock."""

    def __init__(self, path: str | None) -> None:
        """Raises OSError where there can't be such a file."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600) if path else None
        self._count = 0
        self._step = 0
        self._due = 0.0

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
        # Of one length, so that it replaces the last one whole.
        os.pwrite(self._file, b"%20d %20d\n" % (self._count, self._step), 0)


def silent(step: int | None = None) -> None:
    """A `Beat` that nobody listens to."""


class Reading(NamedTuple):
    number: int = 0  # of the beat
    step: int = 0  # the last that was told


def read(path: str) -> Reading:
    """What the worker that beats into `path` wrote last; all zero before its first beat."""
    try:
        with open(path, "rb") as stream:
            number, step = stream.read().split()
    except (FileNotFoundError, ValueError):
        return Reading()
    return Reading(int(number), int(step))
