"""The banana leaves beside the checkout in; a run on them that is made in a minute, evaluated and exported, out."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tarfile

from tests.conftest import REPOSITORY

# The head alone, on features that are computed once.
CONFIG = """
from configs.schema import Config, Input, Loss, Model, Optimizer, Phase

def get_config():
    return Config(
        global_batch=32,
        input=Input(image_size=160, crop_fraction=0.875),
        model=Model(backbone="mobilenetv2", weights={weights!r}),
        optimizer=Optimizer(name="adamw", peak_lr=3e-3, weight_decay=0.01),
        loss=Loss(label_smoothing=0.1, class_weights="balanced"),
        phases=(Phase(epochs=20, trainable="head", cached_features=True),),
    )
"""
TIMEOUT_S = 600


def make(shared: pathlib.Path, folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """(the run's working directory, the folder with one folder of photos a class)."""
    photos = folder / "photos"
    with tarfile.open(shared / "data/banana-leaf.tar") as archive:
        archive.extractall(photos, filter="data")
    config = folder / "config.py"
    config.write_text(CONFIG.format(weights=str(shared / "weights/mobilenet_v2_1.0_no_top.weights.h5")))
    data, workdir = folder / "data/leaves/1.0.0", folder / "run"
    for arguments in (
        ("preprocess", f"--input={photos}", f"--output={folder / 'data'}", "--name=leaves"),
        ("trainer", "train", f"--config={config}", f"--data={data}", f"--workdir={workdir}"),
        ("trainer", "evaluate", f"--workdir={workdir}", "--split=validation"),
        ("trainer", "export", f"--workdir={workdir}", "--formats=saved_model"),
    ):
        subprocess.run([sys.executable, "-m", *arguments], cwd=REPOSITORY, check=True, timeout=TIMEOUT_S)
    return workdir, photos
