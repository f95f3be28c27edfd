"""The command, in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import fsspec
import pytest

from pipeline import buckets
from preprocess.__main__ import main
from tests.preprocess.folders import REPOSITORY, Outcome

# Read when gcsfs is imported; with it, gcsfs asks a second service about every bucket, and waits for minutes.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs the command's `main` in this process; `input=…, output=…` become flags, True becomes `--flag`."""

    def run(**given: object) -> Outcome:
        arguments = {"name": "tiny", **given}
        capsys.readouterr()
        status = main(["preprocess", *(f"--{key}={value}" for key, value in arguments.items() if value is not None)])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """Starts the real command as a process of its own."""

    def run(**given: object) -> subprocess.Popen[str]:
        arguments = {"name": "tiny", **given}
        return subprocess.Popen(
            [sys.executable, "-m", "preprocess", *(f"--{key}={value}" for key, value in arguments.items())],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


@pytest.fixture
def serve_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Starts a process that answers as Google Cloud Storage does, `serve_bucket("--failures=0.1")` with failures.

    This process and those it starts use it; what the clients remember of an earlier one is dropped.
    """
    pytest.importorskip("gcsfs", reason="needs gcsfs, of the extra gcp")
    pytest.importorskip("google.cloud.storage", reason="needs google-cloud-storage, of the extra gcp")
    started = []

    def serve(*arguments: str) -> str:
        script = str(REPOSITORY / "tests/preprocess/gcs_server.py")
        server = subprocess.Popen([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True)
        started.append(server)
        assert server.stdout is not None
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.stdout.readline().strip())
        monkeypatch.setenv("FSSPEC_GS_TOKEN", "anon")  # else gcsfs looks for credentials, for minutes
        monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
        buckets._client.cache_clear()
        fsspec.get_filesystem_class("gs").clear_instance_cache()
        return "gs://bucket"

    yield serve
    for server in started:
        server.kill()
        server.communicate()


@pytest.fixture
def bucket(serve_bucket: Callable[..., str]) -> str:
    return serve_bucket()
