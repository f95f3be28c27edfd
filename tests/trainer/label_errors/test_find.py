"""The command over a real run: all labels in the table, the first of them on the page, by each kind of evidence."""

from __future__ import annotations

import csv
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from pipeline import evaluation
from pipeline import manifest as manifest_lib
from pipeline.errors import InputError
from pipeline.evaluation import Identities
from tests.conftest import REPOSITORY
from tests.trainer.label_errors.conftest import Recorded
from trainer.commands import label_errors
from trainer.label_errors import dynamics, find, scores


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


def test_a_corrected_version_is_not_judged_by_the_model_that_was_trained_on_its_images(
    recorded: Recorded, digits: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its dynamics are of other labels, so the features speak."""
    image = evaluation.identities(digits, manifest_lib.load(digits), split="train").ids[0]
    corrections = tmp_path / "corrections.csv"
    corrections.write_text(f"id,label\n{image},remove\n")
    command = [sys.executable, "-m", "preprocess", f"--correct={digits}", f"--corrections={corrections}"]
    command += [f"--output={tmp_path}", "--name=digits", "--version=1.0.1"]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    data = f"--data={tmp_path}/digits/1.0.1"
    rows, _ = run(recorded, tmp_path, data)
    assert f"{len(rows):,} labels ranked by features" in capsys.readouterr().out
    assert image not in {row["id"] for row in rows}
    with pytest.raises(InputError, match="it was trained on these labels"):
        run(recorded, tmp_path, data, "--evidence=model")
    with pytest.raises(InputError, match="not trained on 'train' of that dataset; use features"):
        run(recorded, tmp_path, data, "--evidence=dynamics")
    run(recorded, tmp_path, data, "--split=test")
    assert "labels ranked by model" in capsys.readouterr().out


def test_no_text_of_the_table_begins_as_a_formula() -> None:
    values = np.array([0.5, 0.25], np.float32)
    look = dynamics.Look(np.array([0, 1], np.int32), values, -values, np.array([1, 0], np.int32))
    looks = dynamics.of_looks([look])
    found = find.Found("features", looks, scores.suspicion(looks), scores.suggestions(looks))
    files = ("=cmd|' /C calc'!A0.jpg", "bée/;=1.jpg")
    written = find.table(found, Identities(("0" * 64, "1" * 64), files, ("", "")), ("@ant", "bée")).decode()
    first, second = csv.DictReader(written.splitlines())
    assert (first["file"], first["label"], first["suggested"]) == (f"./{files[0]}", "'@ant", "bée")
    assert (second["file"], second["label"], second["suggested"]) == (files[1], "bée", "'@ant")
    assert f'"{files[1]}"' in written  # quoted, where a semicolon separates
    assert (first["loss"], first["margin"], first["forgetting"]) == ("0.5", "-0.5", "")
