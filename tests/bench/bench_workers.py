"""Two worker processes of one core each, beside one process of two: what a training step costs, and where it goes."""

from __future__ import annotations

import json
import pathlib
import statistics
import sys
import tempfile

from tests.bench import bench_step, measure, worker_steps
from tests.trainer.commands import end, start_workers


def workers_training(repeats: int) -> str:
    """Alternating, so that what slows the machine for a while falls on all; medians are shown.

    Efficiency is images/s beside the one process. What is left of a step without the all-reduce of its gradients and
    without input is computing, with synchronised batch norm also its sums, and waiting for the slower worker.
    """
    ways = {"1 process, 2 cores": (1, "own"), "2 workers, 1 core each": (2, "own"), "2 workers, sync": (2, "sync")}
    costs: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        data = bench_step.digits(pathlib.Path(folder))
        for repeat in range(repeats):
            for name, (count, batch_norm) in ways.items():
                costs[name].append(_run(data, count, batch_norm))
                print(f"  {repeat + 1}/{repeats} {name}: {costs[name][-1]}", file=sys.stderr, flush=True)
    rows = [
        ["", "images/s", "s a step", "CPU-s a step", "all-reduce alone, s", "input, s", "the rest, s", "efficiency"]
    ]
    alone = statistics.median(cost["step_s"] for cost in costs["1 process, 2 cores"])
    for name, found in costs.items():
        median = {key: statistics.median(cost[key] for cost in found) for key in found[0]}
        rest = median["step_s"] - median["all_reduce_s"] - median["input_s"]
        rows.append(
            [
                name,
                f"{worker_steps.BATCH / median['step_s']:.1f}",
                *(f"{median[key]:.4f}" for key in ("step_s", "step_cpu_s", "all_reduce_s", "input_s")),
                f"{rest:.4f}",
                f"{alone / median['step_s']:.3f}",
            ]
        )
    mebibytes = costs["2 workers, sync"][0]["gradient_bytes"] / 2**20
    title = f"MobileNetV2 at {worker_steps.IMAGE_SIZE}, {worker_steps.BATCH} images a step, float32"
    return f"### Workers: {title}\n\n{measure.table(rows)}\n\nGradients of a step: {mebibytes:.2f} MiB."


def _run(data: str, count: int, batch_norm: str) -> dict[str, float]:
    """Of all workers together: the slowest one's times, and the sum of their CPU-seconds."""
    arguments = [sys.executable, "-m", "tests.bench.worker_steps", data, batch_norm]
    if count == 1:
        outputs = [measure.run(arguments).output]
    else:
        outputs = [stdout for stdout, _ in end(start_workers(arguments, count), status=0)]
    found = [json.loads(output.splitlines()[-1]) for output in outputs]
    together = {key: max(each[key] for each in found) for key in found[0]}
    return {**together, "step_cpu_s": sum(each["step_cpu_s"] for each in found)}
