"""The command over a real run: all labels in the table, the first of them on the page, by each kind of evidence."""

from __future__ import annotations

import csv
import pathlib

import numpy as np
import pytest

from pipeline import evaluation
from pipeline import manifest as manifest_lib
from pipeline.errors import InputError
from tests.trainer.label_errors.conftest import Recorded
from trainer.commands import label_errors
from trainer.label_errors import dynamics


def run(recorded: Recorded, out: pathlib.Path, *flags: str) -> tuple[list[dict[str, str]], str]:
    """(rows of the table, page) of the command."""
    arguments = [f"--workdir={recorded.workdir}", f"--out={out}", "--limit=3", *flags]
    assert label_errors.run(["trainer label_errors", *arguments]) == 0
    with open(out / "label_errors.csv", newline="") as stream:
        return list(csv.DictReader(stream)), (out / "label_errors.html").read_text()


def test_labels_are_ranked_by_the_dynamics_that_there_are(
    recorded: Recorded, digits: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, page = run(recorded, tmp_path)
    manifest = manifest_lib.load(digits)
    identities = evaluation.identities(digits, manifest, split="train")
    assert {row["id"] for row in rows} == set(identities.ids)
    looks = dynamics.read(recorded.workdir, fingerprint=manifest.fingerprint, examples=len(rows))
    place = identities.ids.index(rows[0]["id"])
    assert rows[0]["file"] == identities.files[place]
    assert (
        rows[0]["label"]
        == manifest.classes[looks.labels[place]]
        == rows[0]["file"].split("/")[0]
        != rows[0]["suggested"]
    )
    assert float(rows[0]["loss"]) == pytest.approx(looks.losses[:, place].mean(), abs=1e-4)
    assert float(rows[0]["margin"]) == pytest.approx(looks.margins[:, place].mean(), abs=1e-4)
    own_class = looks.losses.mean(axis=0)[looks.labels == looks.labels[place]]
    assert float(rows[0]["score"]) == pytest.approx(looks.losses[:, place].mean() - own_class.mean(), abs=2e-4)
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert {row["forgetting"] for row in rows} <= {"0", "1", "2"}
    assert [row["id"] in page for row in rows] == [True] * 3 + [False] * (len(rows) - 3)
    assert f"{len(rows):,} labels ranked by dynamics" in capsys.readouterr().out


def test_what_the_model_has_not_seen_it_judges_itself(recorded: Recorded, tmp_path: pathlib.Path) -> None:
    rows, _ = run(recorded, tmp_path, "--split=validation")
    assert {row["forgetting"] for row in rows} == {""}
    with pytest.raises(InputError, match="not trained on 'validation'"):
        run(recorded, tmp_path, "--split=validation", "--evidence=dynamics")
    with pytest.raises(InputError, match="it was trained on these labels"):
        run(recorded, tmp_path, "--evidence=model")
    with pytest.raises(InputError, match="--limit=0: expected at least 1"):
        run(recorded, tmp_path, "--limit=0")


def test_features_stand_in_for_dynamics(recorded: Recorded, tmp_path: pathlib.Path) -> None:
    """Out of its fold a scan is known by its like, a little better than by chance after four steps of training."""
    rows, _ = run(recorded, tmp_path, "--evidence=features")
    agreeing = np.mean([float(row["margin"]) > 0 for row in rows])
    assert 0.18 < agreeing < 0.9  # one of ten by chance, and all if the regression had seen them
