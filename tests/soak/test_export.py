"""All formats of a trained run, by the command; and the .keras file in a process that has nothing of ours."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.trainer.commands import run
from trainer.export import formats

pytestmark = pytest.mark.soak
CONFIG = "configs/digits_mobilenetv2.py"
# -I leaves the current folder and PYTHONPATH out: what is not in the file is not there.
ALONE = """
import sys
import keras
import numpy as np
assert not [name for name in sys.modules if name.startswith("trainer")]
try:
    import trainer
except ImportError:
    pass
else:
    raise AssertionError("ours is there")
answers = keras.saving.load_model(sys.argv[1])(np.load(sys.argv[2]))
np.save(sys.argv[3], np.asarray(answers["probabilities"]))
"""


def test_all_formats_of_a_trained_run(digits: str, tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "run"
    trained = run("train", f"--config={CONFIG}", "--config.max_steps=60", f"--data={digits}", f"--workdir={workdir}")
    assert trained.returncode == 0, trained.stderr
    exported = run("export", f"--workdir={workdir}", f"--formats={','.join(formats.FILES)}", "--int8_budget=5")
    assert exported.returncode == 0, exported.stderr
    folder = workdir / "exports/1"
    card = json.loads((folder / "export.json").read_text())
    assert set(card["parity"]) == set(formats.FILES)
    for report in card["parity"].values():
        assert report["first_difference"] is None
        assert (folder / report.get("file", "saved_model.pb")).is_file()

    import tensorflow as tf

    side = card["preprocessing"]["image_size"]
    images = np.random.default_rng(0).integers(0, 256, [4, side, side, 3]).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            ALONE,
            *(str(tmp_path / name) for name in ("run/exports/1/model.keras", "images.npy", "found.npy")),
        ],
        check=True,
        cwd=tmp_path,
        timeout=240,
    )
    expected = tf.saved_model.load(str(folder)).signatures["pixels"](images=tf.constant(images))["probabilities"]
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, atol=1e-4)
