"""Two runs' reports in; what they say beside each other."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from pipeline.errors import InputError
from trainer import compare, predictions
from trainer.predictions import Predictions


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
