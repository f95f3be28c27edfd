"""The search: its words, its ranking, KerasTuner's choices going on after a kill, and trials as real processes."""

from __future__ import annotations

import fcntl
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import pytest

from configs import loading, schema
from pipeline.errors import InputError
from trainer import search, search_space
from trainer.search_space import Parameter

SPACE = [search_space.parse(text) for text in ("optimizer.peak_lr=log(1e-4,1e-1)", "loss.label_smoothing=0.0|0.1")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.peak_lr=log(1e-4,1e-1)", Parameter("optimizer.peak_lr", "log", 1e-4, 0.1)),
        ("phases[0].epochs=linear(0.5,2)", Parameter("phases[0].epochs", "linear", 0.5, 2.0)),
        ("augment.num_ops=int(1,3)", Parameter("augment.num_ops", "int", 1, 3)),
        ("optimizer.name=sgd|adamw", Parameter("optimizer.name", "choice", choices=("sgd", "adamw"))),
    ],
)
def test_a_space_is_what_it_says(text: str, expected: Parameter) -> None:
    assert search_space.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "optimizer.peak_lr",
        "a=",
        "a=b",
        "a=b|b",
        "a=b|",
        "a=log(0,1)",
        "a=log(2,1)",
        "a=int(1,2.5)",
        "a=exp(1,2)",
        "a=log(x,y)",
    ],
)
def test_what_is_no_space_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"expected|no (whole )?numbers") as caught:
        search_space.parse(text)
    assert f"--space={text}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_extremes_are_overrides_that_a_config_takes() -> None:
    for text, expected in (
        ("optimizer.peak_lr=log(1e-4,0.1)", [1e-4, 0.1, pytest.approx(0.05, rel=0.01)]),
        ("optimizer.accumulation=int(1,4)", [1, 4]),
    ):
        field = text.partition("=")[0].rpartition(".")[2]
        for override, value in zip(search_space.extremes(search_space.parse(text)), expected, strict=True):
            config = loading.read("configs/digits_mobilenetv2.py", [override])
            assert getattr(config.optimizer, field) == value
    *_, between = search_space.extremes(search_space.parse("global_batch=linear(16,64)"))
    with pytest.raises(schema.ConfigError, match="global_batch"):  # a trial might be told 37.5
        loading.read("configs/digits_mobilenetv2.py", [between])


def test_a_trial_is_worth_its_best_evaluation() -> None:
    rows = [{"step": 5, "validation_accuracy": 0.5, "validation_loss": 0.9}, {"step": 6, "validation_accuracy": None}]
    rows += [{"step": 9, "validation_accuracy": 0.7, "validation_loss": 1.1}, {"step": 12, "validation_accuracy": 0.6}]
    history = "".join(json.dumps(row) + "\n" for row in rows)
    assert search.score(history, "accuracy") == 0.7
    assert search.score(history, "loss") == 0.9
    with pytest.raises(InputError, match="validation_macro_f1"):
        search.score(history, "macro_f1")


def test_the_best_comes_first_and_failures_last() -> None:
    tried = [
        search.Trial(name, score, ("--config.a=b",)) for name, score in zip("0123", (0.5, None, 0.9, 0.0), strict=True)
    ]
    assert [trial.name for trial in search.rank(tried, "accuracy")] == ["2", "0", "3", "1"]
    assert [trial.name for trial in search.rank(tried, "loss")] == ["3", "0", "2", "1"]
    assert search.table(search.rank(tried, "loss"), "loss").splitlines()[-1].split() == ["1", "failed", "--config.a=b"]


def _search(root: pathlib.Path, train: Callable[[str, Sequence[str]], float], trials: int) -> list[search.Trial]:
    pytest.importorskip("keras_tuner", reason="needs the search extra")
    return search._search(SPACE, train, root=root, metric="accuracy", trials=trials, oracle="random", seed=0)


