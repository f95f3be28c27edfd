"""Every config of configs/: valid, and runs a step once it is shrunk to what a test can afford."""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from configs import loading, schema
from pipeline import cache, sampling, training
from pipeline.augmentations import augment
from trainer import (
    backbones,
    divergence,
    heads,
    learner,
    loss,
    metrics,
    model,
    monitor,
    optimizer,
    progress,
    schedule,
    step,
    strategies,
    train,
)
from trainer.commands import flags as commands

REPOSITORY = pathlib.Path(__file__).parents[2]
FILES = sorted(path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "configs").glob("[!_]*_*.py"))
SHRUNK = {
    "input.image_size": 32,
    "input.shuffle_mib": 1.0,
    "global_batch": 8,
    "model.weights": "none",
    "max_steps": 1,
    "steps_per_call": 1,
}


@pytest.mark.parametrize("file", FILES)
def test_header_says_what_was_run_and_what_came_out(file: str) -> None:
    header = (REPOSITORY / file).read_text().split('"""')[1]
    for word in ("Command:", "Hardware:", "Time:", "Result:"):
        assert word in header, f"{file} has no {word}"
    assert f"--config={file}" in header


@pytest.mark.parametrize("file", [*FILES, "README.md"])
def test_no_number_was_forgotten(file: str) -> None:
    assert not re.search(r"[A-Z]+_(HARDWARE|TIME|RESULT|TABLE)|[Pp]laceholder", (REPOSITORY / file).read_text())


def _step(file: str, digits: str, workdir: pathlib.Path, **changed: object) -> dict[str, Any]:
    overrides = [f"--config.{name}={value}" for name, value in {**SHRUNK, **changed}.items()]
    config = loading.read(file, overrides)
    try:
        return train.train(
            data=digits, workdir=str(workdir), strategy="one", input_service=(), **dataclasses.asdict(config)
        )
    finally:
        keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("file", FILES)
def test_config_takes_a_step(file: str, digits: str, tmp_path: pathlib.Path) -> None:
    result = _step(file, digits, tmp_path)
    assert result["step"] == 1
    assert 0 <= result["accuracy"] <= 1


def test_without_validation_there_is_nothing_to_report(digits: str, tmp_path: pathlib.Path) -> None:
    result = _step("configs/digits_mobilenetv2.py", digits, tmp_path, validation_split="none")
    assert result.keys() == {"step", "weights_sha256"}
    assert not (tmp_path / "history.jsonl").read_text()


def test_there_are_the_promised_four() -> None:
    assert {pathlib.Path(file).stem for file in FILES} >= {
        "digits_mobilenetv2",
        "leaves_mobilenetv2",
        "cifar10_mobilenetv2",
        "imagenet_efficientnet_b0",
    }


def test_every_field_of_a_group_is_somebodys_keyword() -> None:
    """A field nobody takes would be a knob that does nothing; `train` splats groups, so it would raise."""

    def fields(group: type) -> set[str]:
        return {field.name for field in dataclasses.fields(group)}

    def keywords(function: Callable[..., object]) -> set[str]:
        return set(inspect.signature(function).parameters)

    assert fields(schema.Config) | set(train._SURROUNDINGS) == keywords(train.train)
    assert fields(schema.Model) <= keywords(model.build)
    assert fields(schema.Input) - {"crop_fraction"} <= keywords(training.batches)
    assert fields(schema.Augment) == keywords(augment.Augment)
    rule = fields(schema.Optimizer) - set(learner._OF_THE_STEP)
    assert rule <= keywords(optimizer.build)
    assert set(learner._OF_THE_STEP) - {"peak_lr"} <= keywords(step.make_train_step)
    assert fields(schema.Loss) <= keywords(loss.make)
    assert fields(schema.Phase) <= keywords(schedule._plan_one) | set(schedule._SETTINGS["plateau"]) | {"decay_epochs"}
    assert fields(schema.Monitor) == fields(monitor.Rules)
    assert fields(schema.Divergence) - {"rollback", "rollback_lr_factor"} == keywords(divergence.Watch) - {"losses"}
    assert fields(schema.Logs) - {"dynamics"} <= keywords(progress.Progress)


def test_what_is_listed_twice_is_the_same() -> None:
    """Files of configs/ import nothing of ours, and the command's flags are parsed before TensorFlow is imported."""
    assert schema.CACHES == cache.MODES
    assert tuple(sampling.POWERS) == schema.SAMPLINGS
    assert schema.POLICIES == augment.POLICIES
    assert schema.AUGMENT_WHERE == augment.WHERE
    assert commands.STRATEGIES == strategies.NAMES
    assert schema.BACKBONES == backbones.NAMES
    assert schema.HEADS == heads.NAMES
    assert optimizer._NAMES == schema.OPTIMIZERS
    assert tuple(schedule._SETTINGS) == schema.SCHEDULES
    assert schema.LOSSES == loss.KINDS
    assert schema.CLASS_WEIGHTS == loss.CLASS_WEIGHTS
    assert set(schema.METRICS) == metrics.measures(np.eye(2, dtype=np.int64), 2, 1.0).keys() - {"examples"}
