"""Folders of images in, tables out: the job beside four other writers, its writing pass alone, one worker beside two.

CPU seconds per 1,000 images are slopes: what N images cost more than a few do. The few give the fixed cost of starting.
"""

from __future__ import annotations

import functools
import json
import pathlib
import shutil
import sys
from collections.abc import Callable

from tests.bench import baselines, data, job, measure
from tests.bench.measure import alternate, table

_REFERENCE = "pool"


def speed(name: str, folder: pathlib.Path, modes: list[str], repeats: int) -> str:
    """All writers and the job in every mode, run alternately; ratios are to the pool writer in the same mode."""
    few = data.few(folder)
    count, count_few = data.warm(folder), data.warm(few)
    parts = [f"### {name}: {count:,} images"]
    for mode in modes:
        cases: dict[str, Callable[[pathlib.Path], measure.Cost]] = {
            writer: functools.partial(_baseline, writer, mode) for writer in baselines.WRITERS
        }
        if mode != "copy":  # the job always decodes, because it promises that every image can be
            for near in ("ignore", "join"):
                flags = job.flags(mode, near)
                if flags is None:
                    print(f"  left out: job --near_duplicates={near} {mode}, no such flags here", file=sys.stderr)
                else:
                    cases[f"job, near-duplicates {near}"] = functools.partial(job.run, arguments=flags)
        wall: dict[str, list[float]] = {}
        launches = {}
        for case, start in cases.items():
            launches[f"{case}/few"] = functools.partial(_cpu, start, few, [])
            launches[f"{case}/all"] = functools.partial(_cpu, start, folder, wall.setdefault(case, []))
        cpu = alternate(launches, repeats)
        slope = {case: (cpu[f"{case}/all"] - cpu[f"{case}/few"]) / (count - count_few) * 1000 for case in cases}
        rows = [[mode, "CPU-s per 1,000", f"x {_REFERENCE}", "images/s, start included", "start CPU-s"]]
        for case in cases:
            start_s = cpu[f"{case}/few"] - slope[case] * count_few / 1000
            rate = count / sorted(wall[case])[len(wall[case]) // 2]
            ratio = slope[case] / slope[_REFERENCE]
            rows.append([case, f"{slope[case]:.3f}", f"{ratio:.2f}", f"{rate:,.0f}", f"{start_s:.2f}"])
        parts.append(table(rows))
    return "\n\n".join(parts)


def writing(name: str, folder: pathlib.Path, modes: list[str], repeats: int) -> str:
    """The job's last pass against the pool writer, both without imports; `hash` is the pass's own work."""
    count = data.warm(folder)
    rows = [["mode", "pool CPU-s per 1,000", "our writing pass", "ratio"]]
    for mode in modes:
        if job.flags(mode, "ignore") is None:
            print(f"  left out: writing with {mode}, no such flags here", file=sys.stderr)
            continue
        ours = functools.partial(_section, ["tests.bench.job", mode], folder)
        theirs = functools.partial(_section, ["tests.bench.baselines", _REFERENCE, mode], folder)
        spent = alternate({"pool": theirs, "ours": ours}, repeats)
        per_1000 = {case: value / count * 1000 for case, value in spent.items()}
        ratio = per_1000["ours"] / per_1000["pool"]
        rows.append([mode, f"{per_1000['pool']:.3f}", f"{per_1000['ours']:.3f}", f"{ratio:.2f}"])
    return f"### Writing only, {name}: {count:,} images\n\n{table(rows)}"


def workers(name: str, folder: pathlib.Path, mode: str, repeats: int) -> str:
    """Wall time of the whole job with one and with two worker processes; needs a machine that does nothing else."""
    flags = job.flags(mode, "join") or job.flags("check", "ignore") or []
    few = data.few(folder)
    count, count_few = data.warm(folder), data.warm(few)
    launches = {}
    for number in (1, 2):
        for size, images in (("few", few), ("all", folder)):
            arguments = [*flags, job.WORKERS.format(number)]
            launches[f"{number}/{size}"] = functools.partial(_wall, images, arguments)
    wall = alternate(launches, repeats)
    rows = [["worker processes", "wall s", "of which start", "images/s", "images/s, start excluded"]]
    rates = {}
    for number in (1, 2):
        whole, start = wall[f"{number}/all"], wall[f"{number}/few"]
        rates[number] = (count - count_few) / (whole - start)
        rows.append([str(number), f"{whole:.1f}", f"{start:.1f}", f"{count / whole:,.0f}", f"{rates[number]:,.0f}"])
    gain = f"Two over one: {wall['1/all'] / wall['2/all']:.2f} with the start, {rates[2] / rates[1]:.2f} without."
    return f"### Workers, {name}: {count:,} images, {' '.join(flags)}\n\n{table(rows)}\n\n{gain}"


def _baseline(writer: str, mode: str, folder: pathlib.Path) -> measure.Cost:
    shutil.rmtree(job.OUTPUT, ignore_errors=True)
    command = [sys.executable, "-m", "tests.bench.baselines", writer, mode, str(folder), str(job.OUTPUT)]
    cost = measure.run(command, {"TF_CPP_MIN_LOG_LEVEL": "3"})
    shutil.rmtree(job.OUTPUT)
    return cost


def _cpu(start: Callable[[pathlib.Path], measure.Cost], folder: pathlib.Path, wall: list[float]) -> float:
    cost = start(folder)
    wall.append(cost.wall_s)
    return cost.cpu_s


def _wall(folder: pathlib.Path, arguments: list[str]) -> float:
    return job.run(folder, arguments).wall_s


def _section(module: list[str], folder: pathlib.Path) -> float:
    """The CPU seconds that the command itself says its section took."""
    shutil.rmtree(job.OUTPUT, ignore_errors=True)
    cost = measure.run([sys.executable, "-m", *module, str(folder), str(job.OUTPUT)])
    shutil.rmtree(job.OUTPUT)
    return float(json.loads(cost.output.strip().splitlines()[-1])["cpu_s"])
