"""Every config of configs/: valid, and runs a step once it is shrunk to what a test can afford."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from configs import loading, schema

REPOSITORY = pathlib.Path(__file__).parents[2]
FILES = sorted(path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "configs").glob("*_*.py"))
SHRUNK = {
    "input.image_size": 32,
    "input.shuffle_buffer": 512,
    "global_batch": 8,
    "model.weights": "none",
    "max_steps": 1,
}


@pytest.mark.parametrize("file", FILES)
def test_header_says_what_was_run_and_what_came_out(file: str) -> None:
    header = (REPOSITORY / file).read_text().split('"""')[1]
    for word in ("Command:", "Hardware:", "Time:", "Result:"):
        assert word in header, f"{file} has no {word}"
    assert f"--config={file}" in header


@pytest.mark.parametrize("file", FILES)
def test_config_takes_a_step(file: str, digits: str, tmp_path: pathlib.Path) -> None:
    from trainer import train

    config = loading.read(file, [f"--config.{name}={value}" for name, value in SHRUNK.items()])
    result = train.train(data=digits, workdir=str(tmp_path), strategy="one", **dataclasses.asdict(config))
    assert result["step"] == 1
    assert 0 <= result["accuracy"] <= 1


def test_there_are_the_promised_four() -> None:
    assert {pathlib.Path(file).stem for file in FILES} >= {
        "digits_mobilenetv2",
        "leaves_mobilenetv2",
        "cifar10_mobilenetv2",
        "imagenet_efficientnet_b0",
    }


def test_every_field_of_a_group_is_somebodys_keyword() -> None:
    """A field nobody takes would be a knob that does nothing; `train` splats groups, so it would raise."""
    import inspect

    from pipeline import training
    from trainer import model, optimizer, schedule, train

    def fields(group: type) -> set[str]:
        return {field.name for field in dataclasses.fields(group)}

    assert fields(schema.Config) | {"data", "workdir", "strategy"} == set(inspect.signature(train.train).parameters)
    assert fields(schema.Model) <= set(inspect.signature(model.build).parameters)
    assert fields(schema.Input) - {"crop_fraction"} <= set(inspect.signature(training.batches).parameters)
    assert fields(schema.Optimizer) - {"peak_lr"} <= set(inspect.signature(optimizer.build).parameters)
    source = inspect.getsource(schedule.plan)
    assert all(f'phase["{name}"]' in source for name in fields(schema.Phase))
