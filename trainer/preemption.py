"""Signals to end in; a flag for the loop, and the exit status that asks to be started again, out."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import tensorflow as tf

from trainer.strategies import Cluster

# As `tf.distribute.experimental.PreemptionCheckpointHandler` leaves; a launcher starts the same command again on it.
EXIT_STATUS = 42


class Preempted(Exception):  # noqa: N818  # not an error: everything is saved
    """Training ended because a signal asked for it, after a checkpoint."""

    def __init__(self, step: int) -> None:
        super().__init__(f"ended by a signal at global step {step}, which is saved: start the same command to go on")


class Signals(contextlib.AbstractContextManager["Signals"]):
    """While it is entered, SIGTERM and the first Ctrl-C are noted instead of ending the process; the second ends it.

    Only a process's main thread can be told of signals; entered elsewhere it does nothing.
    """

    def __init__(self) -> None:
        self.received = False
        self._interrupts = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt
        self.received = True
        # Not through a stream: this may have come in the middle of writing to it.
        os.write(2, f"{signal.Signals(number).name}: ending after this step, with a checkpoint\n".encode())


def agree(cluster: Cluster, received: bool) -> bool:
    """Whether any worker was asked to end; all workers have to call it at the same step, and get the same answer."""
    if cluster.num_workers == 1:
        return received

    def own() -> tf.Tensor:
        return tf.constant(float(received))

    asked = cluster.strategy.reduce(tf.distribute.ReduceOp.SUM, cluster.strategy.run(own), axis=None)
    return bool(asked > 0)
