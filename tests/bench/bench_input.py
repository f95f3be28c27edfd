"""Trashnet in, tables out: what training input costs, ours beside the ways that others do it.

CPU seconds per 1,000 images are user and system time of a contender's process and all its children while it runs warm;
start and import are not in it. All contenders of a table are alive together and take turns, each window an equal number
of images, so that what slows the machine for a while falls on all; medians are shown.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence

from tests.bench import input_data, measure
from tests.bench.contenders import CACHED, INPUT, RANDAUGMENT, Contender

SECTIONS = ("photos", "cut", "records", "decoded", "decoded-records", "randaugment", "start")
_TITLES = {
    "photos": "trashnet as it is, 384x512",
    "cut": "trashnet cut to 375x500, quality 90",
    "records": "trashnet at a shorter side of 256, quality 90",
}
_TIMEOUT_S = 300  # for one window or until a contender is warm; the slowest takes a minute on an idle machine
_WAITING_SHARE = 0.05  # of a window's CPU, that may be spent between windows: stopping takes milliseconds


class Live:
    """A contender's process, warm and waiting for its turn."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 it lives as long as the process
        self._process = subprocess.Popen(
            command,
            cwd=measure.REPOSITORY,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.facts = self.read()

    def read(self) -> dict[str, float]:
        """The process's next line of JSON; its libraries may print others.

        Raises:
          RuntimeError: with the end of what it printed as errors, where the process ended instead or took too long.
        """
        assert self._process.stdout is not None
        timer = threading.Timer(_TIMEOUT_S, self._process.kill)
        timer.start()
        try:
            for line in self._process.stdout:
                if line.startswith("{"):
                    return dict(json.loads(line))
        finally:
            timer.cancel()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        killed = self._process.wait() == -signal.SIGKILL
        raise RuntimeError(": ".join([f"it took longer than {_TIMEOUT_S} s" if killed else "it ended", *lines[-1:]]))

    def measure(self) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write("measure\n")
        self._process.stdin.flush()
        self._resume()
        return self.read()

    def _resume(self) -> None:
        # It answers before it stops itself, and a signal to go on that came between the two would be lost.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        for pid in measure.descendants(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        if self._process.returncode is None:
            self._resume()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        self._errors.close()


def tables(sections: Sequence[str], chosen: Sequence[str], archives: pathlib.Path, repeats: int) -> Iterator[str]:
    """One table after the other, as they are done.

    Args:
      sections: of SECTIONS.
      chosen: names in `contenders`; empty takes all.

    Raises:
      FileNotFoundError: where trashnet is not in `archives`.
    """
    if not input_data.PEERS.exists():
        print("left out: what needs the peers' environment; make bench-peers makes it", file=sys.stderr)
    for section in sections:
        if section == "start":
            yield _start(input_data.prepare("photos", archives), repeats)
            continue
        if section == "randaugment":
            photos = input_data.prepare("records", archives)
            found = {name: one for name, one in RANDAUGMENT.items() if not chosen or name in chosen}
            title = "### RandAugment, 2 operations, magnitude 9: 224x224 in memory to float32 batches of 32"
            yield f"{title}\n\n" + compare(found, [photos.kind], repeats, base="albumentations")
            continue
        decoded = section.startswith("decoded")
        kind = (section.partition("-")[2] or "photos") if decoded else section
        photos = input_data.prepare(kind, archives)
        found = {name: one for name, one in (CACHED if decoded else INPUT).items() if not chosen or name in chosen}
        yield f"### Input{' from a decoded cache' if decoded else ''}: {_TITLES[kind]}\n\n" + compare(
            found, [photos.kind], repeats
        )


def compare(found: Mapping[str, Contender], arguments: Sequence[str], repeats: int, base: str = "plain") -> str:
    """Runs `found` in turns; of a contender's numbers of workers the one that takes the least CPU is shown."""
    with contextlib.ExitStack() as stack:
        live: dict[tuple[str, int], Live] = {}
        for name, one in found.items():
            for workers in one.workers:
                try:
                    live[name, workers] = _launch(one, [*arguments, str(workers), str(one.batches)])
                except (RuntimeError, FileNotFoundError) as error:
                    print(f"left out: {one.title}, {workers} workers: {error}", file=sys.stderr)
                    continue
                stack.callback(live[name, workers].close)
        costs: dict[tuple[str, int], list[dict[str, float]]] = {key: [] for key in live}
        for repeat in range(repeats):
            # Each round the other way about, because each contender leaves caches and clock as the next one finds them.
            for key in list(live)[:: -1 if repeat % 2 else 1]:
                try:
                    cost = live[key].measure()
                    if cost["waiting_s_per_1000"] > _WAITING_SHARE * cost["cpu_s_per_1000"]:
                        raise RuntimeError(f"it worked while it waited, so that its window says too little: {cost}")
                except RuntimeError as error:
                    print(f"left out: {found[key[0]].title}, {key[1]} workers: {error}", file=sys.stderr)
                    del live[key], costs[key]
                    continue
                costs[key].append(cost)
                print(f"  {repeat + 1}/{repeats} {key[0]} {key[1]}: {cost}", file=sys.stderr, flush=True)
    return _table(found, costs, base)


def _table(found: Mapping[str, Contender], costs: Mapping[tuple[str, int], list[dict[str, float]]], base: str) -> str:
    def median(key: tuple[str, int], what: str) -> float:
        return statistics.median(cost[what] for cost in costs[key])

    best: dict[str, tuple[str, int]] = {}
    for key in costs:
        if key[0] not in best or median(key, "cpu_s_per_1000") < median(best[key[0]], "cpu_s_per_1000"):
            best[key[0]] = key
    spent = {name: median(key, "cpu_s_per_1000") for name, key in best.items()}
    names = {base: f"x {base}", "limit": "x whole decode", "limit-crop": "x crop decode"}
    over = {title: spent[other] for other, title in names.items() if other in spent}
    rows = [["contender", "CPU-s per 1,000", *over, "lowest to highest", "images/s", "workers", "otherwise"]]
    for name, key in sorted(best.items(), key=lambda item: spent[item[0]]):
        ratios = [f"{spent[name] / value:.2f}" for value in over.values()]
        all_spent = [cost["cpu_s_per_1000"] for cost in costs[key]]
        lowest_to_highest = f"{min(all_spent):.3f} to {max(all_spent):.3f}"
        workers = str(key[1]) if found[name].peers else "auto"
        rate = f"{median(key, 'images_per_s'):,.0f}"
        row = [f"{spent[name]:.3f}", *ratios, lowest_to_highest, rate, workers, found[name].note]
        rows.append([found[name].title, *row])
    return measure.table(rows)


def _launch(one: Contender, arguments: Sequence[str]) -> Live:
    python = str(input_data.PEERS) if one.peers else sys.executable
    # What `make bench` puts on the path is made for the project's environment only.
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **({"PYTHONPATH": ""} if one.peers else {})}
    return Live([python, "-m", "tests.bench.input_window", one.function, *arguments], environment)


def _start(photos: input_data.Photos, repeats: int) -> str:
    """How long the first batch takes after all imports, and the most memory that a process takes without a cache."""
    rows = [["ours, trashnet", "first batch, s", "its CPU-s", "peak MiB", "of which imports"]]
    for title, batch in (("batches of 32, first one", 32), ("batches of 256, 20 of them", 256)):
        costs = []
        for _ in range(repeats):
            command = [sys.executable, "-m", "tests.bench.input_start", photos.kind, str(batch)]
            live = Live(command, {"TF_CPP_MIN_LOG_LEVEL": "3"})
            costs.append(live.facts)
            live.close()
        middle = {what: statistics.median(cost[what] for cost in costs) for what in costs[0]}
        times = [f"{middle[what]:.2f}" for what in ("first_s", "first_cpu_s")]
        rows.append([title, *times, *(f"{middle[what]:,.0f}" for what in ("peak_mib", "imports_mib"))])
    return f"### Input: start and memory, cache=none\n\n{measure.table(rows)}"
