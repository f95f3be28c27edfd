"""Where the temperature comes from, and which images had a part in making the model."""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence

import pytest

from pipeline.errors import InputError
from pipeline.manifest import Manifest
from pipeline.records import Record
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


RECORDS = [shard_files.record(number) for number in range(12)]
SETTINGS = {"validation_split": "validation", "train_split": "train"}


def _write(root: pathlib.Path, members: Mapping[str, Sequence[Record]]) -> tuple[str, Manifest]:
    """(folder, manifest) of a dataset with a ledger."""
    made = shard_files.write(root, {split: [some] for split, some in members.items()})
    about = {"status": "written", "channels": "000000000000", "width": 1, "height": 1}
    rows = [{"sha256": one.id, "split": split, **about} for split, some in members.items() for one in some]
    rows.append({**rows[0], "sha256": RECORDS[-1].id, "status": "quarantined"})
    (root / "ledger-00000-of-00001.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(root), made


def _ids(members: Sequence[Record]) -> list[str]:
    return [one.id for one in members]


def test_an_image_that_was_trained_on_is_known_in_any_dataset(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    members = {"train": RECORDS[:3], "validation": RECORDS[3:6], "test": RECORDS[6:9]}
    own, manifest = _write(tmp_path / "own", members)
    run = run_lib.describe(own, manifest, SETTINGS)
    expected = {"train": "training", "validation": "validation", "test": ""}
    assert {split: splits.used_for(run, manifest, split, _ids(some)) for split, some in members.items()} == expected

    # Of another label, as after a correction.
    relabelled = [dataclasses.replace(one, label=(one.label + 1) % 3) for one in members["train"]]
    _, corrected = _write(tmp_path / "corrected", {**members, "train": relabelled})
    assert corrected.fingerprint != manifest.fingerprint
    assert {split: splits.used_for(run, corrected, split, _ids(some)) for split, some in members.items()} == expected
    assert not caplog.messages

    # Under another name, among others; the ones that were left out were not trained on.
    _, mixed = _write(tmp_path / "mixed", {"test": RECORDS[2:12]})
    assert splits.used_for(run, mixed, "test", _ids(RECORDS[2:12])) == "training"
    assert caplog.messages == ["1 of the 10 images of test were used for training"]
    assert splits.used_for(run, mixed, "test", _ids(RECORDS[3:12])) == "validation"
    assert splits.used_for(run, mixed, "test", _ids(RECORDS[6:12])) == ""
    unvalidated = run_lib.describe(own, manifest, {**SETTINGS, "validation_split": "none"})
    assert splits.used_for(unvalidated, mixed, "test", _ids(RECORDS[3:12])) == ""


@pytest.mark.parametrize("gone", ["folder", "ledger", "replaced"])
def test_where_the_run_s_dataset_is_gone_versions_made_from_it_have_its_splits(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, gone: str
) -> None:
    members = {"train": RECORDS[:3], "validation": RECORDS[3:6], "test": RECORDS[6:9]}
    own, manifest = _write(tmp_path / "own", members)
    run = run_lib.describe(own, manifest, SETTINGS)
    _, other = _write(tmp_path / "other", {**members, "train": RECORDS[:2]})
    if gone == "folder":
        (tmp_path / "own").rename(tmp_path / "moved")
    elif gone == "ledger":
        (tmp_path / "own/ledger-00000-of-00001.jsonl").unlink()
    else:
        _write(tmp_path / "own", {"train": RECORDS[9:]})
    grown = dataclasses.replace(other, grown_from=manifest.fingerprint)
    uses = {split: splits.used_for(run, grown, split, _ids(some)) for split, some in members.items()}
    assert uses == {"train": "training", "validation": "validation", "test": ""}
    assert splits.used_for(run, manifest, "train", _ids(RECORDS[:3])) == "training"
    assert not caplog.messages
    assert splits.used_for(run, other, "train", _ids(RECORDS[:2])) == ""
    assert "whether the model has seen images of train, nobody can tell any more" in caplog.text
