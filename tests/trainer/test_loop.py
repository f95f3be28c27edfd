"""What the loop does besides stepping, by the command itself: signals, going back, waiting, the best, whole recipes."""

from __future__ import annotations

import json
import pathlib
import re
import signal
import subprocess
import time

import pytest

from pipeline import storage
from tests.trainer.commands import ENVIRONMENT, REPOSITORY, TIMEOUT_S, command, run, weights

# Everything that has a state of its own at once; 190 digits are 5.9 steps an epoch.
WHOLE_RECIPE = """
from configs.schema import Augment, Config, Input, Loss, Model, Optimizer, Phase

def get_config():
    return Config(
        global_batch=32,
        steps_per_call=3,
        input=Input(image_size=32, crop_area=(0.8, 1.0), flip=True),
        augment=Augment(policy="randaugment", mixup=0.2),
        model=Model(width=0.35, batch_norm_momentum=0.9, head="mlp"),
        optimizer=Optimizer(
            name="adamw", peak_lr=1e-3, weight_decay=0.05, layer_decay=0.9, clip_norm=1.0, accumulation=2, ema=0.99
        ),
        loss=Loss(kind="focal", class_weights="effective"),
        phases=(
            Phase(epochs=1, trainable="head", cached_features=True),
            Phase(steps=4, trainable="from:block_14", schedule="exponential"),
            Phase(epochs=1, freeze_batch_norm=True, schedule="step", warmup_epochs=0.2),
        ),
        checkpoint_every_steps=2,
    )
"""
PLAIN = """
from configs.schema import Config, Input, Model, Monitor, Optimizer, Phase

def get_config():
    return Config(
        global_batch=32,
        input=Input(image_size=32, crop_area=(0.8, 1.0), flip=False),
        model=Model(width=0.35, batch_norm_momentum=0.9),
        optimizer=Optimizer(name="sgd", peak_lr=0.01),
        phases=(Phase(epochs=5, schedule="constant"),),
    )
"""


def _config(folder: pathlib.Path, text: str) -> str:
    path = folder / "config.py"
    path.write_text(text)
    return f"--config={path}"


def _history(workdir: pathlib.Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]


