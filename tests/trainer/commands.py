"""`python -m trainer` as tests run it: a real process, and what it printed."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).parents[2]
TIMEOUT_S = 240
# TensorFlow's operations run side by side in no fixed order, and so do the sums they share; one at a time, a run
# repeats to the last bit. Not for several workers: their collectives wait for each other.
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
