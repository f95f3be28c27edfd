"""TensorFlow starts without notes, and leaves the environment that later processes get as it was."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    "statement",
    [
        "from pipeline import startup; startup.import_tensorflow()",
        # Its import sets the level to silence.
        "from pipeline import startup\nwith startup.keep_log_level():\n    import tf2onnx.convert",
    ],
)
@pytest.mark.parametrize("level", [None, "1"])
def test_the_log_level_of_later_processes_is_kept(statement: str, level: str | None) -> None:
    if "tf2onnx" in statement:
        pytest.importorskip("tf2onnx", reason="needs tf2onnx, of the extra export")
    result = _run(f"import os\n{statement}\nprint(os.environ.get('TF_CPP_MIN_LOG_LEVEL'))", level)
    assert result.stdout.split() == [str(level)]


def test_notes_are_held_back_unless_asked_for() -> None:
    if os.path.exists("/dev/nvidiactl"):
        pytest.skip("with a GPU's driver every note is shown")
    script = "from pipeline import startup; startup.import_tensorflow()"
    assert _run(script, None).stderr == ""
    assert "oneDNN" in _run(script, "0").stderr


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