def _signalled(arguments: list[str], workdir: pathlib.Path, number: int, after_step: int) -> subprocess.Popen[str]:
    """The process, ended by itself after it got the signal, once a checkpoint of `after_step` or later was there."""
    process = subprocess.Popen(
        arguments, cwd=REPOSITORY, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + TIMEOUT_S
    while not any(int(path.name[5:13]) >= after_step for path in workdir.glob("checkpoints/step-*")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    return process


def test_a_whole_recipe_ended_by_signals_ends_where_the_uninterrupted_run_does(
    digits: str, tmp_path: pathlib.Path
) -> None:
    """SIGTERM inside the first phase, SIGKILL inside the second: the third then ends with the same weights."""
    config = _config(tmp_path, WHOLE_RECIPE)
    straight = run("train", config, f"--data={digits}", f"--workdir={tmp_path / 'straight'}")
    assert straight.returncode == 0, straight.stderr
    assert weights(straight.stdout)[0] == 5 + 4 + 5

    workdir = tmp_path / "ended"
    arguments = command("train", config, f"--data={digits}", f"--workdir={workdir}")
    process = _signalled(arguments, workdir, signal.SIGTERM, 2)
    output, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 42, errors
    saved = int(re.search(r"ended by a signal at global step (\d+), which is saved", output)[1])
    assert 2 <= saved < 14
    assert any(path.name.startswith(f"step-{saved:08d}") for path in workdir.glob("checkpoints/step-*"))

    with _signalled(arguments, workdir, signal.SIGKILL, 8) as process:
        pass
    again = run("train", config, f"--data={digits}", f"--workdir={workdir}")
    assert again.returncode == 0, again.stderr
    assert int(re.search(r"steps (\d+) to 14", again.stderr)[1]) >= 8
    assert weights(again.stdout) == weights(straight.stdout)
    assert _history(workdir) == _history(tmp_path / "straight")


def test_it_goes_back_once_and_on_at_a_lower_rate(digits: str, tmp_path: pathlib.Path) -> None:
    """A rate of 1e30 breaks the loss at once; at 1e-32 of it the same steps are sound."""
    arguments = [
        _config(tmp_path, PLAIN),
        "--config.optimizer.peak_lr=1e30",
        "--config.divergence.rollback=true",
        "--config.divergence.rollback_lr_factor=1e-32",
        "--config.max_steps=6",
        "--config.logs.every_steps=2",
        f"--data={digits}",
    ]
    result = run("train", *arguments, f"--workdir={tmp_path / 'work'}")
    assert result.returncode == 0, result.stderr
    assert re.search(r"the loss became (nan|inf) in the step to 2, on images .* checkpoint 0 is good", result.stderr)
    assert weights(result.stdout)[0] == 6
    assert [row["step"] for row in _history(tmp_path / "work")] == [6]
    assert _history(tmp_path / "work")[0]["learning_rate"] == pytest.approx(0.01)
    assert json.loads((tmp_path / "work/rollback.json").read_text()) == {"times": 1, "lr_factor": 1e-32}

    # Where the lower rate diverges as well, once was enough.
    again = run("train", *arguments[:3], *arguments[4:], f"--workdir={tmp_path / 'twice'}")
    assert again.returncode == 2
    assert "it went back once already" in again.stderr.splitlines()[-1]


def test_it_lowers_the_rate_on_a_plateau_stops_waiting_and_keeps_the_best(digits: str, tmp_path: pathlib.Path) -> None:
    """A gain of 1 is never reached, so that only the first evaluation is one."""
    arguments = [
        _config(tmp_path, PLAIN),
        "--config.phases[0].schedule=plateau",
        "--config.phases[0].decay_rate=0.5",
        "--config.phases[0].patience=1",
        "--config.monitor.metric=macro_f1",
        "--config.monitor.min_delta=1.0",
        "--config.monitor.patience=3",
        f"--data={digits}",
        f"--workdir={tmp_path}",
    ]
    result = run("train", *arguments)
    assert result.returncode == 0, result.stderr
    history = _history(tmp_path)
    assert [row["step"] for row in history] == [6, 12, 18, 24]
    assert [row["learning_rate"] for row in history] == pytest.approx([0.01, 0.01, 0.005, 0.0025])
    assert f"validation accuracy {history[0]['validation_accuracy']:.2%}" in result.stdout

    again = run("train", *arguments)
    assert weights(again.stdout) == weights(result.stdout)
    assert len(_history(tmp_path)) == 4

    for checkpoint, step in (("best", 6), ("newest", 24)):
        evaluated = run("evaluate", f"--workdir={tmp_path}", "--split=validation", f"--checkpoint={checkpoint}")
        assert evaluated.returncode == 0, evaluated.stderr
        metrics = storage.read_json(str(tmp_path / "report/metrics.json"))
        assert metrics["step"] == step
        row = next(row for row in history if row["step"] == step)
        assert metrics["accuracy"] == row["validation_accuracy"]
        assert metrics["macro_f1"] == pytest.approx(row["validation_macro_f1"])


def test_deterministic_runs_are_equal_to_the_last_bit(digits: str, tmp_path: pathlib.Path) -> None:
    """Without the environment's help, which the other tests have."""
    found = set()
    for name in ("one", "two"):
        arguments = command(
            "train",
            _config(tmp_path, PLAIN),
            "--config.deterministic=true",
            "--config.max_steps=8",
            f"--data={digits}",
            f"--workdir={tmp_path / name}",
        )
        environment = {key: value for key, value in ENVIRONMENT.items() if key != "TF_NUM_INTEROP_THREADS"}
        result = subprocess.run(
            arguments, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        assert result.returncode == 0, result.stderr
        found.add(weights(result.stdout))
    assert len(found) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["precision=mixed_float16"], "precision='mixed_float16': there are only CPUs here"),
        (["phases[0].trainable=from:block_99"], "trainable='from:block_99': the backbone has no such layer or block"),
        (["phases[0].trainable=last:999"], "trainable='last:999': the backbone has 52 layers with weights; use all"),
        (["loss.class_weights=given", "loss.given_weights=(1.0,2.0)"], "has 2 values, and there are 10 classes"),
        (["phases[0].warmup_epochs=0.9", "phases[0].steps=3", "phases[0].epochs=None"], "its 5 steps are more than"),
    ],
)
def test_a_recipe_that_cannot_be_is_one_line_before_the_first_step(
    digits: str, tmp_path: pathlib.Path, overrides: list[str], message: str
) -> None:
    changed = [f"--config.{override}" for override in overrides]
    result = run("train", _config(tmp_path, PLAIN), *changed, f"--data={digits}", f"--workdir={tmp_path / 'work'}")
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / "work").exists()
