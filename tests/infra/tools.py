"""Where the linters and renderers are: beside this Python, where the lock put them, or on the PATH."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence

import pytest


def tool(name: str) -> str:
    places = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = shutil.which(name, path=places)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def run(command: Sequence[str | pathlib.Path], **options: object) -> subprocess.CompletedProcess[str]:
    """The tool's outcome, whatever its status."""
    arguments = [tool(str(command[0])), *map(str, command[1:])]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload,no-any-return]
