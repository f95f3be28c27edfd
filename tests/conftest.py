"""What tests of several folders share: real digits as class folders, a dataset prepared from them once, a bucket."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline import bucket_client

REPOSITORY = pathlib.Path(__file__).parent.parent
SHARED = REPOSITORY.parent / "shared"
PER_CLASS = 24


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder with real photos and ImageNet weights that may lie beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("needs the real data beside the checkout, ../shared")
    return SHARED


@pytest.fixture(scope="session")
def digit_folders(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """240 handwritten digits as INPUT/CLASS/FILE.png, 24 of each."""
    root = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    for label in range(10):
        (root / str(label)).mkdir()
        for index in np.flatnonzero(digits.target == label)[:PER_CLASS]:
            pixels = (digits.images[index] * 255 / 16).round().astype(np.uint8)
            Image.fromarray(pixels).save(root / str(label) / f"{index:04d}.png")
    return root


@pytest.fixture(scope="session")
def digits(digit_folders: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The dataset's folder, prepared from `digit_folders` by the real command: 190 or so to train on, in 8 shards."""
    output = tmp_path_factory.mktemp("prepared")
    command = [sys.executable, "-m", "preprocess", f"--input={digit_folders}", f"--output={output}", "--name=digits"]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    return str(output / "digits" / "1.0.0")


@pytest.fixture
def serve_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Starts a process that answers as Google Cloud Storage does, `serve_bucket("--failures=0.1")` with failures.

    This process and those it starts use it; what the clients remember of an earlier one is dropped.
    """
    pytest.importorskip("google.cloud.storage", reason="needs google-cloud-storage, of the extra gcp")
    started = []

    def serve(*arguments: str) -> str:
        script = str(REPOSITORY / "tests/preprocess/gcs_server.py")
        server = subprocess.Popen([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True)
        started.append(server)
        assert server.stdout is not None
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.stdout.readline().strip())
        bucket_client.client.cache_clear()
        return "gs://bucket"

    yield serve
    for server in started:
        server.kill()
        server.communicate()


@pytest.fixture
def bucket(serve_bucket: Callable[..., str]) -> str:
    return serve_bucket()


@pytest.fixture
def faults() -> Callable[[], dict[str, int]]:
    """What the bucket's server counted until now: requests, and what it did wrong with some of them."""

    def ask() -> dict[str, int]:
        with urllib.request.urlopen(f"{os.environ['STORAGE_EMULATOR_HOST']}/faults") as answer:
            found: dict[str, int] = json.load(answer)
        return found

    return ask
