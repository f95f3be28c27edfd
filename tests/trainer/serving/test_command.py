"""`python -m trainer serve`, as an operator starts and ends it."""

from __future__ import annotations

import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest

from tests.conftest import REPOSITORY
from tests.trainer.serving.test_server import form, png
from trainer import __main__ as trainer
from trainer.serving import listening

TIMEOUT_S = 120


def test_mistakes_are_one_line_before_anything_is_loaded(
    workdir: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with listening.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        for arguments, says in (
            ((), "--workdir must be given"),
            ((f"--workdir={tmp_path}",), "has no complete export: run `python -m trainer export"),
            ((f"--workdir={workdir}", f"--port={port}"), "choose another, or port 0"),
            ((f"--workdir={workdir}", "--host=192.0.2.1"), "choose another"),
            ((f"--workdir={workdir}", "--max_waiting=3"), "would always be refused"),
            ((f"--workdir={workdir}", "--max_batch=0"), "max_batch"),
        ):
            assert trainer.main(["trainer", "serve", *arguments]) == 2
            error = capsys.readouterr().err
            assert says in error
            assert error.count("\n") == 1, error


def test_it_is_ready_when_it_says_so_and_ends_what_has_begun(workdir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """An upload is under way when SIGTERM comes; the server waits for the rest of it, answers, and leaves with 0."""
    shutil.copytree(workdir / "exports", tmp_path / "exports")
    command = [sys.executable, "-m", "trainer", "serve", f"--workdir={tmp_path}", "--port=0", "--host=::1"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        stop = threading.Timer(TIMEOUT_S, server.kill)
        stop.start()
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[-1]
            assert address.startswith("http://[::1]:")
            with urllib.request.urlopen(f"{address}readyz", timeout=TIMEOUT_S) as answer:
                assert answer.read() == b"ready\n"
            body, headers = form(png((10, 10, 220)))
            port = int(address.rstrip("/").rpartition(":")[2])
            with socket.create_connection(("::1", port), TIMEOUT_S) as connection:
                head = [f"{name}: {value}" for name, value in {**headers, "Content-Length": len(body)}.items()]
                connection.sendall("\r\n".join(["POST /classify HTTP/1.1", "Host: x", *head, "", ""]).encode())
                connection.sendall(body[:100])
                with urllib.request.urlopen(f"{address}healthz", timeout=TIMEOUT_S):
                    pass  # by now it has the beginning
                server.send_signal(signal.SIGTERM)
                with pytest.raises(subprocess.TimeoutExpired):
                    server.wait(1)
                with pytest.raises(OSError):  # noqa: PT011  # nobody new is let in
                    socket.create_connection(("::1", port), 1).close()
                connection.sendall(body[100:])
                received = connection.makefile("rb").read()
            assert received.startswith(b"HTTP/1.1 200 ")
            assert b"This looks like blue." in received
            _, error = server.communicate()
            assert server.returncode == 0
            assert error.endswith("serving colours version 1, of step 1\n")  # behind what TensorFlow may note
            assert "Traceback" not in error
        finally:
            stop.cancel()
            server.kill()
