"""The command, in this process or in one of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from preprocess.__main__ import main
from tests.preprocess.folders import REPOSITORY, Outcome


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
