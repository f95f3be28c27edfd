"""MLflow's own client against a local folder and against a port where nobody listens."""

from __future__ import annotations

import json
import pathlib
import socket
import sys
import time
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import InputError
from trainer import mlflow_log
from trainer.progress import Progress


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in mlflow_log.ENVIRONMENT:  # undone afterwards, also what the code sets
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return pytest.importorskip("mlflow", reason="needs mlflow-skinny: pip install 'shardline[mlflow]'")


def _progress(workdir: pathlib.Path, address: str, **changes: Any) -> Progress:
    options: dict[str, Any] = {
        "first_step": 0,
        "last_step": 100,
        "global_batch": 32,
        "examples": 320,
        "steps_per_call": 1,
        "classes": ("cat", "dog"),
        "show": True,
        "every_steps": 10,
        "tensorboard": False,
        "sample_images": 0,
        "profile_steps": (),
        "settings": {"config": {"phases": [{"epochs": 3}], "optimizer": {"name": "sgd"}}},
        "mlflow": address,
    }
    return Progress(str(workdir), **{**options, **changes})


def _take(progress: Progress, first: int, last: int) -> None:
    for step in range(first + 1, last + 1):
        with progress.waiting_for_input():
            losses = tf.constant(np.float32([step]))
        progress.stepped(step, losses, 0.1)


def test_a_resumed_run_goes_on_with_its_mlflow_run(mlflow: Any, tmp_path: pathlib.Path) -> None:
    address, workdir = f"file:{tmp_path / 'mlruns'}", tmp_path / "leaves-7"
    killed = _progress(workdir, address)
    _take(killed, 0, 20)
    killed.log(20, 0.1)  # before its last checkpoint
    _take(killed, 20, 30)

    client = mlflow.MlflowClient(tracking_uri=address)
    run_id = json.loads((workdir / "mlflow.json").read_text())["run_id"]
    assert client.get_run(run_id).info.status == "RUNNING"
    with _progress(workdir, address, first_step=20) as progress:
        _take(progress, 20, 40)
        progress.evaluated(40, {"examples": 10, "loss": float("nan"), "accuracy": 0.5})

    experiment = client.get_experiment_by_name("shardline")
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.run_name, run.info.status) == (run_id, "leaves-7", "FINISHED")
    history = client.get_metric_history(run_id, "train/loss")
    assert sorted((point.step, point.value) for point in history) == [(10, 5.5), (20, 15.5), (30, 25.5), (40, 35.5)]
    assert run.data.metrics["validation/accuracy"] == 0.5
    assert np.isnan(run.data.metrics["validation/loss"])
    assert run.data.params == {"config.phases.0.epochs": "3", "config.optimizer.name": "sgd"}
    with _progress(workdir, address, first_step=40):
        assert client.get_run(run_id).info.status == "RUNNING"


def test_steps_that_are_rolled_back_are_not_sent(mlflow: Any, tmp_path: pathlib.Path) -> None:
    address = f"file:{tmp_path / 'mlruns'}"
    with _progress(tmp_path / "work", address) as progress:
        _take(progress, 0, 30)
        progress.go_back(10)
        _take(progress, 10, 20)
    client = mlflow.MlflowClient(tracking_uri=address)
    [run] = client.search_runs([client.get_experiment_by_name("shardline").experiment_id])
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [10, 20]


def test_a_run_that_fails_says_so(mlflow: Any, tmp_path: pathlib.Path) -> None:
    address = f"file:{tmp_path / 'mlruns'}"
    with pytest.raises(KeyError), _progress(tmp_path / "work", address):
        raise KeyError
    client = mlflow.MlflowClient(tracking_uri=address)
    [run] = client.search_runs([client.get_experiment_by_name("shardline").experiment_id])
    assert run.info.status == "FAILED"


def _closed_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


def test_no_server_is_refused_before_the_first_step(mlflow: Any, tmp_path: pathlib.Path) -> None:
    address = _closed_port()
    with pytest.raises(InputError, match=f"logs.mlflow='{address}': no run can be made there") as raised:
        _progress(tmp_path, address)
    assert "\n" not in str(raised.value)


def test_a_server_that_is_gone_does_not_end_a_run_that_goes_on(
    mlflow: Any, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = _closed_port()
    (tmp_path / "mlflow.json").write_text(json.dumps({"address": address, "run_id": "0" * 32}))
    with _progress(tmp_path, address, first_step=10) as progress:
        for step in (20, 30, 40):
            _take(progress, step - 10, step)
            progress.log(step, 0.1)
    assert (tmp_path / "history.csv").exists()
    warnings = [record.getMessage() for record in caplog.records if record.name == "root"]
    assert len([line for line in warnings if line.startswith("MlflowLog can't be written")]) == 1


def test_what_could_not_be_delivered_comes_later(
    mlflow: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"file:{tmp_path / 'mlruns'}"
    log = mlflow_log.MlflowLog(str(tmp_path / "work"), address, settings={})
    folder, away = tmp_path / "mlruns", tmp_path / "away"
    log.scalars(10, {"train/loss": 1.0})
    folder.rename(away)
    with pytest.raises(Exception, match="does not exist"):
        log.flush()
    away.rename(folder)
    log.scalars(20, {"train/loss": 2.0})
    log.flush()  # too early to try again
    client = mlflow.MlflowClient(tracking_uri=address)
    run_id = json.loads((tmp_path / "work" / "mlflow.json").read_text())["run_id"]
    assert client.get_metric_history(run_id, "train/loss") == []
    later_s = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later_s)
    log.flush()
    assert [(point.step, point.value) for point in client.get_metric_history(run_id, "train/loss")] == [
        (10, 1.0),
        (20, 2.0),
    ]


def test_many_points_and_settings_go_in_several_requests(mlflow: Any, tmp_path: pathlib.Path) -> None:
    address = f"file:{tmp_path / 'mlruns'}"
    settings = {f"setting {index}": "x" * 10_000 for index in range(250)}
    log = mlflow_log.MlflowLog(str(tmp_path / "work"), address, settings=settings)
    for step in range(2500):
        log.scalars(step, {"train/loss": 1.0})
    log.close(failed=False)
    client = mlflow.MlflowClient(tracking_uri=address)
    run_id = json.loads((tmp_path / "work" / "mlflow.json").read_text())["run_id"]
    assert len(client.get_metric_history(run_id, "train/loss")) == 2500
    params = client.get_run(run_id).data.params
    assert len(params) == 250
    assert {len(value) for value in params.values()} == {500}


def test_a_missing_package_is_named_with_its_extra(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=r"pip install 'shardline\[mlflow\]'"):
        _progress(tmp_path, "http://127.0.0.1:1")
