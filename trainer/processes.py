"""A command in; its process, which ends with this one, and its output, line by line behind its number, out."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO

from trainer import heartbeat

_PR_SET_PDEATHSIG = 1  # https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html
_READ_BYTES = 1 << 16
_HELD_S = 1.0  # a progress bar ends none of its lines; what of it has stood so long is a line


class Lines:
    """Puts what comes from a pipe before a stream, in whole lines, so that several writers don't mix theirs.

    A carriage return ends a line as well: each state of a progress bar becomes one.
    """

    def __init__(self, pipe: int, stream: BinaryIO, prefix: str) -> None:
        os.set_blocking(pipe, False)
        self.pipe = pipe
        self._stream = stream
        self._prefix = prefix.encode()
        self._rest = b""
        self._since = 0.0

    def pump(self) -> bool:
        """Takes what is there; False at the end."""
        while True:
            try:
                chunk = os.read(self.pipe, _READ_BYTES)
            except BlockingIOError:
                return True
            *lines, self._rest = (self._rest + chunk).replace(b"\r", b"\n").split(b"\n")
            self._since = time.monotonic()
            self._write(lines if chunk else [self._rest])
            if not chunk:
                self._rest = b""
                return False

    def settle(self) -> None:
        """Writes the beginning of a line that has not gone on."""
        if self._rest and time.monotonic() - self._since > _HELD_S:
            self._write([self._rest])
            self._rest = b""

    def _write(self, lines: Sequence[bytes]) -> None:
        if text := b"".join(self._prefix + line + b"\n" for line in lines if line.strip()):
            self._stream.write(text)
            self._stream.flush()


class Process:
    """A worker of its own process group, killed when the process that started it is gone, however that ended."""

    def __init__(
        self,
        index: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        beats: str,
        stdout: BinaryIO,
        stderr: BinaryIO,
    ) -> None:
        """Starts it.

        Args:
          beats: the file for its heartbeat.
          stdout, stderr: where its lines go.
        """
        self.index = index
        self._beats = beats
        with contextlib.suppress(FileNotFoundError):
            os.remove(beats)  # of an earlier start
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **environment, heartbeat.VARIABLE: beats, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_dies_with(os.getpid()),  # safe where there is no other thread
        )
        pipes = (self._process.stdout, stdout), (self._process.stderr, stderr)
        self.lines = [Lines(pipe.fileno(), stream, f"[{index}] ") for pipe, stream in pipes if pipe]
        self.reading = heartbeat.Reading()
        self.seen = time.monotonic()  # its last beat; to be started is one
        self.silent_s = 0.0  # since its last pulse; 0 before its first
        self._attended = self.seen

    @property
    def pid(self) -> int:
        return self._process.pid

    def status(self) -> int | None:
        """As it ended, negative for a signal; None while it runs."""
        return self._process.poll()

    def attend(self) -> None:
        """Looks for a beat and a pulse, and writes what has stood unfinished for long."""
        reading, now = heartbeat.read(self._beats), time.monotonic()
        if reading[:2] != self.reading[:2]:
            self.seen = now
        if reading.pulse != self.reading.pulse:
            self.silent_s = 0.0
        elif reading.pulse:
            # Where this process stood still as well, as on a machine that was asleep, nothing can be said of the other.
            self.silent_s += min(now - self._attended, heartbeat.PULSE_PERIOD_S)
        self.reading, self._attended = reading, now
        for lines in self.lines:
            lines.settle()

    def ask_to_end(self) -> None:
        if self.status() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """And whatever it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """After its end: writes what it still said."""
        self.kill()
        for lines in self.lines:
            lines.pump()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()


def reap_others(own: Sequence[Process]) -> None:
    """Takes leave of processes that were left to this one, as the first of a container has to; `own` are polled."""
    if os.getpid() != 1:
        return
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if found.si_pid in {process.pid for process in own}:
                return
            os.waitpid(found.si_pid, 0)


def _dies_with(parent: int) -> Callable[[], None]:
    """To be run in a new process: has the kernel kill it when `parent` ends."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # which was quicker
            os._exit(1)

    return ask
