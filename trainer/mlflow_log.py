"""Scalars and settings in; a run on an MLflow tracking server out. Needs the `mlflow` extra."""

from __future__ import annotations

import importlib
import logging
import os
import re
import time
from collections.abc import Mapping
from typing import Any

from pipeline import storage
from pipeline.errors import InputError

FILE = "mlflow.json"  # which run a resumed one goes on with
_EXPERIMENT = "shardline"
_BATCH = 1000  # metrics in a request, the server's limit; of params it takes 100
_PARAMS = 100
_PARAM_CHARACTERS = 500  # servers before 2.8 take no more
_BACKOFF_S = (60.0, 600.0)  # from, to; a server that hangs costs 20 s each time
# What MLflow reads from its environment: 7 tries of 120 s each would hold training up, and use is nobody's business.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # whoever gives a folder wants it; MLflow 3 asks to be told twice
}


class MlflowLog:
    """One run of the experiment `shardline` (MLFLOW_EXPERIMENT_NAME names another).

    Values are held until `flush`, which the loop reaches before each evaluation and checkpoint; what can't be delivered
    is kept for the next time. MLflow can't take points back: those of steps that are taken again after a kill, because
    no checkpoint followed their evaluation, stand there twice.
    """

    def __init__(self, workdir: str, address: str, *, settings: Mapping[str, Any]) -> None:
        """Goes on with the run that `workdir` names, or makes one.

        Args:
          address: http(s)://…, or a local folder as file:… or path.
          settings: become the run's params, by flat names.

        Raises:
          InputError: where the package is missing, or no new run can be made at `address`.
        """
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            self._mlflow = importlib.import_module("mlflow")
        except ImportError as error:
            raise InputError(
                f"logs.mlflow={address!r} needs a package that is missing ({error}): pip install 'shardline[mlflow]', "
                "or leave it None"
            ) from error
        self._waiting: list[tuple[str, float, int, int]] = []  # (key, value, step, milliseconds since 1970)
        self._blocked_until_s, self._backoff_s = 0.0, _BACKOFF_S[0]
        path = storage.join(workdir, FILE)
        known = storage.read_json(path) if storage.exists(path) else {}
        try:
            self._client = self._mlflow.MlflowClient(tracking_uri=address)
            if known.get("address") == address:
                self._run_id = known["run_id"]
            else:
                self._run_id = self._create_run(os.path.basename(workdir.rstrip("/")), settings)
                storage.write_json(path, {"address": address, "run_id": self._run_id})
        except Exception as error:  # each kind of address has its own types
            raise InputError(
                f"logs.mlflow={address!r}: no run can be made there ({_first_line(error)}); expected the address of an "
                "MLflow server, http://HOST:PORT, or a folder as file:/DIR"
            ) from error
        self._set_status("RUNNING")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now_ms = int(time.time() * 1000)
        self._waiting.extend((tag, float(value), step, now_ms) for tag, value in values.items())

    def go_back(self, step: int) -> None:
        """Keeps what was not sent yet of steps after `step` from being sent."""
        self._waiting = [one for one in self._waiting if one[2] <= step]

    def flush(self) -> None:
        """Sends what waits, except for a while after a failure.

        Raises:
          Exception: MLflow's or the network's, where it can't be delivered.
        """
        if time.monotonic() < self._blocked_until_s:
            return
        try:
            while self._waiting:
                metrics = [
                    self._mlflow.entities.Metric(key, value, timestamp=when_ms, step=step)
                    for key, value, step, when_ms in self._waiting[:_BATCH]
                ]
                self._client.log_batch(self._run_id, metrics=metrics)
                del self._waiting[:_BATCH]
        except Exception:
            self._blocked_until_s = time.monotonic() + self._backoff_s
            self._backoff_s = min(2 * self._backoff_s, _BACKOFF_S[1])
            raise
        self._backoff_s = _BACKOFF_S[0]

    def close(self, *, failed: bool) -> None:
        self._blocked_until_s = 0.0  # the last chance
        self.flush()
        self._set_status("FAILED" if failed else "FINISHED")

    def _create_run(self, name: str, settings: Mapping[str, Any]) -> str:
        wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        found = self._client.get_experiment_by_name(wanted)
        experiment = found.experiment_id if found else self._client.create_experiment(wanted)
        run_id: str = self._client.create_run(experiment, run_name=name).info.run_id
        params = [
            self._mlflow.entities.Param(_key(key), str(value)[:_PARAM_CHARACTERS]) for key, value in settings.items()
        ]
        for first in range(0, len(params), _PARAMS):
            self._client.log_batch(run_id, params=params[first : first + _PARAMS])
        return run_id

    def _set_status(self, status: str) -> None:
        try:
            self._client.update_run(self._run_id, status=status)
        except Exception as error:  # noqa: BLE001  # a word for the overview, worth no more than this line
            logging.warning("MLflow: the run can't be marked %s (%s)", status, _first_line(error))


def _key(name: str) -> str:
    """`phases[0].epochs` as MLflow takes it: `phases.0.epochs`."""
    return re.sub(r"[^\w .:/-]", "_", re.sub(r"\[(\d+)\]", r".\1", name))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
