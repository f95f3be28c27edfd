"""What a working directory says of itself, and which changes between two starts it lets pass."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import platform
from typing import Any

import numpy as np
import pytest

from configs import schema
from pipeline.errors import InputError
from trainer import run as run_lib


def config(**changes: Any) -> dict[str, Any]:
    """The schema's own defaults as JSON, with fields replaced by their dotted names, `__` for a dot."""
    plain = json.loads(json.dumps(dataclasses.asdict(schema.Config())))
    for name, value in changes.items():
        *groups, field = name.split("__")
        holder = plain
        for group in groups:
            holder = holder[int(group)] if group.isdigit() else holder[group]
        assert field in holder
        holder[field] = value
    return plain


def run(data: str = "data", classes: tuple[str, ...] = ("a", "b"), **changes: Any) -> run_lib.Run:
    return run_lib.Run(
        data=data,
        dataset_fingerprint=f"of {data}",
        classes=classes,
        config=config(**changes),
        code=run_lib.code_version(),
        packages=run_lib.package_versions(),
        storing={},
    )


def test_what_is_written_is_read_back(tmp_path: pathlib.Path) -> None:
    written = run(classes=("ä", "b\udcff"))
    run_lib.write(str(tmp_path), written)
    assert run_lib.load(str(tmp_path)) == written
    about = json.loads((tmp_path / "run.json").read_text())
    assert about == json.loads(json.dumps(written.about()))
    assert about["packages"]["numpy"] == np.__version__
    assert about["packages"]["python"] == platform.python_version()
    assert about["config"]["optimizer"]["peak_lr"] == schema.Optimizer().peak_lr


@pytest.mark.parametrize(
    "change",
    [
        {"max_steps": 7},
        {"checkpoint_every_steps": 7},
        {"checkpoints_kept": 7},
        {"evaluate_every_epochs": 0.5},
        {"logs__every_steps": 7},
        {"logs__profile_steps": [3, 5]},
        {"monitor__patience": 7},
        {"monitor__restore_best": False},
        {"divergence__spike_factor": 9.0},
        {"divergence__rollback": True},
        {"steps_per_call": 8},
        {"xla": True},
        {"input__cache": "none"},
    ],
    ids=str,
)
def test_how_far_how_often_and_what_is_written_may_change(tmp_path: pathlib.Path, change: dict[str, Any]) -> None:
    run_lib.write(str(tmp_path), run())
    now = run(**change)
    run_lib.check_same(str(tmp_path), now)
    assert now.fingerprint == run().fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 7},
        {"precision": "mixed_bfloat16"},
        {"deterministic": True},
        {"optimizer__accumulation": 2},
        {"optimizer__ema": 0.99},
        {"phases__0__schedule": "constant"},
        {"phases__0__patience": 3},
        {"monitor__metric": "loss"},
        {"monitor__min_delta": 0.01},
        {"loss__given_weights": [1.0, 2.0]},
        {"input__shuffle_mib": 1.0},
        {"model__head": "mlp"},
    ],
    ids=str,
)
def test_what_steps_learn_and_the_best_is_may_not(tmp_path: pathlib.Path, change: dict[str, Any]) -> None:
    run_lib.write(str(tmp_path), run())
    now = run(**change)
    name = next(iter(change)).replace("__0", "[0]").replace("__", ".")
    with pytest.raises(InputError) as error:
        run_lib.check_same(str(tmp_path), now)
    assert f"config.{name}" in str(error.value)
    assert "now" in str(error.value)
    assert now.fingerprint != run().fingerprint


def test_a_plateau_counts_evaluations_so_that_they_may_not_come_oftener(tmp_path: pathlib.Path) -> None:
    run_lib.write(str(tmp_path), run(phases__0__schedule="plateau"))
    with pytest.raises(InputError, match=r"config\.evaluate_every_epochs was 1\.0, now 0\.5"):
        run_lib.check_same(str(tmp_path), run(phases__0__schedule="plateau", evaluate_every_epochs=0.5))


def test_other_data_and_classes_are_refused(tmp_path: pathlib.Path) -> None:
    run_lib.write(str(tmp_path), run())
    with pytest.raises(InputError, match="holds a run on other data"):
        run_lib.check_same(str(tmp_path), run(data="other"))
    with pytest.raises(InputError, match=r"knows the classes \['a', 'b'\], data has \['b', 'a'\]"):
        run_lib.check_same(str(tmp_path), run(classes=("b", "a")))


def test_other_versions_are_said(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    before = run()
    run_lib.write(str(tmp_path), before)
    run_lib.check_same(str(tmp_path), before)
    assert not caplog.records
    packages = {**before.packages, "keras": "2.0"}
    run_lib.write(str(tmp_path), dataclasses.replace(before, packages=packages))
    run_lib.check_same(str(tmp_path), before)
    assert f"keras was 2.0, now {before.packages['keras']}" in caplog.text


def test_a_damaged_file_is_one_line(tmp_path: pathlib.Path) -> None:
    for text in ("", "{}", "[]", '{"data": 1}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(InputError, match=r"run\.json is damaged or of another version"):
            run_lib.load(str(tmp_path))
