"""Hosts in; a small training of one worker on each of them, and what it really trained on, out.

Each host runs `python -m trainer launch` with the environment of a pod. `recorder/` notes inside of the workers which
examples every step took.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from tests.network import hosts, records
from tests.network.records import Result, Row

REPOSITORY = pathlib.Path(__file__).parents[2]
RECORDER = pathlib.Path(__file__).parent / "recorder"
NAMES = ("worker-0", "worker-1")
PORT = 2222
STEPS = 36
STEP_S = 0.1  # at least, so that there is time to hit the middle of one
STALL_TIMEOUT_S = 600.0
TIMEOUT_S = 600.0
# Everything that has a state of its own and has to come through: dropout, moments, averages, moving statistics. Whole
# images, so that equal pixels mean the same example.
CONFIG = f"""
from configs.schema import Config, Input, Logs, Model, Monitor, Optimizer, Phase

def get_config():
    return Config(
        global_batch=32,
        deterministic=True,
        input=Input(image_size=32, crop_area=(1.0, 1.0), flip=False),
        model=Model(width=0.35, batch_norm_momentum=0.9, dropout=0.2),
        optimizer=Optimizer(name="adamw", peak_lr=1e-3, ema=0.9),
        phases=(Phase(steps={STEPS}, trainable="from:block_16"),),
        monitor=Monitor(restore_best=False),  # the last weights tell of every step
        logs=Logs(every_steps=2, tensorboard=False),
        evaluate_every_epochs=2.0,
        checkpoint_every_steps=4,
    )
"""


class Process(NamedTuple):
    """What is started on a host."""

    command: Sequence[str]
    env: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Training:
    net: hosts.Network
    folder: pathlib.Path  # with a log and a record for each host, and the workdir
    processes: Mapping[str, Process]
    started: dict[str, subprocess.Popen[bytes]] = dataclasses.field(default_factory=dict)

    def start(self, name: str) -> None:
        """Starts the process of a host, again where it has ended."""
        command, env = self.processes[name]
        self.started[name] = self.net.start(name, command, env=env, cwd=REPOSITORY, log=self.log(name))

    def log(self, name: str) -> pathlib.Path:
        return self.folder / f"{name}.log"

    def rows(self, name: str) -> list[Row]:
        return records.rows(record(self.folder, name))

    def workers(self, name: str) -> list[int]:
        return list(records.workers(record(self.folder, name)))

    def begun(self, name: str) -> float:
        """When, by `time.time`, the host's first worker had imported everything."""
        return next(iter(records.workers(record(self.folder, name)).values()))

    def step(self, name: str) -> int:
        """The last one that the host's present worker has taken, 0 before the first."""
        pid = (self.workers(name) or [0])[-1]
        return max((row.step for row in self.rows(name) if row.pid == pid), default=0)

    def wait(self, until: Callable[[], bool], *, timeout_s: float = TIMEOUT_S) -> None:
        """Raises AssertionError with the ends of the logs where it does not come true in time."""
        deadline = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.05)

    def ended(self) -> bool:
        return all(process.poll() is not None for process in self.started.values())

    def signal(self, pids: Sequence[int], number: signal.Signals) -> None:
        for pid in pids:
            os.kill(pid, number)

    def logs(self) -> str:
        return "".join(f"\n== {name}\n{self.log(name).read_text(errors='replace')[-4000:]}" for name in self.processes)

    def result(self) -> Result:
        """Of a training that has ended well.

        Raises:
          AssertionError: where it has not, or where a step was not taken, or taken on something else when it was
            taken again.
        """
        statuses = {name: process.wait(TIMEOUT_S) for name, process in self.started.items()}
        assert set(statuses.values()) == {0}, f"{statuses}{self.logs()}"
        logs = [self.log(name).read_text(errors="replace") for name in self.processes]
        found = {line for log in logs for line in re.findall(_FINISHED, log)}
        assert len(found) == 1, f"{found}{self.logs()}"
        ((step, weights),) = found
        examples = records.join([self.rows(name) for name in self.processes], steps=int(step))
        lines = (self.folder / "workdir/history.jsonl").read_text().splitlines()
        return Result(weights, examples, tuple(json.loads(line) for line in lines))


_FINISHED = re.compile(r"finished at step (\d+).*; weights ([0-9a-f]{64})")


def record(folder: pathlib.Path, name: str) -> pathlib.Path:
    return folder / f"{name}.jsonl"


def supervisors(
    folder: pathlib.Path,
    data: str,
    *,
    steps: int = STEPS,
    environments: Mapping[str, Mapping[str, str]] | None = None,
    more_flags: Sequence[str] = (),
) -> dict[str, Process]:
    """`python -m trainer launch` for each host, with its place in the cluster in the environment.

    Args:
      environments: that say it, by host; None is that of pods.
    """
    flags = [
        *("--strategy=multi_worker", f"--config={folder / 'config.py'}", f"--data={data}"),
        *(f"--workdir={folder / 'workdir'}", f"--config.phases[0].steps={steps}"),
        *(f"--stall_timeout_s={STALL_TIMEOUT_S}", *more_flags),
    ]
    common = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(RECORDER), "STEP_S": str(STEP_S)}
    return {
        name: Process(
            [sys.executable, "-m", "trainer", "launch", *flags],
            {**common, "RECORD": str(record(folder, name)), **environment},
        )
        for name, environment in (environments or pods()).items()
    }


def pods() -> dict[str, dict[str, str]]:
    """What a manifest and Kubernetes say to each of its pods."""
    return {
        name: {
            "JOB_COMPLETION_INDEX": str(index),
            "NUM_WORKERS": str(len(NAMES)),
            "COORDINATOR": f"{NAMES[0]}:{PORT}",
        }
        for index, name in enumerate(NAMES)
    }


@contextlib.contextmanager
def training(
    folder: pathlib.Path,
    processes: Mapping[str, Process],
    *,
    names: Mapping[str, Sequence[str]] | None = None,
    loss: float = 0.0,
) -> Iterator[Training]:
    """A training that has been started on a host for each process; nothing of it runs afterwards.

    Args:
      names: other names of the hosts.
      loss: the share of packets that one of them loses from the beginning.
    """
    folder.mkdir(exist_ok=True)
    (folder / "config.py").write_text(CONFIG)
    with hosts.network(names or dict.fromkeys(processes, ())) as net:
        if loss:
            net.lose(list(processes)[-1], loss)
        run = Training(net, folder, processes)
        for name in processes:
            run.start(name)
        yield run
