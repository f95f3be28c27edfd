"""The supervisor: workers' commands in, an exit status out, when they are done or can't be brought to an end.

It starts the workers of this machine, shows what they say, watches their beats, and ends all of them when one fails:
the others wait for it in a collective operation, some without end. They are started again from the last checkpoint, as
`restarts` decides. Peers on other machines have supervisors of their own, which see their workers fail.
"""

from __future__ import annotations

import logging
import math
import os
import random
import selectors
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import NamedTuple

from trainer import heartbeat, processes, restarts
from trainer.processes import Process

_TICK_S = 0.2
# For a worker that has to go because another one failed: what it could save is saved, and one that waits for the others
# inside TensorFlow does not hear a signal.
_STOP_S = 5.0
_UNMOVED_S = 1.0  # of a wait, after which signals are looked for


class Command(NamedTuple):
    worker: int
    argv: Sequence[str]
    environment: Mapping[str, str]  # beside this process's own


def supervise(
    commands: Callable[[], Sequence[Command]],
    *,
    max_restarts: int,
    stall_timeout_s: float,
    grace_s: float,
    stopped_s: float = heartbeat.STOPPED_S,
    delay_scale: float = 1.0,
) -> int:
    """Runs the workers until they are done. To be called by a process that has no other thread and no other children.

    Args:
      commands: of the workers of this machine; called before each start.
      max_restarts: in a row that come no further.
      stall_timeout_s: how long a worker may do nothing. To be started is to do something, and then there is nothing
        before the first step has been built, compiled and taken, which therefore has to fit in.
      grace_s: how long workers may save after SIGTERM.
      stopped_s: how long a worker may not even run.
      delay_scale: of the waits before restarts.

    Returns:
      One of `restarts.DONE`, `BUDGET_SPENT`, `BAD_INPUT` and `PREEMPTED`.
    """
    budget = restarts.Budget.full(max_restarts)
    with _Signals() as signals, tempfile.TemporaryDirectory(prefix="shardline-launch-") as folder:
        while True:
            attempt = _Attempt(commands(), folder, signals)
            ended = attempt.run(stall_timeout_s=stall_timeout_s, stopped_s=stopped_s, grace_s=grace_s)
            jitter = delay_scale * random.uniform(0.75, 1.25)
            decision = restarts.decide(ended, budget, signalled=signals.received > 0, jitter=jitter)
            budget = decision.budget
            again = "" if decision.status is not None else f"; starting again in {decision.delay_s:.0f} s"
            logging.info("launch: %s%s", decision.why, again)
            if decision.status is not None:
                return decision.status
            if signals.within(decision.delay_s):
                logging.info("launch: ended by a signal between two starts; what was saved is saved")
                return restarts.PREEMPTED


class _Signals:
    """Counts SIGTERM and Ctrl-C while it is entered."""

    def __init__(self) -> None:
        self.received = 0
        self.interrupts = 0  # of them, Ctrl-C
        self._before: dict[int, object] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._count)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def within(self, wait_s: float) -> bool:
        """Waits so long, or until one has come; whether one has."""
        end = time.monotonic() + wait_s
        while not self.received and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _UNMOVED_S))
        return self.received > 0

    def _count(self, number: int, frame: FrameType | None) -> None:
        self.received += 1
        self.interrupts += number == signal.SIGINT


class _Attempt:
    """One start of all workers of this machine."""

    def __init__(self, commands: Sequence[Command], folder: str, signals: _Signals) -> None:
        self._signals = signals
        self._statuses: dict[int, int | None] = {}  # of those that have ended
        self._passed_on = self._stopping = False
        self._kill_at = math.inf  # when whoever still runs has had its time
        self._workers = [
            Process(
                command.worker,
                command.argv,
                command.environment,
                beats=os.path.join(folder, f"beats-{command.worker}"),
                stdout=sys.stdout.buffer,
                stderr=sys.stderr.buffer,
            )
            for command in commands
        ]

    def run(self, *, stall_timeout_s: float, stopped_s: float, grace_s: float) -> restarts.Attempt:
        """Returns when all have ended."""
        stalled: tuple[int, ...] = ()
        try:
            with selectors.DefaultSelector() as selector:
                for lines in (lines for worker in self._workers for lines in worker.lines):
                    selector.register(lines.pipe, selectors.EVENT_READ, lines)
                while running := self._running():
                    for key, _ in selector.select(_TICK_S):
                        if not key.data.pump():
                            selector.unregister(key.fd)
                    for worker in running:
                        worker.attend()
                    processes.reap_others(self._workers)
                    self._pass_on(running, grace_s)
                    if not self._stopping:
                        late = time.monotonic() - stall_timeout_s
                        stalled = tuple(
                            worker.index for worker in running if worker.seen < late or worker.silent_s > stopped_s
                        )
                    if stalled or self._has_failed():
                        self._stop(running)
                    if restarts.PREEMPTED in self._statuses.values():
                        self._kill_within(grace_s)  # they end together, so whoever does not is stuck
                    if time.monotonic() >= self._kill_at:
                        for worker in running:
                            worker.kill()
                            self._statuses[worker.index] = None
        finally:
            for worker in self._workers:
                worker.close()
        return restarts.Attempt(self._statuses, max(worker.reading.step for worker in self._workers), stalled)

    def _running(self) -> list[Process]:
        """Those that run, after the others' statuses were taken down."""
        for worker in self._workers:
            if worker.index not in self._statuses and (status := worker.status()) is not None:
                worker.attend()
                own = not self._stopping or status == restarts.BAD_INPUT
                self._statuses[worker.index] = status if own else None
        return [worker for worker in self._workers if worker.index not in self._statuses]

    def _has_failed(self) -> bool:
        fine = {None, restarts.DONE, restarts.PREEMPTED} | ({-signal.SIGTERM} if self._passed_on else set())
        return not fine.issuperset(self._statuses.values())

    def _pass_on(self, running: Sequence[Process], grace_s: float) -> None:
        if self._signals.received and not self._passed_on:
            self._passed_on = True
            logging.info("launch: asked to end, so are the workers; they have %g s to save", grace_s)
            for worker in running:
                worker.ask_to_end()
            self._kill_within(grace_s)
        if self._signals.interrupts > 1:
            self._kill_within(0)

    def _stop(self, running: Sequence[Process]) -> None:
        if not self._stopping:
            self._stopping = True
            for worker in running:
                worker.ask_to_end()
            self._kill_within(_STOP_S)

    def _kill_within(self, wait_s: float) -> None:
        self._kill_at = min(self._kill_at, time.monotonic() + wait_s)
