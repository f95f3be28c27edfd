"""Jars of pom.xml in, a Flink cluster on loopback out: a JobManager, a TaskManager and Beam's job server.

make build/flink/.fetched
python infra/flink/local_cluster.py     # prints the --beam_args to use, runs until it is interrupted
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping

JARS = pathlib.Path(__file__).parents[2] / "build/flink/lib"
SLOTS = 2
_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 20.0
_CLUSTER = "org.apache.flink.runtime"
# What Flink's own start scripts open to it on Java 17: https://github.com/apache/flink, conf, env.java.opts.all.
_OPENED = ("lang", "lang.reflect", "io", "net", "nio", "text", "time", "util", "util.concurrent")
_MORE_OPENED = ("util.concurrent.atomic", "util.concurrent.locks")


@contextlib.contextmanager
def local_cluster(folder: pathlib.Path, jars: pathlib.Path = JARS) -> Iterator[str]:
    """Yields the job server's HOST:PORT; logs and temporary files go to `folder`, and nothing runs afterwards.

    Raises:
      RuntimeError: with the end of the log, where one of the three ends or is not ready in time.
    """
    (folder / "conf").mkdir(parents=True)
    (folder / "tmp").mkdir()
    rpc, rest, jobs = _free_ports(3)
    settings = _settings(rpc, rest, str(folder / "tmp"))
    # JSON is YAML, so no library is needed to write it.
    (folder / "conf/config.yaml").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    conf = ("--configDir", str(folder / "conf"))
    with contextlib.ExitStack() as stack:

        def start(name: str, memory: str, main: str, *arguments: str) -> Callable[[], None]:
            command = ["java", *memory.split(), *_opened(), "-cp", f"{jars}/*", main, *arguments]
            return stack.enter_context(_process(command, folder / f"{name}.log"))

        check = start("jobmanager", "-Xmx512m", f"{_CLUSTER}.entrypoint.StandaloneSessionClusterEntrypoint", *conf)
        _wait(lambda: _overview(rest) is not None, check)
        direct = "-Xmx768m -XX:MaxDirectMemorySize=768m"
        check = start("taskmanager", direct, f"{_CLUSTER}.taskexecutor.TaskManagerRunner", *conf)
        _wait(lambda: (_overview(rest) or {}).get("slots-available") == SLOTS, check)
        check = start(
            "jobserver",
            "-Xmx512m",
            "org.apache.beam.runners.flink.FlinkJobServerDriver",
            f"--flink-master=127.0.0.1:{rest}",
            "--job-host=localhost",
            f"--job-port={jobs}",
            "--artifact-port=0",
            "--expansion-port=0",
            f"--artifacts-dir={folder / 'tmp'}",
        )
        _wait(lambda: _listens(jobs), check)
        yield f"localhost:{jobs}"


def _settings(rpc: int, rest: int, folder: str) -> Mapping[str, object]:
    """https://nightlies.apache.org/flink/flink-docs-release-1.19/docs/deployment/config/"""
    memory = {
        "framework.heap.size": "128m",
        "framework.off-heap.size": "128m",
        "task.heap.size": "384m",
        "task.off-heap.size": "0m",
        # Sorting takes it, shared out among operators and slots. Before that Flink joins what one worker sends to one
        # key into a single record, as large as a shard's list of files or a part of the ledger.
        "managed.size": "1536m",
        # Flink's 64 MiB for a small TaskManager do not hold this job's shuffles: every batch shuffle that runs at the
        # same time asks for 512 buffers of 32 KiB.
        "network.min": "256m",
        "network.max": "256m",
        "jvm-metaspace.size": "256m",
        "jvm-overhead.min": "128m",
        "jvm-overhead.max": "128m",
    }
    return {
        "jobmanager.rpc.address": "127.0.0.1",
        "jobmanager.rpc.port": rpc,
        "jobmanager.bind-host": "127.0.0.1",
        "jobmanager.memory.process.size": "1024m",
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "rest.port": rest,
        "rest.bind-port": str(rest),
        "taskmanager.host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
        "taskmanager.cpu.cores": SLOTS,
        "taskmanager.numberOfTaskSlots": SLOTS,
        "taskmanager.network.sort-shuffle.min-buffers": 64,
        "parallelism.default": SLOTS,
        "io.tmp.dirs": folder,
        **{f"taskmanager.memory.{name}": size for name, size in memory.items()},
    }


@contextlib.contextmanager
def _process(command: list[str], log: pathlib.Path) -> Iterator[Callable[[], None]]:
    """Yields a function that raises with the end of the log once the process has ended."""
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def check() -> None:
        if process.poll() is not None:
            raise RuntimeError(f"{log.stem} ended with status {process.returncode}:\n{log.read_text()[-4000:]}")

    try:
        yield check
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(ready: Callable[[], bool], check: Callable[[], None]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not ready():
        check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"not ready after {_START_TIMEOUT_S:.0f} s")
        time.sleep(0.5)


def _overview(port: int) -> dict[str, object] | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/overview", timeout=5) as answer:
            found: dict[str, object] = json.load(answer)
            return found
    except (OSError, urllib.error.URLError, ValueError):
        return None


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("localhost", port), timeout=1):
            return True
    except OSError:
        return False


def _free_ports(count: int) -> list[int]:
    """All are held until all are known, so that they differ."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _opened() -> list[str]:
    return [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in (*_OPENED, *_MORE_OPENED)] + [
        "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
        "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, local_cluster(pathlib.Path(folder) / "flink") as address:
        print(
            f'--beam_args="--runner=PortableRunner --job_endpoint={address} --parallelism={SLOTS} '
            '--environment_cache_millis=60000 --environment_type=EXTERNAL --environment_config=WORKER_POOL"',
            flush=True,
        )
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
