"""A config and the values that some of its fields may take in; a table of trials, and the best one's command, out.

Each trial is a run of `python -m trainer train` in a process and a working directory of its own, so that none inherits
another's memory, and one that crashes is a failed trial and nothing more. KerasTuner chooses the values, and keeps on
disk what came of them: a search that was killed goes on, and so does the training it was in the middle of.
"""

from __future__ import annotations

import csv
import fcntl
import json
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline import startup, storage
from pipeline.errors import InputError
from trainer import search_space
from trainer.search_space import Parameter

ORACLES = ("random", "bayesian")
_HISTORY = "history.jsonl"
_STATE = "search"  # KerasTuner's own folder


class Trial(NamedTuple):
    name: str
    score: float | None  # None where it failed
    overrides: tuple[str, ...]


def score(history: str, metric: str) -> float:
    """The best value of `validation_METRIC` in the text of a run's history, as a run's best checkpoint would have it.

    Raises:
      InputError: where no row has it.
    """
    rows = [json.loads(line) for line in history.splitlines()]
    values = [row[f"validation_{metric}"] for row in rows if row.get(f"validation_{metric}") is not None]
    if not values:
        raise InputError(f"no evaluation in {_HISTORY} has validation_{metric}")
    return min(values) if metric == "loss" else max(values)


def run(
    *,
    config: str,
    overrides: Sequence[str],
    data: str,
    out: str,
    space: Sequence[str],
    metric: str,
    trials: int,
    oracle: str,
    strategy: str,
    seed: int,
) -> list[Trial]:
    """Runs `trials` trainings, or what is left of them; prints each one's result, the table and the best one's command.

    Args:
      config, overrides, data, strategy: as for `python -m trainer train`; overrides begin with `--config.`.
      out: a local folder; trial N trains in `out/trials/N`, and `out/trials.csv` lists all.
      space: see `search_space.parse`.
      metric: of the validation split, as in `configs.schema.Monitor`.
      oracle: random, or bayesian (a Gaussian process over what was tried).
      seed: of its choices.

    Returns:
      The trials, best first, failed ones last.

    Raises:
      InputError: for an impossible space or oracle, a folder that holds another search, without KerasTuner, or where
        three trials in a row failed.
    """
    parameters = [search_space.parse(text) for text in space]
    if not parameters or len({parameter.field for parameter in parameters}) < len(parameters):
        raise InputError(f"--space={list(space)}: expected one for each field, and at least one")
    if trials < 1:
        raise InputError(f"--trials={trials}: expected at least 1")
    if oracle not in ORACLES:
        raise InputError(f"--oracle={oracle!r}: expected one of {', '.join(ORACLES)}")
    if not storage.is_local(out):
        raise InputError(f"--out={out}: trials lock files there, so it has to be a folder on a local disk")
    root = pathlib.Path(out)
    root.mkdir(parents=True, exist_ok=True)
    _claim(root, {"config": config, "overrides": list(overrides), "data": data, "space": list(space), "metric": metric})

    def train(name: str, chosen: Sequence[str]) -> float:
        workdir = root / "trials" / name
        command = ["train", f"--config={config}", f"--data={data}", f"--workdir={workdir}", f"--strategy={strategy}"]
        _train([sys.executable, "-m", "trainer", *command, *overrides, *chosen], workdir)
        found = score((workdir / _HISTORY).read_text(), metric)
        print(f"trial {name}: {metric} {found:.4f}  {' '.join(chosen)}", flush=True)
        return found

    # Ended from outside, it ends its trial as well, which waits for nobody's result then.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        tried = _search(parameters, train, root=root, metric=metric, trials=trials, oracle=oracle, seed=seed)
    finally:
        signal.signal(signal.SIGTERM, before)
    ranked = rank(tried, metric)
    _write_table(root / "trials.csv", ranked, metric)
    print(table(ranked, metric))
    if ranked[0].score is not None:
        best = ["python", "-m", "trainer", "train", f"--config={config}", f"--data={data}", "--workdir=…"]
        print("best: " + shlex.join([*best, *overrides, *ranked[0].overrides]))
    return ranked


def rank(tried: Sequence[Trial], metric: str) -> list[Trial]:
    """Best first, failed ones last, equals in the order they were tried in."""
    sign = 1 if metric == "loss" else -1
    return sorted(tried, key=lambda trial: (trial.score is None, sign * (trial.score or 0.0)))


