"""This process's TCP connections in; the kernel asks over each, from then on, whether its other end is still there.

TensorFlow's server gives up a connection over which it could not send an answer for 20 s (gRPC's TCP_USER_TIMEOUT), and
nobody is told. The worker that waits for the answer has nothing to send itself, so that it would wait without end while
TensorFlow's own heartbeats, over another connection, go on: seen with a tenth of the packets lost. gRPC's settings for
this can't be reached from TensorFlow.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
import time

_PERIOD_S = 5.0  # TensorFlow connects when it first has something to send
# Seconds of silence, seconds between questions, and questions in vain. An end that is gone answers the first question
# that gets through; ten in vain are a host that is away, and no bad network.
_OPTIONS = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 2, socket.TCP_KEEPCNT: 10}
_DESCRIPTORS = "/proc/self/fd"


def watch() -> None:
    """Looks after all connections of this process, present and future ones, as long as it runs."""
    if os.path.isdir(_DESCRIPTORS):
        threading.Thread(target=_watch, name="connections", daemon=True).start()


def _watch() -> None:
    while True:
        keep_alive()
        time.sleep(_PERIOD_S)


def keep_alive() -> None:
    """Has the kernel ask over each connection that is open now."""
    for name in os.listdir(_DESCRIPTORS):
        with contextlib.suppress(OSError):  # closed meanwhile
            if stat.S_ISSOCK(os.stat(f"{_DESCRIPTORS}/{name}").st_mode):
                with socket.socket(fileno=os.dup(int(name))) as connection:
                    _keep_alive(connection)


def _keep_alive(connection: socket.socket) -> None:
    if connection.type == socket.SOCK_STREAM and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _OPTIONS.items():
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
