"""A worker machine on this one: an environment that holds what the worker image does, and processes in it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = pathlib.Path(__file__).parents[2]
REQUIREMENTS = REPOSITORY / "infra/dataflow/worker-requirements.txt"
# What a package is built from; a copy keeps the checkout free of what building leaves behind.
_SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "configs", "pipeline", "preprocess", "trainer")
_START_TIMEOUT_S = 60.0


def copy_project(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    for name in _SOURCES:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPOSITORY / name, folder)
    return folder


def make_environment(folder: pathlib.Path, package: pathlib.Path | None) -> pathlib.Path:
    """A virtual environment with the image's requirements, linked from this one, and `package`; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
    python = folder / "bin/python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = pathlib.Path(subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip())
    for distribution in _closure(REQUIREMENTS.read_text(encoding="utf-8").split()):
        for file in distribution.files or ():
            if file.parts[0] != ".." and file.suffix != ".pyc":
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():
                    target.symlink_to(pathlib.Path(str(distribution.locate_file(file))))
    if package:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
        subprocess.run([*pip, "--disable-pip-version-check", "--target", site, package], check=True, timeout=300)
    return python


@contextlib.contextmanager
def worker_pool(python: pathlib.Path, folder: pathlib.Path) -> Iterator[str]:
    """Starts Beam's worker pool in the new, empty `folder` without this process's variables; yields HOST:PORT."""
    folder.mkdir()
    port = free_port()
    log = folder.parent / f"{folder.name}.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [python, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"],
            cwd=folder,
            env=clean_environment(python),
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for_port(port, process, log)
        yield f"localhost:{port}"
    finally:
        stop(process)


def clean_environment(python: pathlib.Path) -> dict[str, str]:
    # The pool starts each worker as `python`, whichever comes first.
    return {"PATH": f"{python.parent}{os.pathsep}{os.defpath}", "HOME": str(python.parent), "LC_ALL": "C.UTF-8"}


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: pathlib.Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
            return
        time.sleep(0.2)
    raise RuntimeError(f"nothing listens on port {port} (exit status {process.poll()}):\n{log.read_text()[-4000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
    return port


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def prepare(*flags: str, folder: pathlib.Path = REPOSITORY, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    """Runs the public command."""
    command = [sys.executable, "-m", "preprocess", *flags]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout_s)


def result(directory: pathlib.Path) -> dict[str, object]:
    """What a reader sees of a finished dataset: fingerprint, classes, ledger, and the hash of each shard on disk."""
    found = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    shards = {
        shard["file"]: hashlib.sha256((directory / shard["file"]).read_bytes()).hexdigest()
        for split in found["splits"].values()
        for shard in split["shards"]
    }
    return {key: found[key] for key in ("fingerprint", "classes", "splits", "ledger", "statistics")} | {"disk": shards}


def _closure(lines: Iterable[str]) -> Sequence[importlib.metadata.Distribution]:
    """The installed distributions that `lines` need, themselves included."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [(Requirement(line), "") for line in lines]
    done = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), wanted)
            if key not in done:
                done.add(key)
                found[key[0]] = distribution = importlib.metadata.distribution(requirement.name)
                waiting += [(Requirement(line), wanted) for line in distribution.requires or ()]
    return list(found.values())
