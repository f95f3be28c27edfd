"""The kernel looks after all TCP connections of a process, whoever made them, and after nothing else."""

from __future__ import annotations

import pathlib
import socket
import time

import pytest

from trainer import connections


def asks(connection: socket.socket) -> tuple[int, ...]:
    """(whether it asks, after so many seconds, so far apart, so often)."""
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    kept = connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    return kept, *(connection.getsockopt(socket.IPPROTO_TCP, option) for option in options)


def test_it_asks_over_connections_and_leaves_all_else(tmp_path: pathlib.Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        (tmp_path / "file").open("w"),
    ):
        assert not any(asks(each)[0] for each in (client, accepted))
        connections.keep_alive()
        # An end that is silent for 5 s and does not answer for 20 more is gone.
        assert asks(client) == asks(accepted) == (1, 5, 2, 10)
        assert not datagrams.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        client.sendall(b"still open")
        assert accepted.recv(100) == b"still open"


def test_it_finds_connections_that_are_made_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_PERIOD_S", 0.01)
    connections.watch()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        deadline = time.monotonic() + 10
        while not asks(client)[0]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
