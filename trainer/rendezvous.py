"""This process's place in a cluster in; the addresses of all its workers, who have met at worker 0's address, out.

TensorFlow waits without end for a worker that never comes, and wants to be told every address beforehand. So before it
starts, worker 0 listens on the port that TensorFlow takes over afterwards, and the others call there; whoever is
missing is named. The conversation is one line of JSON each way:

    {"worker": 1, "num_workers": 2, "address": "10.0.0.7:2222"}
    {"addresses": ["trainer-0:2222", "10.0.0.7:2222"]}, or {"refused": WHY}, or {"missing": WHO}

It is neither encrypted nor authenticated, like TensorFlow's own traffic: it belongs in a private network.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import select
import socket
import time
from collections.abc import Callable
from typing import Any

from pipeline.errors import InputError
from trainer import roll_call
from trainer.cluster import Worker, port_of
from trainer.roll_call import CALL_S, TICK_S, keep_alive, listen_alone

# Adding nodes with GPUs to a cluster and pulling an image onto them takes minutes, more for some workers than for
# others; one that is waited for in vain costs ten minutes of the others' machines.
START_TIMEOUT_S = 600.0
_ANSWER_BYTES = 1 << 20
_PORTS = 100  # to look for a free one among
_STRANGER = "what answers there is no worker that waits for others"  # as TensorFlow's server of an earlier start


class _NotYetError(Exception):
    """What answers at the coordinator's address is not, or not yet, a worker 0 that waits."""


def meet(
    worker: Worker,
    *,
    timeout_s: float = START_TIMEOUT_S,
    idle: Callable[[], None] = lambda: None,
) -> tuple[str, ...]:
    """Waits until all workers have come to the coordinator's address.

    Args:
      timeout_s: how long, for each worker by its own clock.
      idle: called every few seconds meanwhile; what it raises ends the waiting.

    Returns:
      HOST:PORT of each worker by index, the same on all of them. Whatever listens on this worker's port now is not us.

    Raises:
      TimeoutError: naming the workers that did not come, or worker 0 where it can't be reached.
      InputError: where a port is taken, two workers claim one index, or they disagree about the cluster.
    """
    began = time.monotonic()
    logging.info("waiting until all %d workers are at %s", worker.num_workers, worker.coordinator)
    if worker.index == 0:
        addresses = roll_call.hold(worker, began + timeout_s, idle)
    else:
        addresses = _visit(worker, began + timeout_s, idle)
    logging.info("all %d workers met at %s in %.1f s", len(addresses), worker.coordinator, time.monotonic() - began)
    return addresses


def _visit(worker: Worker, deadline: float, idle: Callable[[], None]) -> tuple[str, ...]:
    """Calls worker 0 until it answers; this worker's own port is kept until then."""
    coordinator = worker.coordinator.rpartition(":")[0], port_of(worker.coordinator)
    address = worker.known_address
    with contextlib.ExitStack() as kept:
        if address:
            kept.enter_context(listen_alone(port_of(address), idle))
        while True:
            idle()
            try:
                # A name that DNS does not know yet is an OSError too.
                with socket.create_connection(coordinator, timeout=CALL_S) as connection:
                    keep_alive(connection)
                    address = address or _choose_address(connection, worker, kept)
                    answer = _ask(connection, worker, address, deadline, idle)
                break
            except (OSError, _NotYetError) as error:
                if time.monotonic() > deadline:
                    reason = getattr(error, "strerror", None) or error
                    raise TimeoutError(
                        f"worker 0 of {worker.num_workers} was not at {worker.coordinator} within --start_timeout_s "
                        f"({reason}): see whether it runs, and whether it is there"
                    ) from error
            time.sleep(TICK_S)
    if "refused" in answer:
        raise InputError(answer["refused"])
    if "missing" in answer:
        raise TimeoutError(answer["missing"])
    return tuple(answer["addresses"])


def _ask(
    connection: socket.socket, worker: Worker, address: str, deadline: float, idle: Callable[[], None]
) -> dict[str, Any]:
    """Says who calls, and waits for the answer; from the deadline on not for others to come, but for who is missing."""
    claim = {"worker": worker.index, "num_workers": worker.num_workers, "address": address}
    connection.sendall(json.dumps(claim).encode() + b"\n")
    received, waits = b"", True
    while not received.endswith(b"\n"):
        idle()
        if waits and time.monotonic() > deadline:
            waits = False
            connection.shutdown(socket.SHUT_WR)
        if time.monotonic() > deadline + CALL_S:
            raise _NotYetError("it does not answer")
        if select.select([connection], [], [], TICK_S)[0]:
            chunk = connection.recv(_ANSWER_BYTES)
            received += chunk
            if not chunk:
                raise _NotYetError("it hung up")
            if not received.startswith(b"{") or len(received) > _ANSWER_BYTES:
                raise _NotYetError(_STRANGER)
    try:
        answer: dict[str, Any] = json.loads(received)
    except (ValueError, RecursionError) as error:
        raise _NotYetError(_STRANGER) from error
    if not answer.keys() & {"addresses", "refused", "missing"}:
        raise _NotYetError(_STRANGER)
    return answer


def _choose_address(connection: socket.socket, worker: Worker, kept: contextlib.ExitStack) -> str:
    """This worker's HOST:PORT, where only worker 0's is known; the port is the same or, where taken, one behind it."""
    first = port_of(worker.coordinator)  # which on worker 0's own host is worker 0's by now
    for port in range(first, min(first + _PORTS, 1 << 16)):
        with contextlib.suppress(OSError):
            kept.enter_context(socket.create_server(("", port)))
            break
    else:
        raise InputError(f"none of {_PORTS} ports from {first} on is free on this host")
    # Only worker 0's host has a loopback address that leads to it, and others know that host by its name.
    own = connection.getsockname()[0]
    alike = worker.coordinator.rpartition(":")[0] if ipaddress.ip_address(own).is_loopback else own
    return f"{worker.host or alike}:{port}"
