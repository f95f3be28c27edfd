"""The demo's two helpers on real files; the commands between them have their own tests."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

DEMO = pathlib.Path(__file__).parents[2] / "infra/demo"


def run(script: str, *arguments: pathlib.Path) -> str:
    command = [sys.executable, str(DEMO / script), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_digits_are_the_scans_in_their_class_folders(tmp_path: pathlib.Path) -> None:
    assert "1,797" in run("write_digits.py", tmp_path)
    assert len(list(tmp_path.glob("*/*.png"))) == 1797
    digits = load_digits()
    for index in (0, 1, 1796):
        with Image.open(tmp_path / str(digits.target[index]) / f"{index:04d}.png") as image:
            assert (image.mode, image.size) == ("L", (8, 8))
            # Scans are 0..16 and images 0..255, so that 16, the brightest, is exactly white.
            assert np.abs(np.asarray(image) / 255 - digits.images[index] / 16).max() < 0.5 / 255 + 1e-9


def test_held_out_images_are_test_images_of_five_classes(tmp_path: pathlib.Path) -> None:
    rows = [
        {"class": name, "file": f"{name}/{number}.png", "split": "train" if number == 1 else "test"}
        for name in "gfedcba"
        for number in (3, 2, 1)
    ]
    for part, some in enumerate((rows[:10], rows[10:])):
        (tmp_path / f"ledger-{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    assert run("held_out.py", tmp_path, pathlib.Path("photos")).split() == [f"photos/{name}/2.png" for name in "abcde"]