def table(ranked: Sequence[Trial], metric: str) -> str:
    """One line for each trial, under a heading."""
    lines = [f"{'trial':>5}  {metric:>9}  overrides"]
    lines += [f"{trial.name:>5}  {_shown(trial):>9}  {shlex.join(trial.overrides)}" for trial in ranked]
    return "\n".join(lines)


def _shown(trial: Trial) -> str:
    return "failed" if trial.score is None else f"{trial.score:.4f}"


def _write_table(path: pathlib.Path, ranked: Sequence[Trial], metric: str) -> None:
    fields = [override.removeprefix(search_space.PREFIX).partition("=")[0] for override in ranked[0].overrides]
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["trial", metric, *fields])
        for trial in ranked:
            writer.writerow([trial.name, trial.score, *(text.partition("=")[2] for text in trial.overrides)])


def _claim(root: pathlib.Path, search: Mapping[str, Any]) -> None:
    """Says in `root` what is searched there; raises InputError where it is something else already."""
    path = root / "search.json"
    if path.exists():
        there = json.loads(path.read_text())
        changed = [
            f"{name} was {there.get(name)!r}, now {search[name]!r}"
            for name in search
            if there.get(name) != search[name]
        ]
        if changed:
            raise InputError(f"{root} holds another search ({'; '.join(changed)}): use another --out")
    path.write_text(json.dumps(search, indent=1) + "\n")


def _train(command: Sequence[str], workdir: pathlib.Path) -> None:
    """Runs one training to its end, with its output in `workdir/train.log`; InputError where it fails."""
    workdir.mkdir(parents=True, exist_ok=True)
    # The trial holds the lock as long as it lives. One that outlived a search that was killed is waited for, and then
    # finds itself finished; two at once would write into one directory.
    with (workdir / ".lock").open("w") as lock, (workdir / "train.log").open("ab") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.fileno()],
            check=False,
        )
    if result.returncode:
        last = (workdir / "train.log").read_text(errors="replace").strip().splitlines()[-1:]
        raise InputError(f"exit code {result.returncode}: {' '.join(last)} (see {workdir / 'train.log'})")


def _search(
    parameters: Sequence[Parameter],
    train: Callable[[str, Sequence[str]], float],
    *,
    root: pathlib.Path,
    metric: str,
    trials: int,
    oracle: str,
    seed: int,
) -> list[Trial]:
    """Lets KerasTuner choose until there are `trials` trials in its folder."""
    startup.import_tensorflow(gpus=False)  # they are the trials'
    try:
        import keras_tuner
    except ImportError as error:
        raise InputError(f"a search needs KerasTuner ({error}): pip install 'shardline[search]'") from error

    class Search(keras_tuner.Tuner):  # type: ignore[misc]  # KerasTuner ships no types
        """As its guide has it for what is no Keras model: https://keras.io/keras_tuner/guides/tune_anything/"""

        def run_trial(self, trial: Any, **_: Any) -> float:
            chosen = search_space.overrides(parameters, trial.hyperparameters.values)
            try:
                return train(trial.trial_id, chosen)
            except InputError as error:
                print(f"trial {trial.trial_id}: failed, {error}", flush=True)
                raise keras_tuner.errors.FailedTrialError(str(error)) from error
            except Exception as error:  # a fault of this program, which KerasTuner would take for the trial's
                raise keras_tuner.errors.FatalError(repr(error)) from error

    space = keras_tuner.HyperParameters()
    for parameter in parameters:
        _add(space, parameter)
    kind = {
        "random": keras_tuner.oracles.RandomSearchOracle,
        "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
    }
    objective = keras_tuner.Objective("score", "min" if metric == "loss" else "max")
    seed += 1  # 0 is none to it
    chooser = kind[oracle](objective=objective, max_trials=trials, hyperparameters=space, seed=seed)
    tuner = Search(oracle=chooser, directory=str(root), project_name=_STATE, overwrite=False)
    try:
        tuner.search(verbose=0)
    except RuntimeError as error:  # its limit; the next would fail too
        raise InputError(
            f"three trials in a row failed: see {root}/trials, and search again in another --out"
        ) from error
    return [
        Trial(name, trial.score, search_space.overrides(parameters, trial.hyperparameters.values))
        for name, trial in sorted(chooser.trials.items(), key=lambda item: int(item[0]))
    ]


def _add(space: Any, parameter: Parameter) -> None:
    if parameter.kind == "choice":
        space.Choice(parameter.field, list(parameter.choices))
    elif parameter.kind == "int":
        space.Int(parameter.field, int(parameter.low), int(parameter.high))
    else:
        space.Float(parameter.field, parameter.low, parameter.high, sampling=parameter.kind)
