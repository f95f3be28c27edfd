"""A fault's name in; a training that the fault was done to, and how it got over it, out.

python -m tests.network.faults --data=DIR [--times=10] [--only=kill,stop]     # prints the table
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import math
import pathlib
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pipeline import manifest as manifest_lib
from tests.network import hosts
from tests.network.records import Result, check_epochs
from tests.network.training import (
    NAMES,
    PORT,
    STEPS,
    TIMEOUT_S,
    Training,
    supervisors,
    training,
)

_NOTICED_WITHIN_S = 30.0  # by all workers, from the fault to their end
_EARLIEST, _LATEST = 6, STEPS - 10  # steps after which faults come: a checkpoint is there, and there is a way to go


class Fault(NamedTuple):
    """What is done to one of two hosts once, and for how long."""

    begin: Callable[[Training, str], None] = lambda run, name: None
    end: Callable[[Training, str], None] = lambda run, name: None
    lasts_s: float = 0.0
    victims: Sequence[str] = NAMES
    loss: float = 0.0  # the share of packets lost from the start of the training to its end


def _signal(number: signal.Signals) -> Callable[[Training, str], None]:
    return lambda run, name: run.signal(run.workers(name)[-1:], number)


def _cut(seconds: float) -> Fault:
    return Fault(lambda run, name: run.net.cut(name), lambda run, name: run.net.mend(name), seconds)


FAULTS: Mapping[str, Fault] = {
    "kill": Fault(_signal(signal.SIGKILL)),
    "stop": Fault(_signal(signal.SIGSTOP)),
    "cut-5s": _cut(5.0),
    "cut-100s": _cut(100.0),
    # After 20 s gRPC's server gives up the connection and says nothing, and whoever asked has nothing to send. Not of
    # worker 0, which answers TensorFlow's heartbeats over the same one.
    "answers-30s": Fault(
        lambda run, name: run.net.lose_answers(name, port=PORT),
        lambda run, name: run.net.find_answers(),
        30.0,
        victims=NAMES[1:],
    ),
    "loss": Fault(loss=0.1),
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    fault: str
    restarts: int  # of all workers together, 0 where it healed
    noticed_s: float | None  # until the last worker of that time had ended; None where it healed
    done_s: float  # from the fault, or from the start where it was there from the start, to the end of the training
    steps_lost: int  # taken and then taken again


def disturb(fault: str, folder: pathlib.Path, data: str, baseline: Result, *, chance: random.Random) -> Outcome:
    """Trains with the fault at a random moment to a random worker.

    Raises:
      AssertionError: where it did not end as the undisturbed one, or where the fault was noticed late.
    """
    what = FAULTS[fault]
    name, after_step = chance.choice(what.victims), chance.randint(_EARLIEST, _LATEST)
    processes = supervisors(folder, data, more_flags=["--max_restarts=10"])
    with training(folder, processes, loss=what.loss) as run:
        began = time.monotonic()
        if not what.loss:
            run.wait(lambda: run.step(name) >= after_step or run.ended())
            time.sleep(chance.uniform(0, 0.5))  # a step and a save take about as long, and any part of them is hit
            assert not run.ended(), f"it ended before the fault{run.logs()}"
            began = time.monotonic()
            what.begin(run, name)
        noticed_s = _watch(run, what, name, began)
        done_s = time.monotonic() - began
        result = run.result()
        assert not what.loss or run.net.lost(NAMES[1])[0] > 100, "hardly any packet was lost"
        restarts = sum(len(run.workers(each)) - 1 for each in NAMES)
        outcome = Outcome(fault, restarts, noticed_s if restarts else None, done_s, steps_lost(run))
    compare(result, baseline)
    assert restarts == 0 or what.loss or noticed_s <= _NOTICED_WITHIN_S, outcome
    return outcome


def _watch(run: Training, fault: Fault, name: str, began: float) -> float:
    """Waits for the end of the training; returns the seconds until all workers of the moment of the fault had ended."""
    workers = [pid for each in NAMES for pid in run.workers(each)[-1:]]
    noticed_s, lasts = 0.0, True
    while not run.ended():
        elapsed_s = time.monotonic() - began
        assert elapsed_s < TIMEOUT_S, run.logs()
        if lasts and elapsed_s >= fault.lasts_s:
            fault.end(run, name)
            lasts = False
        if not noticed_s and all(hosts.state(pid) in (None, "Z") for pid in workers):
            noticed_s = elapsed_s
        time.sleep(0.05)
    return noticed_s or time.monotonic() - began


def steps_lost(run: Training) -> int:
    """How many steps were taken once more, by the worker that had to take most."""
    return max(
        sum(times - 1 for times in collections.Counter(row.step for row in run.rows(name)).values()) for name in NAMES
    )


def compare(result: Result, expected: Result) -> None:
    """Checks that what was trained, on what, and how it went are the same."""
    assert result.examples == expected.examples, "other examples"
    # A restart between the last log and the evaluation that is due then has the log's six digits.
    assert len(result.history) == len(expected.history), "other evaluations"
    for mine, theirs in zip(result.history, expected.history, strict=True):
        assert mine.keys() == theirs.keys(), "other measures"
        assert all(math.isclose(mine[name], theirs[name], rel_tol=1e-5) for name in mine), f"{mine} is not {theirs}"
    assert result.weights == expected.weights, "other weights"


def undisturbed(folder: pathlib.Path, data: str, *, steps: int = STEPS) -> Result:
    """The training that nothing happens to, after a look whether every example came once an epoch."""
    with training(folder, supervisors(folder, data, steps=steps)) as run:
        result = run.result()
        assert [len(run.workers(name)) for name in NAMES] == [1, 1], run.logs()
    check_epochs(result, [shard.examples for shard in manifest_lib.load(data).split("train").shards])
    return result


def table(outcomes: Sequence[Outcome]) -> str:
    lines = [f"{'fault':10}{'times':>7}{'healed':>8}{'noticed, s':>12}{'done, s':>9}{'steps lost':>12}"]
    for fault in dict.fromkeys(outcome.fault for outcome in outcomes):
        some = [outcome for outcome in outcomes if outcome.fault == fault]
        noticed = [outcome.noticed_s for outcome in some if outcome.noticed_s is not None]
        lines.append(
            f"{fault:10}{len(some):7}{len(some) - len(noticed):8}{f'{max(noticed):.1f}' if noticed else '':>12}"
            f"{statistics.median(outcome.done_s for outcome in some):9.1f}"
            f"{max(outcome.steps_lost for outcome in some):12}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a small dataset, as tests/conftest.py prepares one")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(FAULTS), help="some of the faults")
    parser.add_argument("--at_once", type=int, default=1, help="trainings side by side")
    parser.add_argument("--seed", type=int, default=1)
    values = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        baseline = undisturbed(pathlib.Path(folder, "undisturbed"), values.data)

        def attempt(fault: str, number: int) -> Outcome | None:
            own, chance = pathlib.Path(folder, f"{fault}-{number}"), random.Random(f"{values.seed} {fault} {number}")
            try:
                outcome = disturb(fault, own, values.data, baseline, chance=chance)
            except AssertionError as error:
                print(f"{fault} {number}: {error}", flush=True)
                return None
            print(outcome, flush=True)
            return outcome

        with concurrent.futures.ThreadPoolExecutor(values.at_once) as pool:
            wanted = [(fault, number) for number in range(values.times) for fault in values.only]
            outcomes = list(pool.map(attempt, *zip(*wanted, strict=True)))
    print(table([outcome for outcome in outcomes if outcome]))
    print(f"{outcomes.count(None)} failed; noticed: the latest; done: the median; steps lost: the most")
    return 1 if None in outcomes else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
