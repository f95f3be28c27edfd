"""TensorFlow starts without notes, and leaves the environment that later processes get as it was."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("level", [None, "0"])
def test_notes_are_shown_where_asked_for_and_the_wish_is_passed_on_as_it_was(level: str | None) -> None:
    started = "import os; from pipeline import startup; startup.import_tensorflow()"
    result = _run(f"{started}; print(os.environ.get('TF_CPP_MIN_LOG_LEVEL'))", level)
    assert result.stdout.split() == [str(level)]
    if level is not None:
        assert "oneDNN" in result.stderr
    elif not os.path.exists("/dev/nvidiactl"):  # with a GPU's driver every note is shown
        assert result.stderr == ""


def _run(script: str, level: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    if level is not None:
        environment["TF_CPP_MIN_LOG_LEVEL"] = level
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
