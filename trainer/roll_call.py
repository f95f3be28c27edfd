"""Those who call worker 0 in; every worker's address, told to all of them, out. See `rendezvous` for what they say."""

from __future__ import annotations

import contextlib
import json
import logging
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.errors import InputError
from trainer.cluster import Worker, port_of

TICK_S = 0.5
CALL_S = 5.0  # for a connection to come about, and for a line to come over it
_LINE_BYTES = 1024  # a host's name has at most 253
_PORT_WAIT_S = 30.0  # an earlier start of this worker may still be ending
# A host that is gone says nothing: so many seconds of silence, then so many questions so far apart.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 2, socket.TCP_KEEPCNT: 3}
_TWICE_S = 15.0  # after which that is noticed, so that two workers with one index are both alive


def hold(worker: Worker, deadline: float, idle: Callable[[], None]) -> tuple[str, ...]:
    """Listens at worker 0's address until all others are here; the port is free again then.

    Args:
      deadline: by `time.monotonic`.
      idle: called every TICK_S or so; what it raises ends the waiting.

    Raises:
      TimeoutError: naming the missing ones.
      InputError: where the port is taken.
    """
    roll = _RollCall(worker)
    with listen_alone(port_of(worker.coordinator), idle) as listener:
        try:
            while True:
                idle()
                complete = len(roll.here()) == worker.num_workers - 1
                with selectors.DefaultSelector() as selector:
                    for one in (listener, *(call.connection for call in roll.calls)):
                        selector.register(one, selectors.EVENT_READ)
                    ready = {key.fileobj for key, _ in selector.select(0 if complete else TICK_S)}
                heard = [call for call in roll.calls if call.connection in ready]
                if complete and not heard:  # or one of them may be dead, and come again already
                    return roll.finish()
                for call in heard:
                    roll.hear(call)
                if listener in ready:
                    with contextlib.suppress(OSError):  # whoever has hung up again
                        connection, (address, *_) = listener.accept()
                        roll.calls.append(_Call(connection, address))
                roll.sort_out()
                if time.monotonic() > deadline:
                    raise TimeoutError(roll.dissolve())
        finally:  # of what is left: they call again, and this worker may come again
            for call in list(roll.calls):
                roll.end(call)


class _Call:
    """A connection over which worker 0 was called, and what the caller claims."""

    def __init__(self, connection: socket.socket, host: str) -> None:
        keep_alive(connection)
        connection.settimeout(CALL_S)
        self.connection = connection
        self.host = host
        self.since = time.monotonic()
        self.index = 0  # that is claimed; 0 as long as none is
        self.address = ""
        self._received = b""

    def line(self) -> bytes | None:
        """To be called where something has come: a whole line, None before its end, or b"" where none will come."""
        try:
            chunk = self.connection.recv(_LINE_BYTES)
        except OSError:
            return b""
        self._received += chunk
        if not chunk or self.index or len(self._received) > _LINE_BYTES:
            return b""
        return self._received if self._received.endswith(b"\n") else None

    def end(self, answer: Mapping[str, Any] | None) -> None:
        with contextlib.suppress(OSError), self.connection:
            if answer is not None:
                self.connection.sendall(json.dumps(answer).encode() + b"\n")


class _RollCall:
    """Worker 0's list of who is here; connections come and go, and so may the workers behind them."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.calls: list[_Call] = []  # in the order they came in
        self._left: set[int] = set()  # workers that were here, dead or out of patience since

    def here(self) -> dict[int, _Call]:
        """The other workers by index; of two that claim the same one, the first."""
        return {call.index: call for call in reversed(self.calls) if call.index}

    def missing(self) -> str:
        """One line about the workers that are not here."""
        away = set(range(1, self._worker.num_workers)) - self.here().keys()
        never, left = _listed(away - self._left), _listed(away & self._left)
        found = f"worker {never} of {self._worker.num_workers} did not come" if never else ""
        found += f"{' and ' if never else ''}worker {left} came and left again" if left else ""
        return f"{found}: {self._worker.coordinator} waited for --start_timeout_s; see whether they run, and call there"

    def hear(self, call: _Call) -> None:
        """Takes what has come over the connection of `call`."""
        line = call.line()
        if line == b"":
            # The end of what a worker says need not be its own: one whose time is up asks like this who is missing.
            self.end(call, {"missing": self.missing()} if call.index else None)
            self._left.add(call.index)
        elif line:
            try:
                claim = json.loads(line)
                index, address = int(claim["worker"]), str(claim["address"])
                reason = self._refusal(index, claim["num_workers"], address)
            except (ValueError, KeyError, TypeError, RecursionError):
                self.end(call)
                return
            if reason:
                self._refuse(call, reason)
            else:
                call.index, call.address = index, address

    def sort_out(self) -> None:
        """Ends calls of strangers who say nothing, and of workers whose index somebody else has."""
        now, owners = time.monotonic(), self.here()
        for call in list(self.calls):
            owner = owners.get(call.index)
            if owner is None and now - call.since > CALL_S:
                self.end(call)
            elif owner is not None and owner is not call and now - call.since > _TWICE_S:
                self._refuse(call, f"workers at {owner.address} and {call.address} both have index {call.index}")

    def finish(self) -> tuple[str, ...]:
        """Tells all addresses to all the others, who are here."""
        here = self.here()
        addresses = [here[index].address for index in range(1, self._worker.num_workers)]
        for call in here.values():
            self.end(call, {"addresses": [self._worker.coordinator, *addresses]})
        return (self._worker.coordinator, *addresses)

    def dissolve(self) -> str:
        """Tells everybody who is missing, and returns it."""
        missing = self.missing()
        for call in list(self.calls):
            self.end(call, {"missing": missing} if call.index else None)
        return missing

    def end(self, call: _Call, answer: Mapping[str, Any] | None = None) -> None:
        self.calls.remove(call)
        call.end(answer)

    def _refusal(self, index: int, num_workers: object, address: str) -> str:
        """Why that can't be one of the workers, "" where it can."""
        if num_workers != self._worker.num_workers:
            return f"worker {index} was told of {num_workers} workers, worker 0 of {self._worker.num_workers}"
        if not 0 < index < self._worker.num_workers:
            return f"a worker calls itself number {index} of {self._worker.num_workers}"
        known = self._worker.addresses
        if known and address != known[index]:
            return f"worker {index} was told that it is at {address}, worker 0 that it is at {known[index]}"
        return ""

    def _refuse(self, call: _Call, reason: str) -> None:
        reason = f"{reason}: give all workers the same cluster, and each an index of its own"
        logging.warning("%s was sent away: %s", call.host, reason)
        self.end(call, {"refused": reason})


def _listed(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)[:20])) + (", …" if len(numbers) > 20 else "")


def listen_alone(port: int, idle: Callable[[], None]) -> socket.socket:
    """Raises InputError where somebody else goes on listening there."""
    deadline = time.monotonic() + _PORT_WAIT_S
    while True:
        try:
            # Allows for connections of an earlier start that are not all gone; TensorFlow's server does so as well.
            return socket.create_server(("", port), backlog=socket.SOMAXCONN)
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(f"port {port} of this host can't be had ({error.strerror}): choose another") from error
        idle()
        time.sleep(TICK_S)


def keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
