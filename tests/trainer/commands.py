"""`python -m trainer` as tests run it: a real process, and what it printed."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).parents[2]
TIMEOUT_S = 240
# Operations that run one at a time add up in one order, so that a run repeats to the last bit without the deterministic
# mode, which refuses what a few recipes have.
ENVIRONMENT = {**os.environ, "TF_NUM_INTEROP_THREADS": "1"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "trainer", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=ENVIRONMENT,
    )


def weights(stdout: str) -> tuple[int, str]:
    """(last global step, hash of the weights) as a training prints them."""
    step, found = re.search(r"finished at step (\d+).*weights ([0-9a-f]{64})", stdout).groups()
    return int(step), found


def start_two_workers(arguments: list[str]) -> list[subprocess.Popen[str]]:
    return start_workers(arguments, 2)


def start_workers(arguments: list[str], count: int) -> list[subprocess.Popen[str]]:
    """The same command in each of so many processes, the workers of one cluster over loopback, as TF_CONFIG tells."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]  # all open, so that the ports differ
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        cluster = {"worker": [f"127.0.0.1:{sock.getsockname()[1]}" for sock in sockets]}
    return [
        subprocess.Popen(
            arguments,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}),
            },
        )
        for index in range(count)
    ]


def end(processes: list[subprocess.Popen[str]], *, status: int, timeout_s: float = TIMEOUT_S) -> list[tuple[str, str]]:
    """(stdout, stderr) of each, which have to leave with `status`."""
    try:
        outputs = [process.communicate(timeout=timeout_s) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert {process.returncode for process in processes} == {status}, [stderr[-2000:] for _, stderr in outputs]
    return outputs
