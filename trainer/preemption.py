"""Signals to end in; a flag for whoever works, and the exit status that asks to be started again, out."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

# As `tf.distribute.experimental.PreemptionCheckpointHandler` leaves; a launcher starts the same command again on it.
EXIT_STATUS = 42


class Preempted(Exception):  # noqa: N818  # not an error: everything is saved
    """Training ended because a signal asked for it, after a checkpoint where there was anything to save.

    Args:
      step: the last one that is saved; None where the run was not even opened yet.
    """

    def __init__(self, step: int | None = None) -> None:
        where = "before the first step of this start" if step is None else f"at global step {step}, which is saved"
        super().__init__(f"ended by a signal {where}: start the same command to go on")


class Interrupted(Exception):  # noqa: N818
    """Work that takes long was left because of a signal; what there is to save is not saved yet."""


def take_back() -> None:
    """Gives SIGTERM back to its handler here: joining a cluster, TensorFlow takes it for a notice that nobody reads.

    https://github.com/openxla/xla/blob/main/xla/tsl/distributed_runtime/preemption/preemption_notifier.cc
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


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

    def check(self) -> None:
        """Raises Preempted where one has come: to be called by work that has nothing to save."""
        if self.received:
            raise Preempted

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt
        self.received = True
        # Not through a stream: this may have come in the middle of writing to it.
        os.write(2, f"{signal.Signals(number).name}: ending soon, with a checkpoint\n".encode())