def test_a_search_that_was_killed_goes_on_with_the_trial_it_was_in(tmp_path: pathlib.Path) -> None:
    seen: list[tuple[str, tuple[str, ...]]] = []

    def train(name: str, chosen: Sequence[str]) -> float:
        seen.append((name, tuple(chosen)))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return float(len(seen))

    with pytest.raises(KeyboardInterrupt):
        _search(tmp_path, train, trials=4)
    tried = _search(tmp_path, train, trials=4)
    assert [name for name, _ in seen] == ["0", "1", "2", "2", "3"]
    assert seen[2] == seen[3]
    assert [(trial.name, trial.score) for trial in tried] == [("0", 1.0), ("1", 2.0), ("2", 4.0), ("3", 5.0)]
    assert [trial.overrides for trial in tried] == [seen[i][1] for i in (0, 1, 3, 4)]
    rates = []
    for rate, smoothing in (trial.overrides for trial in tried):
        rates.append(float(rate.removeprefix("--config.optimizer.peak_lr=")))
        assert smoothing in ("--config.loss.label_smoothing=0.0", "--config.loss.label_smoothing=0.1")
    assert len(set(rates)) == 4
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)


def test_a_failed_trial_is_one_and_three_in_a_row_end_the_search(tmp_path: pathlib.Path) -> None:
    def fails_on(*names: str) -> Callable[[str, Sequence[str]], float]:
        def train(name: str, chosen: Sequence[str]) -> float:
            if name in names:
                raise InputError(f"exit code 2 in {name}")
            return 0.5

        return train

    tried = _search(tmp_path / "one", fails_on("1"), trials=3)
    assert [trial.score for trial in tried] == [0.5, None, 0.5]
    with pytest.raises(InputError, match="three trials in a row failed"):
        _search(tmp_path / "three", fails_on("1", "2", "3"), trials=9)


def test_a_fault_of_the_search_itself_is_no_failed_trial(tmp_path: pathlib.Path) -> None:
    def train(name: str, chosen: Sequence[str]) -> float:
        raise ZeroDivisionError

    with pytest.raises(Exception, match="ZeroDivisionError"):
        _search(tmp_path, train, trials=1)


def test_what_a_trial_says_when_it_fails_is_kept_and_told(tmp_path: pathlib.Path) -> None:
    search._train([sys.executable, "-c", "print('fine')"], tmp_path / "good")
    assert (tmp_path / "good" / "train.log").read_text() == "fine\n"
    code = "import sys; print('first'); print('the last line', file=sys.stderr); sys.exit(3)"
    with pytest.raises(InputError, match=r"exit code 3: the last line \(see .*train\.log\)"):
        search._train([sys.executable, "-c", code], tmp_path / "bad")


def _children(pid: int) -> list[str]:
    return pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for the child in Linux' process table")
def test_a_trial_that_outlived_its_search_is_waited_for(tmp_path: pathlib.Path) -> None:
    """A search that was killed leaves its trial behind, with the lock that it inherited."""
    workdir = tmp_path / "0"
    starter = (
        "import pathlib, sys; sys.path.insert(0, '.'); from trainer import search\n"
        "search._train([sys.executable, '-c', 'import time; time.sleep(3); print(1)'], pathlib.Path(sys.argv[1]))"
    )
    with subprocess.Popen([sys.executable, "-c", starter, str(workdir)]) as killed:
        deadline = time.monotonic() + 60
        while not _children(killed.pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        killed.kill()
    with (workdir / ".lock").open("w") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    search._train([sys.executable, "-c", "print(2)"], workdir)
    assert (workdir / "train.log").read_text().split() == ["1", "2"]


def test_another_search_in_the_same_folder_is_refused(tmp_path: pathlib.Path) -> None:
    search._claim(tmp_path, {"space": ["a=1|2"], "metric": "loss"})
    search._claim(tmp_path, {"space": ["a=1|2"], "metric": "loss"})
    with pytest.raises(InputError, match=r"metric was 'loss', now 'accuracy'"):
        search._claim(tmp_path, {"space": ["a=1|2"], "metric": "accuracy"})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"space": []}, "at least one"),
        ({"space": ["a=1|2", "a=3|4"]}, "one for each field"),
        ({"trials": 0}, "--trials=0"),
        ({"oracle": "hyperband"}, "expected one of random, bayesian"),
    ],
)
def test_an_impossible_search_leaves_no_folder(
    tmp_path: pathlib.Path, changed: dict[str, object], message: str
) -> None:
    settings = {
        "config": "c.py",
        "overrides": [],
        "data": "d",
        "out": str(tmp_path / "out"),
        "space": ["a=1|2"],
        "metric": "accuracy",
        "trials": 1,
        "oracle": "random",
        "strategy": "one",
        "seed": 0,
    }
    with pytest.raises(InputError, match=message):
        search.run(**{**settings, **changed})
    assert not (tmp_path / "out").exists()
