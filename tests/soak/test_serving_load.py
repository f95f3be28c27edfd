"""Ten minutes of 20 requests a second with hostile ones between them and a newer export in the middle.

SERVING_LOAD_S shortens it, and LEAVES_WORKDIR with LEAVES_PHOTOS takes a run that has an export in place of a new one.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.trainer.serving import leaves_run

SECONDS = float(os.environ.get("SERVING_LOAD_S", "600"))
RATE = 20
CALLERS = 16
CLOSED_S = 20
START_S = 120


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, pathlib.Path]:
    """(a folder whose exports/1 is of the leaves, their photos)."""
    folder = tmp_path_factory.mktemp("leaves")
    if "LEAVES_WORKDIR" in os.environ:
        workdir, photos = (pathlib.Path(os.environ[name]) for name in ("LEAVES_WORKDIR", "LEAVES_PHOTOS"))
    else:
        workdir, photos = leaves_run.make(request.getfixturevalue("shared"), folder)
    shutil.copytree(workdir / "exports/1", folder / "served/exports/1")
    return folder / "served", photos


def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """A server, and the line that it prints when it is ready."""
    server = subprocess.Popen([sys.executable, "-m", *arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    stop = threading.Timer(START_S, server.kill)
    stop.start()
    assert server.stdout is not None
    line = server.stdout.readline()
    stop.cancel()
    assert line, "the server did not start"
    return server, line


def client(*arguments: object, timeout_s: float) -> dict[str, object]:
    command = [sys.executable, "-m", "tests.soak.serving_client", *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=timeout_s)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def resident_bytes(process: int) -> int:
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])


@pytest.mark.soak
def test_good_requests_are_answered_whatever_comes_between_them(made: tuple[pathlib.Path, pathlib.Path]) -> None:
    workdir, photos = made
    server, line = start("trainer", "serve", f"--workdir={workdir}", "--port=0", "--poll_s=2")
    port = line.rstrip("/\n").rpartition(":")[2]
    memory: list[tuple[float, int]] = []
    done = threading.Event()
    began = time.monotonic()

    def watch() -> None:
        swapped = False
        while not done.wait(2):
            memory.append((time.monotonic() - began, resident_bytes(server.pid)))
            if not swapped and memory[-1][0] > SECONDS / 2:
                swapped = True
                shutil.copytree(workdir / "exports/1", workdir / "exports/.2")
                os.replace(workdir / "exports/.2", workdir / "exports/2")

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        found = client("load", port, photos, SECONDS, RATE, timeout_s=SECONDS + 200)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            metrics = answer.read().decode()
    finally:
        done.set()
        watcher.join()
        server.terminate()
        status = server.wait(60)
    good = np.array(found["good"])
    took_ms = 1000 * good[:, 1]
    first = np.median([size for at, size in memory if 30 <= at < 90])
    last = np.median([size for at, size in memory if at > memory[-1][0] - 60])
    hostile = {kind: dict(counts) for kind, counts in found["hostile"].items()}
    p50, p99, most = np.percentile(took_ms, (50, 99, 100))
    print(f"\n{len(good)} good, {sum(sum(counts.values()) for counts in hostile.values())} hostile: {hostile}")
    print(f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, most {most:.0f} ms")
    minutes = [np.median([size for at, size in memory if 60 * n <= at < 60 * n + 60]) for n in range(int(SECONDS / 60))]
    print("memory by the minute, MiB:", [round(size / 2**20) for size in minutes])
    print(f"memory {first / 2**20:.0f} MiB, then {last / 2**20:.0f} MiB ({last / first - 1:+.1%})")
    assert set(good[:, 2]) == {200}
    assert not found["wrong"]
    assert not found["failed"]
    assert "shardline_serving_model_version 2.0" in metrics
    assert 'shardline_serving_refusals_total{reason="internal_error"}' not in metrics
    assert status == 0
    if SECONDS >= 300:  # before that the first minute's growth, of caches that fill, is most of it
        assert last < 1.05 * first


@pytest.mark.soak
def test_callers_at_once_are_answered_faster_than_one_by_one(made: tuple[pathlib.Path, pathlib.Path]) -> None:
    workdir, photos = made
    ours, line = start("trainer", "serve", f"--workdir={workdir}", "--port=0")
    plain, plain_port = start("tests.soak.plain_server", str(workdir / "exports/1"))
    ports = {"ours": line.rstrip("/\n").rpartition(":")[2], "plain": plain_port.strip()}
    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    try:
        for name in ("plain", "ours", "ours", "plain"):
            found = client("closed", ports[name], photos, CLOSED_S, CALLERS, timeout_s=CLOSED_S + 60)
            assert set(found["statuses"]) == {"200"}, found
            rates[name].append(found["per_s"])
    finally:
        for server in (ours, plain):
            server.kill()
            server.wait()
    print("\nanswers per second:", {name: [round(rate, 1) for rate in values] for name, values in rates.items()})
    assert np.mean(rates["ours"]) > np.mean(rates["plain"])
