"""A tiny export, and a server of it inside this process, which has TensorFlow already."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.trainer.serving import tiny_export
from trainer.serving import listening, server
from trainer.serving.limits import Limits

START_S = 30


class Client(NamedTuple):
    """Asks a server that runs here."""

    port: int
    running: server.Running

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; a body that is no bytes is sent as JSON."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, content, headers or {})
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()

    def json(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, _, content = self.ask(method, path, body)
        return status, json.loads(content)


@pytest.fixture(scope="session")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Holds export 1 of `tiny_export`."""
    folder = tmp_path_factory.mktemp("serving")
    tiny_export.write(folder, 1)
    return folder


@contextlib.contextmanager
def serving(workdir: pathlib.Path, limits: Limits) -> Iterator[Client]:
    running = server.Running(str(workdir), limits)
    listener = listening.listen("127.0.0.1", 0)
    ended: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(running.until_told(listener, poll_s=0.1))
        except BaseException as error:  # noqa: BLE001  # shown by the test
            ended.append(error)

    thread = threading.Thread(target=run)
    port = listener.getsockname()[1]
    thread.start()
    deadline = time.monotonic() + START_S
    while not (running.service.ready and running.server.started) and not ended and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        assert running.service.ready, ended
        yield Client(port, running)
    finally:
        running.server.should_exit = True
        thread.join(START_S)
    assert not thread.is_alive()
    assert not ended


@pytest.fixture
def serve(workdir: pathlib.Path) -> Iterator[Callable[..., Client]]:
    """Starts a server with limits of its own, of `workdir` or another folder."""
    with contextlib.ExitStack() as stack:
        yield lambda folder=workdir, **limits: stack.enter_context(serving(folder, Limits(**limits)))


@pytest.fixture(scope="module")
def client(workdir: pathlib.Path) -> Iterator[Client]:
    """One server for the tests that change nothing about it."""
    with serving(workdir, Limits()) as started:
        yield started
