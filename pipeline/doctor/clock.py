"""Measuring: work that can be repeated goes in, CPU and wall seconds of interleaved repeats come out."""

from __future__ import annotations

import functools
import os
import resource
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

REPEATS = 5
_TICK_S = 1e-6  # keeps a rate finite
_LEAST_REPEATS = 3  # below, a median is not better than any of its values
_WARM_UPS = 2  # the first compiles, opens files and fills caches; the second tells how long a round takes


class Spent(NamedTuple):
    """What some work took. CPU seconds are those of all threads of this process, user and system."""

    images: int
    cpu_s: float
    wall_s: float

    @property
    def cpu_s_per_1000(self) -> float:
        return 1000 * self.cpu_s / self.images

    @property
    def images_per_s(self) -> float:
        return self.images / self.wall_s


class Work(NamedTuple):
    """`run(rounds)` makes `images(rounds)` images; none of no rounds, and some of `least_rounds`."""

    run: Callable[[int], object]
    images: Callable[[int], int]
    least_rounds: int = 1


def timed(work: Callable[[], object], images: int) -> Spent:
    before, start = cpu_s(), time.perf_counter()
    work()
    return Spent(images, cpu_s() - before, time.perf_counter() - start)


def interleaved(
    works: Mapping[str, Work], *, seconds: float, tick: Callable[[str], None]
) -> tuple[dict[str, list[Spent]], dict[str, Spent]]:
    """Repeats all works in turn, so that what disturbs the machine disturbs each of them alike.

    A run of no rounds goes before each and is taken off it: starting costs TensorFlow some 50 ms of CPU every time,
    which training pays once.

    Args:
      seconds: how long all of it may take. Rounds are whole and every work is repeated `_LEAST_REPEATS` times at least,
        so that it may take longer.
      tick: called with the name before each pass.

    Returns:
      For each work its repeats, up to `REPEATS` and for all equally many; and its very first pass, of `least_rounds`.
    """
    start, pass_s = time.perf_counter(), seconds / passes(len(works))
    first: dict[str, Spent] = {}
    rounds: dict[str, int] = {}
    for name, work in works.items():
        for _ in range(_WARM_UPS):
            tick(name)
            warm = timed(functools.partial(work.run, work.least_rounds), work.images(work.least_rounds))
            first.setdefault(name, warm)
            if warm.wall_s > pass_s:  # long enough to tell
                break
        rounds[name] = work.least_rounds * max(1, round(pass_s / warm.wall_s))
    found: dict[str, list[Spent]] = {name: [] for name in works}
    for repeat in range(REPEATS):
        if repeat >= _LEAST_REPEATS and time.perf_counter() - start > seconds:
            break
        for name, work in works.items():
            tick(name)
            empty = timed(functools.partial(work.run, 0), 0)
            full = timed(functools.partial(work.run, rounds[name]), work.images(rounds[name]))
            found[name].append(Spent(full.images, full.cpu_s - empty.cpu_s, max(full.wall_s - empty.wall_s, _TICK_S)))
    return found, first


def passes(works: int) -> int:
    """How often `interleaved` calls `tick` at most."""
    return works * (_WARM_UPS + REPEATS)


def cpu_s() -> float:
    """CPU seconds of this process so far, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cores() -> float:
    """CPU cores this process may use: the machine's, its affinity's, or the container's share where that is lower."""
    allowed = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        with open("/sys/fs/cgroup/cpu.max") as stream:
            quota, period = stream.read().split()
        return min(allowed, int(quota) / int(period))
    except (OSError, ValueError):  # no cgroup v2, or the quota reads "max"
        return allowed


def machine_cpu_s() -> float | None:
    """CPU seconds that all processes of the machine have used; None where that can't be told apart from ours."""
    if cores() != os.cpu_count():  # the counters are the whole machine's, and we have a part of it
        return None
    try:
        with open("/proc/stat") as stream:
            user, nice, system, _idle, _waiting, interrupts, soft_interrupts = map(int, stream.readline().split()[1:8])
        return (user + nice + system + interrupts + soft_interrupts) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
