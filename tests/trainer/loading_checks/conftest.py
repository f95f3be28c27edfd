"""What payloads leave, read or call."""

from __future__ import annotations

import pathlib
import socket
from collections.abc import Iterator

import pytest


@pytest.fixture
def marker(tmp_path: pathlib.Path) -> pathlib.Path:
    """What a payload makes."""
    return tmp_path / "marker"


@pytest.fixture
def secret(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "secret"
    path.write_bytes(b"hunter2-hunter2-hunter2-")
    return path


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Whoever connects is noticed."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(0.2)
        yield listening
