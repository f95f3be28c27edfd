"""Searches with real trainings of the demo's config, cut short, one of which fails; and with a Gaussian process."""

from __future__ import annotations

import csv
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Sequence

import pytest

from trainer import search, search_space

REPOSITORY = pathlib.Path(__file__).parents[2]


@pytest.mark.soak
def test_trials_are_trainings_and_the_best_ones_command_can_be_run(
    digits: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("keras_tuner", reason="needs the search extra")
    monkeypatch.chdir(REPOSITORY)  # a trial is `python -m trainer`
    ranked = search.run(
        config="configs/digits_mobilenetv2.py",
        overrides=["--config.max_steps=3", "--config.input.image_size=32"],
        data=digits,
        out=str(tmp_path / "out"),
        space=["optimizer.name=sgd|unheard_of|adamw"],
        metric="accuracy",
        trials=3,
        oracle="random",
        strategy="one",
        seed=1,
    )
    scored = {trial.overrides[0].partition("=")[2]: trial.score for trial in ranked}
    assert set(scored) == {"sgd", "unheard_of", "adamw"}
    assert scored["unheard_of"] is None
    assert ranked[-1].score is None
    for trial in ranked[:2]:
        history = (tmp_path / "out" / "trials" / trial.name / "history.jsonl").read_text()
        assert trial.score == search.score(history, "accuracy")
    with (tmp_path / "out" / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["optimizer.name"] for row in rows] == [trial.overrides[0].partition("=")[2] for trial in ranked]
    printed = capsys.readouterr().out.splitlines()
    assert any("failed, exit code 2" in line and "unheard_of" in line for line in printed)

    best = shlex.split(printed[-1].removeprefix("best: "))
    assert best[:4] == ["python", "-m", "trainer", "train"]
    arguments = [word.replace("…", str(tmp_path / "again")) for word in best[1:]]
    again = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=600)
    assert again.returncode == 0, again.stderr
    assert "finished at step 3" in again.stdout


@pytest.mark.soak
def test_bayes_finds_the_better_half(tmp_path: pathlib.Path) -> None:
    """Of a score that only high rates make: once it has seen six trials, most lie in the upper half of the powers."""
    pytest.importorskip("keras_tuner", reason="needs the search extra")

    def rate(override: str) -> float:
        return float(override.removeprefix("--config.optimizer.peak_lr="))

    def train(name: str, chosen: Sequence[str]) -> float:
        return rate(chosen[0]) ** 0.5

    space = [search_space.parse("optimizer.peak_lr=log(1e-4,1e-1)"), search_space.parse("loss.label_smoothing=0.0|0.1")]
    tried = search._search(space, train, root=tmp_path, metric="accuracy", trials=12, oracle="bayesian", seed=0)
    assert sum(rate(trial.overrides[0]) > 10**-2.5 for trial in tried[-6:]) >= 5
