"""What a spreadsheet and the report read: two files that survive kills without a row twice."""

from __future__ import annotations

import csv
import json
import pathlib

import fsspec
import pytest

from pipeline.errors import InputError
from trainer import history

EVALUATION = {"validation/loss": 0.5, "validation/accuracy": 0.75}


def _log(log: history.History, *steps: int, loss: float = 2.0) -> None:
    for step in steps:
        log.scalars(step, {"train/loss": loss, "train/learning_rate": 0.1, "speed/examples_per_s": 1234.5678})


def _csv(workdir: pathlib.Path) -> list[dict[str, str]]:
    with (workdir / "history.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_log_and_its_evaluation_are_one_row(tmp_path: pathlib.Path) -> None:
    log = history.History(str(tmp_path), first_step=0, steps_per_epoch=16)
    _log(log, 10, 20)
    log.scalars(20, EVALUATION)
    _log(log, 30)
    log.flush()
    rows = _csv(tmp_path)
    assert [row["step"] for row in rows] == ["10", "20", "30"]
    assert [row["epoch"] for row in rows] == ["0.625", "1.25", "1.875"]
    assert [row["validation_accuracy"] for row in rows] == ["", "0.75", ""]
    assert {row["examples_per_s"] for row in rows} == {"1234.57"}
    assert all(None not in row and None not in row.values() for row in rows)  # as many cells as columns
    [line] = (tmp_path / "history.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "step": 20,
        "epoch": 1.25,
        "train_loss": 2.0,
        "learning_rate": 0.1,
        "validation_loss": 0.5,
        "validation_accuracy": 0.75,
    }


def test_what_was_logged_after_the_checkpoint_is_logged_once(tmp_path: pathlib.Path) -> None:
    killed = history.History(str(tmp_path), first_step=0, steps_per_epoch=10)
    _log(killed, 10, 20, loss=1.0)
    killed.scalars(20, EVALUATION)
    _log(killed, 30, 40, loss=1.0)
    killed.scalars(40, EVALUATION)
    killed.flush()
    _log(killed, 50, loss=1.0)  # and never written

    resumed = history.History(str(tmp_path), first_step=25, steps_per_epoch=10)
    _log(resumed, 30, 40, loss=3.0)
    resumed.scalars(40, EVALUATION)
    _log(resumed, 50, loss=3.0)
    resumed.close(failed=False)
    assert [(row["step"], row["train_loss"]) for row in _csv(tmp_path)] == [
        ("10", "1"), ("20", "1"), ("30", "3"), ("40", "3"), ("50", "3")
    ]  # fmt: skip
    assert [(row["step"], row["train_loss"]) for row in history.read(str(tmp_path))] == [(20, 1.0), (40, 3.0)]


def test_going_back_forgets_what_came_after(tmp_path: pathlib.Path) -> None:
    log = history.History(str(tmp_path), first_step=0, steps_per_epoch=10)
    _log(log, 10, 20, 30)
    log.scalars(30, EVALUATION)
    log.go_back(20)
    log.flush()
    assert [row["step"] for row in _csv(tmp_path)] == ["10", "20"]
    assert history.read(str(tmp_path)) == []


def test_what_is_no_number_stays_readable(tmp_path: pathlib.Path) -> None:
    log = history.History(str(tmp_path), first_step=0, steps_per_epoch=10)
    _log(log, 10, loss=float("nan"))
    log.scalars(10, {"validation/loss": float("inf"), "validation/accuracy": 0.1})
    log.flush()
    assert _csv(tmp_path)[0]["train_loss"] == "nan"
    [row] = history.read(str(tmp_path))
    assert (row["train_loss"], row["validation_loss"]) == (None, None)
    assert "NaN" not in (tmp_path / "history.jsonl").read_text()  # which JSON doesn't know


def test_files_may_lie_in_a_bucket() -> None:
    workdir = "memory://bucket/run"
    _log(log := history.History(workdir, first_step=0, steps_per_epoch=10), 10)
    log.scalars(10, EVALUATION)
    log.flush()
    assert fsspec.filesystem("memory").cat("/bucket/run/history.csv").startswith(b"step,epoch,train_loss,")
    assert [row["step"] for row in history.read(workdir)] == [10]


@pytest.mark.parametrize("name", ["history.csv", "history.jsonl"])
def test_a_file_of_somebody_elses_is_not_overwritten(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / name).write_text("Schritt;Epoche\n1;2\n")
    with pytest.raises(InputError, match=rf"{name} is not what training wrote .*: move it away"):
        history.History(str(tmp_path), first_step=0, steps_per_epoch=10)
