"""SIGKILL of the real command at random steps, many inside a save: the end is that of the run that nobody disturbed."""

from __future__ import annotations

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from trainer import checkpoint_files as files

REPOSITORY = pathlib.Path(__file__).parents[2]
SEED = 11
STEPS = 240
# Two phases, with everything that has a state: dropout, moments, averages, moving statistics, evaluations.
CONFIG = f"""
from configs.schema import Config, Input, Model, Optimizer, Phase

def get_config():
    return Config(
        global_batch=32,
        input=Input(image_size=32, crop_area=(0.8, 1.0), flip=False),
        model=Model(width=0.35, batch_norm_momentum=0.9),
        optimizer=Optimizer(name="adamw", peak_lr=1e-3, ema=0.99),
        phases=(Phase(steps=40, trainable="head"), Phase(steps={STEPS - 40})),
        evaluate_every_epochs=3.0,
    )
"""
# One operation at a time: side by side they add in no fixed order, and a run would not repeat to the last bit.
ENVIRONMENT = {**os.environ, "TF_NUM_INTEROP_THREADS": "1"}
TIMEOUT_S = 900


def command(folder: pathlib.Path, digits: str, workdir: pathlib.Path, *more: str) -> list[str]:
    config = folder / "storm.py"
    config.write_text(CONFIG)
    return [
        *(sys.executable, "-m", "trainer", "train", f"--config={config}", f"--data={digits}", f"--workdir={workdir}"),
        *more,
    ]


def finish(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        arguments, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def weights(stdout: str) -> str:
    return re.search(r"finished at step \d+.*weights ([0-9a-f]{64})", stdout).group(1)


def newest_step(workdir: pathlib.Path) -> int:
    return max((name.step for name in files.names(str(workdir))), default=0)


def content(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Everything in the newest checkpoint, not the weights alone."""
    name = files.names(str(workdir))[-1]
    reader = tf.train.load_checkpoint(os.path.join(files.folder(str(workdir), name), "content"))
    keys = reader.get_variable_to_shape_map()
    return {key: reader.get_tensor(key) for key in keys if key != "_CHECKPOINTABLE_OBJECT_GRAPH"}


def kill_after(arguments: list[str], workdir: pathlib.Path, step: int, chance: random.Random) -> bool:
    """Starts the command and kills it some time after it saved `step`; True where that was inside a save."""
    log = workdir.parent / "stderr.txt"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            arguments, cwd=REPOSITORY, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=stderr
        ) as process,
    ):
        try:
            deadline = time.monotonic() + TIMEOUT_S
            while newest_step(workdir) < step:
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.5))  # about what a step and its save take, so that each part is hit
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed: more steps, or fewer kills"
    return bool(list(workdir.glob("checkpoints/.step-*")))


def storm(tmp_path: pathlib.Path, digits: str, kills: int) -> None:
    undisturbed = tmp_path / "undisturbed"
    expected = weights(finish(command(tmp_path, digits, undisturbed)).stdout)

    workdir = tmp_path / "storm"
    arguments = command(tmp_path, digits, workdir, "--config.checkpoint_every_steps=1")
    chance = random.Random(SEED)
    targets = sorted(chance.sample(range(1, STEPS - 10), kills))
    steps, inside = [], 0
    for target in targets:
        inside += kill_after(arguments, workdir, max(target, newest_step(workdir) + 1), chance)
        steps.append(newest_step(workdir))
    last = finish(arguments)
    print(f"\n{len(steps)} kills, {inside} inside a save, with these steps saved: {steps}")

    assert weights(last.stdout) == expected
    mine, theirs = content(workdir), content(undisturbed)
    assert mine.keys() == theirs.keys()
    for key in mine:
        np.testing.assert_array_equal(mine[key], theirs[key], err_msg=key)
    assert not list(workdir.glob("checkpoints/.*")), "leftovers of killed saves"
    history = [json.loads(line)["step"] for line in (workdir / "history.jsonl").read_text().splitlines()]
    assert history == [json.loads(line)["step"] for line in (undisturbed / "history.jsonl").read_text().splitlines()]
    assert inside >= kills / 10


@pytest.mark.soak
def test_fifty_kills_of_a_training_end_with_the_same_weights(tmp_path: pathlib.Path, digits: str) -> None:
    storm(tmp_path, digits, kills=50)
