"""Where the temperature comes from."""

from __future__ import annotations

import logging
import pathlib

import pytest

from pipeline.errors import InputError
from tests.pipeline import shard_files
from trainer import run as run_lib
from trainer.evaluation import splits


def test_the_temperature_is_fitted_on_what_the_run_was_validated_on(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    own, other, copy = (str(tmp_path / name) for name in ("own", "other", "copy"))
    records = [shard_files.record(number) for number in range(9)]
    lists = {"train": [records[:3]], "validation": [records[3:6]], "test": [records[6:]]}
    manifest = shard_files.write(pathlib.Path(own), lists)
    shard_files.write(pathlib.Path(copy), lists)
    others = shard_files.write(pathlib.Path(other), {"test": [records[:3]]})
    run = run_lib.describe(own, manifest, {"validation_split": "validation", "train_split": "train"})

    assert splits.validation(run, own, manifest) == (own, manifest, "validation")
    assert splits.validation(run, copy, manifest) == (copy, manifest, "validation")
    assert splits.validation(run, other, others) == (own, manifest, "validation")
    none = run_lib.describe(own, manifest, {"validation_split": "none"})
    assert splits.validation(none, own, manifest) is None

    next(pathlib.Path(own).glob("*-validation*")).unlink()
    with pytest.raises(InputError, match="is missing"):
        splits.validation(run, own, manifest)
    with caplog.at_level(logging.WARNING):
        assert splits.validation(run, other, others) is None
    assert "no temperature is fitted" in caplog.text
    assert splits.validation(run, copy, manifest) == (copy, manifest, "validation")

    uses = {split: splits.used_for(run, manifest, split) for split in ("train", "validation", "test")}
    assert uses == {"train": "training", "validation": "validation", "test": ""}
    assert splits.used_for(run, others, "train") == ""
