"""One contender in a process of its own; one line of JSON out for each line that comes in.

    PYTHON -m tests.bench.input_window CONTENDER KIND WORKERS BATCHES

Endless batches are made and run warm; each `measure` on standard input then takes BATCHES of them,
and prints what they cost. Keeping all contenders alive is what lets their rounds alternate without an import each;
between windows they stop themselves and their children. One that waits but runs would fill its buffers for nothing:
grain reads 500 batches ahead, and a window of 64 then seems to cost a tenth of what it does.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from tests.bench import measure

BATCH, SIDE = 32, 224
_WARM_BATCHES = 40  # more than an epoch of trashnet, so that caches are full and files are open
_AGAIN_BATCHES = 4  # before each window: threads start again, and caches of the processor are another's
_CPUCLOCK_SCHED = 2  # linux/posix-timers.h: a process's own clock, from its id


def cpu_s() -> tuple[float, list[int]]:
    """User and system seconds of this process and all its descendants, alive or not; and those that are alive."""
    living = measure.descendants(os.getpid())[1:]
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + sum(map(_clock, living)), living


def _clock(pid: int) -> float:
    try:
        # /proc counts in hundredths of a second only; clock_getcpuclockid(3) computes the same number.
        return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        return 0.0  # it ended meanwhile, and its parent has its time


def _check(batch: Any) -> None:
    shape, dtype = tuple(batch.shape), str(batch.dtype).rpartition(".")[2].strip("'<> ")
    if shape not in ((BATCH, SIDE, SIDE, 3), (BATCH, 3, SIDE, SIDE)) or "float32" not in dtype:
        raise ValueError(f"a batch of {shape} {dtype}")


def _take(batches: Iterator[Any], count: int) -> None:
    for _ in range(count):
        next(batches)


def serve(batches: Iterator[Any], window: int) -> None:
    _check(next(batches))
    _take(batches, min(_WARM_BATCHES, window))
    done, children = cpu_s()
    _answer({"ready": 1.0}, children)
    per_1000 = window * BATCH / 1000
    for _ in sys.stdin:
        waiting = cpu_s()[0] - done
        _take(batches, min(_AGAIN_BATCHES, window))
        (cpu, _), wall = cpu_s(), time.monotonic()
        _take(batches, window)
        lasted = time.monotonic() - wall
        done, children = cpu_s()
        facts = {
            "cpu_s_per_1000": (done - cpu) / per_1000,
            "images_per_s": 1000 * per_1000 / lasted,
            "waiting_s_per_1000": waiting / per_1000,  # spent since the last answer, which should be nothing
        }
        _answer(facts, children)


def _answer(facts: dict[str, float], children: list[int]) -> None:
    """Stops the children, answers, and stops this process; whoever asks next continues them all.

    The children are given, because looking for them takes milliseconds in which all threads go on.
    """
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    print(json.dumps(facts), flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)


def main(contender: str, kind: str, workers: str, window: str) -> None:
    from tests.bench import contenders, input_data

    serve(contenders.start(contender)(input_data.photos(kind), int(workers)), int(window))


if __name__ == "__main__":
    main(*sys.argv[1:])
