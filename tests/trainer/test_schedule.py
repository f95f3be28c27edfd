"""Phases and learning rates against literals worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest

from configs.schema import Phase
from trainer import schedule


def _plan(*phases: Phase, examples: int = 1000, global_batch: int = 32, peak_lr: float = 0.1):
    fields = [dataclasses.asdict(phase) for phase in phases]
    return schedule.plan(fields, examples=examples, global_batch=global_batch, peak_lr=peak_lr)


def test_phases_lie_end_to_end_in_steps() -> None:
    head, everything = _plan(Phase(epochs=2.5, trainable="head"), Phase(epochs=1, lr_scale=0.1, warmup_epochs=0.5))
    assert (head.first_step, head.end_step, head.peak_lr, head.trainable) == (0, 78, 0.1, "head")
    assert (everything.first_step, everything.end_step, everything.warmup_steps) == (78, 109, 15)
    assert everything.peak_lr == pytest.approx(0.01)


def test_a_phase_has_at_least_one_step() -> None:
    assert _plan(Phase(epochs=0.001))[0].end_step == 1


def test_warmup_rises_to_the_peak_and_the_cosine_falls_to_the_end() -> None:
    # 20 steps of 10 examples at a batch of 1, with 4 to warm up: 1/5, 2/5, 3/5, 4/5 of the peak, then 16 of cosine.
    [plan] = _plan(Phase(epochs=2, warmup_epochs=0.4, final_lr_fraction=0.1), examples=10, global_batch=1, peak_lr=1.0)
    rates = [schedule.learning_rate(step, plan) for step in range(20)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[12] == pytest.approx(0.55)  # half way down: the mean of 1.0 and 0.1
    assert rates[8] == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)  # a quarter of the way
    assert schedule.learning_rate(20, plan) == pytest.approx(0.1)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_a_later_phase_counts_from_its_own_start() -> None:
    first, second = _plan(Phase(epochs=1), Phase(epochs=1), examples=8, global_batch=1)
    assert schedule.learning_rate(8, second) == schedule.learning_rate(0, first) == 0.1
    assert schedule.learning_rate(12, second) == pytest.approx(0.05)
