"""Flags and environment in; which workers this process has to start, and with which commands, out."""

from __future__ import annotations

import functools
import json
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipeline.errors import InputError
from trainer import cluster, supervisor
from trainer.cluster import Worker
from trainer.supervisor import Command

# A worker that compiles a large model or reads its first batches from far away is silent for minutes.
STALL_TIMEOUT_S = 600.0
GRACE_S = 30.0  # as Kubernetes gives by default; what a step and a checkpoint take
MAX_RESTARTS = 3


class Plan(NamedTuple):
    """Either one worker of a cluster whose others are started elsewhere, or `num_workers` on this machine."""

    strategy: str
    num_workers: int = 1
    worker: Worker | None = None
    flags: tuple[str, ...] = ()  # by which that one finds its place, where the environment does not say it


def plan(
    environment: Mapping[str, str],
    *,
    strategy: str | None,
    coordinator: str | None = None,
    num_workers: int | None = None,
    worker_index: int | None = None,
    host: str | None = None,
) -> Plan:
    """What there is to start here.

    Args:
      strategy: None for what fits: multi_worker where there are several workers, else one.
      others: see `cluster.find`; but num_workers alone are that many here.

    Raises:
      InputError: where they contradict each other.
    """
    alone = coordinator is None and worker_index is None
    given = None if alone else num_workers
    found = cluster.find(environment, coordinator=coordinator, num_workers=given, worker_index=worker_index, host=host)
    if found and found.num_workers == 1 and strategy != "multi_worker":
        found = None  # a pod or an allocation of one
    if found and strategy not in (None, "multi_worker"):
        raise InputError(
            f"--strategy={strategy} is for one process, but as {found.source} says this is worker {found.index} of "
            f"{found.num_workers}: give --strategy=multi_worker"
        )
    if alone and num_workers is not None:
        if found and found.num_workers > 1:
            raise InputError(
                f"--num_workers={num_workers} starts that many workers here, but as {found.source} says this is worker "
                f"{found.index} of {found.num_workers}: leave one of the two"
            )
        found = None
    if found:
        place = {"coordinator": coordinator, "num_workers": given, "worker_index": worker_index, "worker_host": host}
        passed = tuple(f"--{name}={value}" for name, value in place.items() if value is not None)
        return Plan("multi_worker", worker=found, flags=passed)
    count = 1 if num_workers is None else num_workers
    if count < 1:
        raise InputError(f"--num_workers={count}: expected at least 1")
    if count > 1 and strategy not in (None, "multi_worker"):
        raise InputError(f"--strategy={strategy} is for one process: leave --num_workers, or give multi_worker")
    return Plan(strategy or ("multi_worker" if count > 1 else "one"), num_workers=count)


def run(argv: Sequence[str], planned: Plan, *, max_restarts: int, stall_timeout_s: float, grace_s: float) -> int:
    """Trains under the supervisor, see `supervisor.supervise`.

    Args:
      argv: flags of `python -m trainer train`, without those about strategy and place.
    """
    command = [sys.executable, "-m", "trainer", "train", *argv, f"--strategy={planned.strategy}"]
    return supervisor.supervise(
        functools.partial(commands, command, planned),
        max_restarts=max_restarts,
        stall_timeout_s=stall_timeout_s,
        grace_s=grace_s,
    )


def commands(command: Sequence[str], planned: Plan) -> list[Command]:
    """Of one start: workers on this machine meet over loopback, on ports that are free now."""
    if planned.worker:
        return [Command(planned.worker.index, [*command, *planned.flags], {})]
    if planned.strategy != "multi_worker":
        return [Command(0, command, {})]
    sockets = [socket.socket() for _ in range(planned.num_workers)]
    for sock in sockets:  # all of them open, so that the ports differ
        sock.bind(("127.0.0.1", 0))
    jobs = {"worker": [f"127.0.0.1:{sock.getsockname()[1]}" for sock in sockets]}
    for sock in sockets:
        sock.close()
    return [
        Command(
            index, command, {"TF_CONFIG": json.dumps({"cluster": jobs, "task": {"type": "worker", "index": index}})}
        )
        for index in range(planned.num_workers)
    ]
