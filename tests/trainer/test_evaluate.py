"""Where the temperature comes from, and what two reports say beside each other."""

from __future__ import annotations

import json
import logging
import pathlib

import numpy as np
import pytest

from pipeline.errors import InputError
from tests.pipeline import shard_files
from trainer import compare, evaluate, predictions
from trainer import run as run_lib
from trainer.predictions import Predictions


def test_the_temperature_is_fitted_on_what_the_run_was_validated_on(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    own, other, copy = (str(tmp_path / name) for name in ("own", "other", "copy"))
    records = [shard_files.record(number) for number in range(9)]
    splits = {"train": [records[:3]], "validation": [records[3:6]], "test": [records[6:]]}
    manifest = shard_files.write(pathlib.Path(own), splits)
    shard_files.write(pathlib.Path(copy), splits)
    others = shard_files.write(pathlib.Path(other), {"test": [records[:3]]})
    run = run_lib.describe(own, manifest, {"validation_split": "validation"})

    assert evaluate._validation(run, own, manifest) == (own, manifest, "validation")
    assert evaluate._validation(run, copy, manifest) == (copy, manifest, "validation")
    assert evaluate._validation(run, other, others) == (own, manifest, "validation")
    none = run_lib.describe(own, manifest, {"validation_split": "none"})
    assert evaluate._validation(none, own, manifest) is None

    next(pathlib.Path(own).glob("*-validation*")).unlink()
    with pytest.raises(InputError, match="is missing"):
        evaluate._validation(run, own, manifest)
    with caplog.at_level(logging.WARNING):
        assert evaluate._validation(run, other, others) is None
    assert "no temperature is fitted" in caplog.text
    assert evaluate._validation(run, copy, manifest) == (copy, manifest, "validation")


def _report(workdir: pathlib.Path, answers: list[int]) -> str:
    found = Predictions(
        classes=("ant", "bee"),
        ids=("0", "1", "2", "3"),
        files=("0.jpg", "1.jpg", "2.jpg", "3.jpg"),
        groups=("",) * 4,
        labels=np.array([0, 1, 0, 1]),
        logits=np.eye(2, dtype=np.float32)[answers],
    )
    predictions.write(str(workdir / "report" / "predictions.npz"), found)
    (workdir / "report" / "metrics.json").write_text(json.dumps({"split": "test"}))
    return str(workdir)


def test_two_runs_are_compared_by_their_reports(tmp_path: pathlib.Path) -> None:
    one, other = _report(tmp_path / "one", [0, 1, 1, 0]), _report(tmp_path / "other", [0, 1, 0, 0])
    found = compare.compare(one, other, split="test")
    assert (found.accuracy, found.only_one, found.only_other, found.p_value) == ((0.5, 0.75), 0, 1, 1.0)
    assert compare.compare(one, f"{other}/report/predictions.npz") == found
    text = compare.as_text(found, one, other)
    assert f"50.00%  {one}" in text
    assert "difference +25.00%" in text
    assert "2.jpg  ant  bee  ant" in text
    with pytest.raises(InputError, match="is about the split 'test': run `evaluate"):
        compare.compare(one, other, split="train")
    with pytest.raises(InputError, match=r"--split=test: .* doesn't say of which split"):
        compare.compare(one, f"{other}/report/predictions.npz", split="test")
    with pytest.raises(InputError, match="does not exist"):
        compare.compare(one, str(tmp_path))
