"""Logged scalars in; `history.csv`, a row per logged step, and `history.jsonl`, a row per evaluation, out."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from pipeline import storage
from pipeline.errors import InputError

FILE = "history.jsonl"
CSV_FILE = "history.csv"

# Fixed, so that a spreadsheet's formulas survive a restart; a column without a value stays empty.
_COLUMNS = {
    "train/loss": "train_loss",
    "train/learning_rate": "learning_rate",
    "speed/examples_per_s": "examples_per_s",
    "speed/input_wait_share": "input_wait_share",
    "speed/mfu": "mfu",
    "speed/share_of_ceiling": "share_of_ceiling",
    "validation/loss": "validation_loss",
    "validation/accuracy": "validation_accuracy",
    "validation/top_k_accuracy": "validation_top_k_accuracy",
    "validation/balanced_accuracy": "validation_balanced_accuracy",
    "validation/macro_f1": "validation_macro_f1",
}
_HEADER = ("step", "epoch", *_COLUMNS.values())
_Row = dict[str, Any]


class History:
    """Both files, kept in memory and written whole: a bucket has no appending, and no reader ever sees half a row.

    They are written at `flush`, which the loop reaches before each evaluation and checkpoint. What a killed process
    loses are rows of steps after its last checkpoint, and those the next one takes again.
    """

    def __init__(self, workdir: str, *, first_step: int, steps_per_epoch: float) -> None:
        """Goes on with the rows of an earlier start, up to `first_step`.

        Raises:
          InputError: where one of the files is not what was written there.
        """
        self._workdir = workdir
        self._steps_per_epoch = steps_per_epoch
        self._logs = _read(storage.join(workdir, CSV_FILE), _parse_csv)
        self._evaluations = read(workdir)
        self._latest: dict[str, float | None] = {"train_loss": None, "learning_rate": None}
        self.go_back(first_step)
        for name in self._latest:
            value = self._logs[-1].get(name) if self._logs else None
            self._latest[name] = float(value) if value else None

    def go_back(self, step: int) -> None:
        """Forgets what was logged after `step`; it will be logged again."""
        self._logs = [row for row in self._logs if int(row["step"]) <= step]
        self._evaluations = [row for row in self._evaluations if row["step"] <= step]

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Takes values by their TensorBoard tags; several calls for one step make one row."""
        epoch = round(step / self._steps_per_epoch, 3)
        if not self._logs or int(self._logs[-1]["step"]) != step:
            self._logs.append({"step": step, "epoch": epoch})
        named = {_COLUMNS[tag]: value for tag, value in values.items() if tag in _COLUMNS}
        self._logs[-1].update({name: f"{value:.6g}" for name, value in named.items()})
        self._latest.update({name: value for name, value in named.items() if name in self._latest})
        validation = {tag.replace("/", "_"): value for tag, value in values.items() if tag.startswith("validation/")}
        if validation:
            evaluation = {"step": step, "epoch": epoch, **self._latest, **validation}
            # A step whose checkpoint was saved, and its evaluation not, is evaluated again.
            self._evaluations = [row for row in self._evaluations if row["step"] != step]
            self._evaluations.append({name: _finite(value) for name, value in evaluation.items()})

    def flush(self) -> None:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, _HEADER, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._logs)
        storage.write_text(storage.join(self._workdir, CSV_FILE), stream.getvalue())
        text = "".join(json.dumps(row) + "\n" for row in self._evaluations)
        storage.write_text(storage.join(self._workdir, FILE), text)

    def close(self, *, failed: bool) -> None:
        self.flush()


def read(workdir: str) -> list[_Row]:
    """The evaluations so far: step, epoch, train_loss, learning_rate, validation_*; None where it was no number.

    Raises:
      InputError: where the file is not what was written there.
    """
    return _read(storage.join(workdir, FILE), lambda text: [json.loads(line) for line in text.splitlines()])


def _read(path: str, parse: Callable[[str], list[_Row]]) -> list[_Row]:
    if not storage.exists(path):
        return []
    try:
        rows = parse(storage.read_bytes(path).decode())
        if not all(isinstance(row["step"], int) for row in rows):
            raise ValueError("a step is no number")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not what training wrote ({error}): move it away, a new one will be made"
        ) from error
    return rows


def _parse_csv(text: str) -> list[_Row]:
    rows = csv.DictReader(io.StringIO(text))
    return [{**{name: row[name] for name in _HEADER if name in row}, "step": int(row["step"])} for row in rows]


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None
