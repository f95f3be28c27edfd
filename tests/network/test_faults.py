"""Two workers on two hosts, and what may happen to one of them: the end is that of the run nobody disturbed."""

from __future__ import annotations

import pathlib
import random

import pytest

from tests.network.faults import FAULTS, disturb, table
from tests.network.preemption import WHO, preempt
from tests.network.records import Result

pytestmark = pytest.mark.network

TIMES = 10
PREEMPTIONS = 10  # of each way: 20 to one worker, 20 to all of them


@pytest.mark.parametrize("fault", ["kill", "stop", "cut-5s", "answers-30s"])
def test_a_training_gets_over_it(fault: str, digits: str, baseline: Result, tmp_path: pathlib.Path) -> None:
    disturb(fault, tmp_path / "run", digits, baseline, chance=random.Random(0))


def test_signals_cost_no_more_than_a_step(digits: str, tmp_path: pathlib.Path) -> None:
    assert max(preempt(tmp_path, digits, times=len(WHO), chance=random.Random(0))) <= 1


@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS)
def test_a_training_gets_over_it_ten_times(fault: str, digits: str, baseline: Result, tmp_path: pathlib.Path) -> None:
    outcomes = [
        disturb(fault, tmp_path / str(number), digits, baseline, chance=random.Random(f"{fault} {number}"))
        for number in range(TIMES)
    ]
    print(f"\n{table(outcomes)}")


@pytest.mark.soak
def test_forty_signals_cost_no_more_than_a_step_each(digits: str, tmp_path: pathlib.Path) -> None:
    assert max(preempt(tmp_path, digits, times=PREEMPTIONS * len(WHO), chance=random.Random(1))) <= 1
