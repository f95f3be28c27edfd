"""What tests of several folders share: real digits as class folders, and a dataset prepared from them once."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

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
