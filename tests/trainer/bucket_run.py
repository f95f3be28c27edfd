"""The whole job by its real commands, with every address below one root: what it ended with, to be compared."""

from __future__ import annotations

import csv
import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any, NamedTuple

from pipeline import manifest, storage

REPOSITORY = pathlib.Path(__file__).parents[2]
TIMEOUT_S = 900
# Augmentation, moments, averages and two evaluations: whatever reads other bytes ends with other weights.
CONFIG = """
from configs.schema import Config, Input, Logs, Model, Optimizer, Phase

def get_config():
    return Config(
        global_batch=32,
        input=Input(image_size=32, crop_area=(0.8, 1.0)),
        model=Model(width=0.35, batch_norm_momentum=0.9),
        optimizer=Optimizer(name="adamw", peak_lr=1e-3, ema=0.9),
        phases=(Phase(steps=12),),
        logs=Logs(every_steps=2),
        evaluate_every_epochs=1.0,
        checkpoint_every_steps=3,
    )
"""
STEPS = 12


class Result(NamedTuple):
    shards: list[tuple[str, str]]  # file and SHA-256
    weights: str
    losses: list[tuple[int, str]]  # step and loss of each logged step
    measures: dict[str, Any]
    predictions: list[tuple[str, Any]]  # a file's name and its likeliest classes


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS`."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def environment() -> dict[str, str]:
    """Operations that run one at a time add up in one order, so that a run repeats to the last bit."""
    return {**os.environ, "TF_NUM_INTEROP_THREADS": "1"}


def prepare(photos: str, root: str) -> subprocess.CompletedProcess[str]:
    return run("preprocess", f"--input={photos}", f"--output={root}/data", "--name=digits")


def training(root: str, folder: pathlib.Path, data: str = "") -> list[str]:
    """Arguments of `train`; the config and, of remote shards, copies are in `folder`."""
    (folder / "config.py").write_text(CONFIG)
    copies = [] if storage.is_local(root) else [f"--config.input.cache_dir={folder / 'cache'}"]
    where = [f"--data={data or f'{root}/data/digits/1.0.0'}", f"--workdir={root}/run"]
    return ["train", f"--config={folder / 'config.py'}", *where, *copies]


def train(root: str, folder: pathlib.Path, data: str = "") -> subprocess.CompletedProcess[str]:
    """On what was prepared below `root`, or on `data`."""
    return run("trainer", *training(root, folder, data))


def evaluate(root: str) -> subprocess.CompletedProcess[str]:
    return run("trainer", "evaluate", f"--workdir={root}/run", "--split=test")


def predict(root: str, photos: str) -> subprocess.CompletedProcess[str]:
    """Of one class."""
    return run("trainer", "predict", f"--workdir={root}/run", "--format=json", f"{photos}/3")


def shards(data: str) -> list[tuple[str, str]]:
    made = manifest.load(data)
    return [(shard.file, shard.sha256) for split in made.splits.values() for shard in split.shards]


def weights(trained: str) -> str:
    return re.search(r"finished at step \d+.*weights ([0-9a-f]{64})", trained).group(1)


def losses(workdir: str) -> list[tuple[int, str]]:
    rows = csv.DictReader(storage.read_bytes(f"{workdir}/history.csv").decode().splitlines())
    return [(int(row["step"]), row["train_loss"]) for row in rows]


def measures(workdir: str) -> dict[str, Any]:
    """Of the report, whose page has to be there as well."""
    assert storage.read_bytes(f"{workdir}/report/index.html").startswith(b"<!doctype html>")
    metrics = storage.read_json(f"{workdir}/report/metrics.json")
    return {name: metrics[name] for name in ("examples", "accuracy", "loss", "confusion", "dataset_fingerprint")}


def result(root: str, photos: str, trained: str, predicted: str) -> Result:
    """Of what stands below `root`, and of what `train` and `predict` printed."""
    top = [(row["file"].removeprefix(photos), row["top"]) for row in json.loads(predicted)]
    run = f"{root}/run"
    return Result(shards(f"{root}/data/digits/1.0.0"), weights(trained), losses(run), measures(run), top)


def whole(root: str, photos: str, folder: pathlib.Path) -> Result:
    """Prepares, trains, evaluates and predicts."""
    succeeded(prepare(photos, root))
    trained = succeeded(train(root, folder))
    succeeded(evaluate(root))
    predicted = succeeded(predict(root, photos))
    return result(root, photos, trained, predicted)


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    """What it printed."""
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
