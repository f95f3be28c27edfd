"""Numbers of images in, a table of memory and CPU per image out: both should not grow with the number."""

from __future__ import annotations

import functools

from tests.bench import data, job, measure
from tests.bench.measure import table

_MODES = {
    "in this process": [],
    "1 worker process": [job.WORKERS.format(1)],
    "2 worker processes": [job.WORKERS.format(2)],
}


def scale(sizes: list[int], repeats: int) -> str:
    """The whole job on tiny images; CPU per 1,000 is the slope above a few images."""
    flags = job.flags("check", "join") or job.flags("check", "ignore") or []
    folders = {size: data.tiny(size) for size in sizes}
    few = data.few(folders[sizes[0]])
    count_few = data.warm(few)
    rows = [["runs", "images", "CPU-s per 1,000", "launcher MiB", "largest worker MiB", "images/s", "start CPU-s"]]
    for mode, beam in _MODES.items():
        memory: dict[str, list[measure.Cost]] = {}
        launches = {"few": functools.partial(_cpu, few, [*flags, *beam], memory.setdefault("few", []))}
        for size in sizes:
            costs = memory.setdefault(str(size), [])
            launches[str(size)] = functools.partial(_cpu, folders[size], [*flags, *beam], costs)
        cpu = measure.alternate(launches, repeats)
        for size in sizes:
            data.warm(folders[size])
            per_1000 = (cpu[str(size)] - cpu["few"]) / (size - count_few) * 1000
            costs = memory[str(size)]
            launcher = max(cost.launcher_mib for cost in costs)
            worker = max(cost.worker_mib for cost in costs)
            rate = size / sorted(cost.wall_s for cost in costs)[len(costs) // 2]
            rows.append(
                [
                    mode,
                    f"{size:,}",
                    f"{per_1000:.3f}",
                    f"{launcher:,.0f}",
                    f"{worker:,.0f}" if worker else "",
                    f"{rate:,.0f}",
                    f"{cpu['few']:.1f}",
                ]
            )
    return f"### Scale: JPEGs of 32x32, {' '.join(flags) or 'default flags'}\n\n{table(rows)}"


def _cpu(folder: object, arguments: list[str], costs: list[measure.Cost]) -> float:
    costs.append(job.run(folder, arguments))  # type: ignore[arg-type]
    return costs[-1].cpu_s
