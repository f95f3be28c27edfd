"""When workers are started again: a table, and a budget that lasts as long as there is progress."""

from __future__ import annotations

import pytest

from trainer import restarts
from trainer.restarts import Attempt, Budget

FULL = Budget.full(3)


@pytest.mark.parametrize(
    ("statuses", "signalled", "status"),
    [
        ([0, 0], False, 0),
        ([0], True, 0),
        ([2, 1], False, 2),
        ([2, None], False, 2),
        ([42, 2], True, 2),
        ([42, 42], True, 42),
        ([42, 0], True, 42),
        ([42, -15], True, 42),  # one had not begun
        ([42, None], True, 1),  # one had to be killed
        ([42, 1], True, 1),
        ([1, None], False, None),
        ([-9, None], False, None),
        ([42, 42], False, None),
        ([42, None], False, None),
        ([0, None], False, None),
    ],
)
def test_what_ends_and_what_is_started_again(statuses: list[int | None], signalled: bool, status: int | None) -> None:
    assert restarts.decide(Attempt(dict(enumerate(statuses)), step=5), FULL, signalled=signalled).status == status


def _spend(steps: list[int], max_restarts: int, statuses: tuple[int | None, ...] = (1, None)) -> int:
    """How many of attempts that come as far as `steps` say are made before the budget is spent."""
    budget = Budget.full(max_restarts)
    for number, step in enumerate(steps, 1):
        decision = restarts.decide(Attempt(dict(enumerate(statuses)), step), budget, signalled=False)
        if decision.status is not None:
            assert decision.status == 1
            return number
        budget = decision.budget
    return len(steps) + 1


def test_what_fails_at_one_step_ends_after_as_many_restarts() -> None:
    assert _spend([0] * 9, 3) == 4
    assert _spend([70] * 9, 3) == 4
    assert _spend([70] * 9, 0) == 1
    assert _spend([70, 60, 70, 50, 70], 3) == 4  # no further than the first


def test_the_budget_is_full_again_after_progress() -> None:
    assert _spend([10, 10, 10, 11, 11, 11, 12] + [12] * 9, 3) == 10
    assert _spend(list(range(1, 50)), 1) == 50


def test_preemption_costs_nothing() -> None:
    assert _spend([7] * 20, 0, (42, 42)) == 21


def test_a_restart_waits_longer_the_longer_nothing_helps() -> None:
    budget, delays = FULL._replace(max_restarts=9, left=9), []
    for step in (10, 10, 10, 10, 10, 11):
        decision = restarts.decide(Attempt({0: 1}, step), budget, signalled=False)
        budget = decision.budget
        delays.append(decision.delay_s)
    assert delays == [5, 10, 20, 40, 60, 5]
    assert restarts.decide(Attempt({0: 1}, 12), budget, signalled=False, jitter=0.5).delay_s == 2.5


def test_it_says_who_failed_and_how() -> None:
    def why(attempt: Attempt) -> str:
        return restarts.decide(attempt, FULL, signalled=False).why

    assert why(Attempt({0: None, 3: -9}, 7)).startswith("worker 3 was killed by SIGKILL at step 7; 2 more restarts")
    assert why(Attempt({0: 1, 1: 134}, 7)).startswith("worker 0 ended with status 1, worker 1 ended with status 134 at")
    assert why(Attempt({0: None, 1: None}, 7, stalled=(1,))).startswith("no sign of life from worker 1 at step 7")
    assert why(Attempt({0: 0, 1: None}, 7)).startswith("not all workers ended with the others")
    spent = restarts.decide(Attempt({0: 1}, 7), Budget(3, 0, best_step=7), signalled=False)
    assert spent.why == "worker 0 ended with status 1 at step 7; 3 restarts in a row came no further: giving up"
