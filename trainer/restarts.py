"""How workers ended in; whether they are started again and when, or the status to end with, out. Nothing is done here.

A restart costs one of a budget, which is full again whenever an attempt comes further than all before it: what fails
once a day may go on for ever, what fails at the same step each time ends soon. Steps that were reached count, saved or
not; the highest of many attempts that all begin at one checkpoint is beaten ever more rarely, so that ends as well.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import NamedTuple

DONE, BUDGET_SPENT, BAD_INPUT, PREEMPTED = 0, 1, 2, 42  # of `python -m trainer launch` and, but for 1, of its workers

# TensorFlow notices within 3 to 6 s that a worker is gone; the others' supervisors restart theirs then.
_FIRST_DELAY_S = 5.0
_LAST_DELAY_S = 60.0  # storage or an input service that is away for minutes must not spend the budget in seconds


class Attempt(NamedTuple):
    """How one start of all local workers ended.

    Attributes:
      statuses: of each by its index, negative for a signal; None where the supervisor ended it. BAD_INPUT stands here
        in any case.
      step: the highest global step that one of them reached.
      stalled: the workers that did not beat for too long.
    """

    statuses: Mapping[int, int | None]
    step: int
    stalled: tuple[int, ...] = ()


class Budget(NamedTuple):
    max_restarts: int
    left: int
    best_step: int = 0  # of all attempts
    fruitless: int = 0  # attempts since the last one that came further

    @classmethod
    def full(cls, max_restarts: int) -> Budget:
        return cls(max_restarts, max_restarts)


class Decision(NamedTuple):
    status: int | None  # to end with; None is a restart
    budget: Budget
    why: str
    delay_s: float = 0.0


def decide(attempt: Attempt, budget: Budget, *, signalled: bool, jitter: float = 1.0) -> Decision:
    """What follows from an attempt that is over.

    Args:
      signalled: whether the supervisor was asked to end.
      jitter: a factor for the delay, so that many supervisors don't come to the same storage at one moment.
    """
    budget = _after(attempt, budget)
    statuses = set(attempt.statuses.values())
    if BAD_INPUT in statuses:
        return Decision(BAD_INPUT, budget, "a worker says that config or input has to be mended; no restart helps")
    if statuses == {DONE}:
        return Decision(DONE, budget, "done")
    if signalled:
        # One that SIGTERM ended had not yet come so far as to note signals, so there is nothing of it to save.
        if statuses <= {DONE, PREEMPTED, -signal.SIGTERM}:
            return Decision(PREEMPTED, budget, "ended by a signal, and all is saved: start the same command to go on")
        return Decision(BUDGET_SPENT, budget, "ended by a signal, not all was saved: a start goes on from what was")
    delay_s = jitter * min(_FIRST_DELAY_S * 2**budget.fruitless, _LAST_DELAY_S)
    if statuses <= {DONE, PREEMPTED}:
        return Decision(None, budget, f"the workers were preempted at step {attempt.step}, and saved", delay_s)
    what = f"{_described(attempt)} at step {attempt.step}"
    if not budget.left:
        return Decision(
            BUDGET_SPENT, budget, f"{what}; {budget.max_restarts} restarts in a row came no further: giving up"
        )
    budget = budget._replace(left=budget.left - 1)
    return Decision(None, budget, f"{what}; {budget.left} more restarts if it comes no further", delay_s)


def _after(attempt: Attempt, budget: Budget) -> Budget:
    if attempt.step > budget.best_step:
        return budget._replace(left=budget.max_restarts, best_step=attempt.step, fruitless=0)
    return budget._replace(fruitless=budget.fruitless + 1)


def _described(attempt: Attempt) -> str:
    """Which workers failed, and how."""
    if attempt.stalled:
        return f"no sign of life from worker {', '.join(map(str, attempt.stalled))}"
    failed = [
        f"worker {worker} {ending(status)}"
        for worker, status in attempt.statuses.items()
        if status not in (None, DONE, PREEMPTED)
    ]
    return ", ".join(failed) or "not all workers ended with the others"


def ending(status: int) -> str:
    """In words."""
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
