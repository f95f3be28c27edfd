"""A data set that other processes feed in, its elements out, or within a bounded time an error naming the process."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

_PROBE_S = 1.0


class SilenceError(ConnectionError):
    """A process can't be reached, or answers and delivers nothing; `address` is its HOST:PORT."""

    def __init__(self, address: str, message: str) -> None:
        super().__init__(message)
        self.address = address


def elements(
    start: Callable[[], tf.data.Dataset], addresses: Sequence[str], *, wait_s: float, stall_s: float
) -> Iterator[Any]:
    """Yields the elements of the data set that `start` makes, whose input comes from the processes at `addresses`.

    TensorFlow's own client waits for a dead process without end and has no setting for it, so it runs in a thread.

    Args:
      start: also called there, since registering a data set waits as well.
      wait_s: how long an address may be out of reach.
      stall_s: how long nothing may come from addresses that answer.

    Raises:
      SilenceError: where either is exceeded.
      Exception: whatever `start` or the data set raise.
    """
    received: queue.Queue[tuple[Any, Exception | None]] = queue.Queue(maxsize=1)
    stopped = threading.Event()

    def hand_over(element: Any, error: Exception | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                received.put((element, error), timeout=_PROBE_S)
                return

    def read() -> None:
        try:
            for element in start():
                hand_over(element, None)
                if stopped.is_set():
                    return
        except Exception as error:  # noqa: BLE001  # raised again where somebody waits
            hand_over(None, error)

    # A daemon, so that a call which never comes back doesn't keep the process from ending.
    threading.Thread(target=read, name="input service", daemon=True).start()
    try:
        while True:
            element, error = _receive(received, addresses, wait_s=wait_s, stall_s=stall_s)
            if error is not None:
                raise error
            yield element
    finally:
        stopped.set()


def first(start: Callable[[], tf.data.Dataset], address: str, *, wait_s: float) -> Any:
    """The first of `elements`, where none of them may take longer than `wait_s`."""
    found = elements(start, [address], wait_s=wait_s, stall_s=wait_s)
    try:
        return next(found)
    finally:
        found.close()  # type: ignore[attr-defined]


def remote(dataset: tf.data.Dataset, address: str) -> tf.data.Dataset:
    """`dataset`, run by the process at `address`. It has one tf.data worker, which is asked for one element at a time.

    So elements come in order; a transfer that breaks off is tried again, and then gives the element after the lost one.
    """
    options = tf.data.Options()
    # The seeds of a shuffle and an empty cache count as state to TensorFlow; both travel as they are.
    options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
    return dataset.with_options(options).apply(
        tf.data.experimental.service.distribute(
            tf.data.experimental.service.ShardingPolicy.OFF,
            f"grpc://{address}",
            compression=None,  # photos don't shrink, and undoing it costs the host that is short of CPU
            max_outstanding_requests=2,  # one element that waits here and one on its way
        )
    )


def _receive(
    received: queue.Queue[tuple[Any, Exception | None]], addresses: Sequence[str], *, wait_s: float, stall_s: float
) -> tuple[Any, Exception | None]:
    started = time.monotonic()
    last_seen = dict.fromkeys(addresses, started)
    while True:
        with contextlib.suppress(queue.Empty):
            return received.get(timeout=min(_PROBE_S, wait_s / 10))
        for address in addresses:
            if not (reason := unreachable(address)):
                last_seen[address] = time.monotonic()
            elif time.monotonic() - last_seen[address] > wait_s:
                raise SilenceError(address, f"has been out of reach for {wait_s:g} s ({reason})")
        if time.monotonic() - started > stall_s:
            raise SilenceError(", ".join(addresses), f"answers and has sent nothing for {stall_s:g} s")


def unreachable(address: str) -> str:
    """Why nothing that speaks HTTP/2 answers at `address` (HOST:PORT), "" where it does.

    An open port is not enough: the kernel also accepts for a process that is stopped. A server sends its settings
    first, without being asked; they begin with their length, which is below 2**16 (RFC 9113, sections 3.4 and 4.1).
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=_PROBE_S) as connection:
            connection.settimeout(_PROBE_S)
            return "" if connection.recv(1) == b"\0" else "it does not speak gRPC"
    except OSError as error:
        return error.strerror or str(error)


def first_line(error: Exception) -> str:
    return str(getattr(error, "message", error)).strip().partition("\n")[0]
