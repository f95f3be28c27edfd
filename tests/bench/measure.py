"""A command in, what it cost out: CPU and wall seconds of it and all its descendants, peak memory per process.

Linux only: memory is read from /proc, and workers that outlive their parent are inherited so that their CPU counts.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

REPOSITORY = pathlib.Path(__file__).parents[2]
_POLL_S = 0.1
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one command. Memory is the peak resident size in MiB."""

    cpu_s: float  # user and system, of the command and everything it started
    wall_s: float
    launcher_mib: float
    worker_mib: float  # the largest of the other processes, 0.0 where there were none
    processes: int
    output: str  # what it printed


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Cost:
    """Runs `command` in the repository's root to its end.

    Raises:
      RuntimeError: with the end of its output, where it failed.
    """
    _inherit_orphans()
    started = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
    ) as process:
        peaks: dict[int, float] = {}
        stop = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peaks, stop))
        watcher.start()
        assert process.stdout is not None
        output = process.stdout.read()
        cpu_s = _reap(process)
        stop.set()
        watcher.join()
    wall_s = time.monotonic() - started
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{output[-3000:]}")
    launcher = peaks.pop(process.pid, 0.0)
    return Cost(cpu_s, wall_s, launcher, max(peaks.values(), default=0.0), 1 + len(peaks), output)


def _inherit_orphans() -> None:
    """Makes this process the parent of descendants that lost theirs, and so the one that learns what they used."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def _reap(process: subprocess.Popen[str]) -> float:
    """Waits for the command and everything that it left behind; returns their CPU seconds."""
    cpu_s = 0.0
    while True:
        try:
            pid, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return cpu_s
        cpu_s += usage.ru_utime + usage.ru_stime
        if pid == process.pid:
            process.returncode = os.waitstatus_to_exitcode(status)


def _watch(root: int, peaks: dict[int, float], stop: threading.Event) -> None:
    """Notes the peak of every process below `root`; the kernel keeps the peak, so that seldom looks are enough."""
    while not stop.wait(_POLL_S):
        for pid in descendants(root):
            try:
                text = pathlib.Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue  # it ended meanwhile
            for line in text.splitlines():
                if line.startswith("VmHWM:"):
                    peaks[pid] = int(line.split()[1]) / 1024


def descendants(root: int) -> list[int]:
    """`root` and every process below it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = pathlib.Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def alternate(cases: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Runs all cases one after the other, `repeats` times over; returns each one's median.

    What slows the machine for a while then falls on all of them and not on one.
    """
    results: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats):
        for name, case in cases.items():
            results[name].append(case())
            print(f"  {repeat + 1}/{repeats} {name}: {results[name][-1]:.3f}", file=sys.stderr, flush=True)
    return {name: statistics.median(values) for name, values in results.items()}


def facts() -> str:
    """The machine and the libraries, in one line per kind."""
    from importlib.metadata import PackageNotFoundError, version

    def found(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"{name} missing"

    processor = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in processor if line.startswith("model name")), "unknown")
    names = ("apache-beam", "pillow", "numpy", "tensorflow", "tensorflow-datasets", "webdataset", "google-crc32c")
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{model}, {os.cpu_count()} cores (load {load} before), {platform.system()} {platform.release()}\n"
        f"Python {platform.python_version()}, {', '.join(map(found, names))}"
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first row is the head, the first column is text, the others are numbers."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |" for row in rows]
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
