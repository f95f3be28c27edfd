"""Phases and learning rates against literals worked out by hand, and against what must hold for all of them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from configs.schema import SCHEDULES, Phase
from pipeline.errors import InputError
from trainer import schedule


def _plan(*phases: Phase, examples: int = 1000, global_batch: int = 32, peak_lr: float = 0.1):
    fields = [dataclasses.asdict(phase) for phase in phases]
    return schedule.plan(fields, examples=examples, global_batch=global_batch, peak_lr=peak_lr)


def _rates(phase: Phase, *, examples: int = 10) -> list[float]:
    """Of a phase alone, with `examples` steps in an epoch and a peak of 1; the last is where the next would begin."""
    [plan] = _plan(phase, examples=examples, global_batch=1, peak_lr=1.0)
    return [schedule.learning_rate(step, plan) for step in range(plan.end_step + 1)]


def test_phases_lie_end_to_end_in_steps() -> None:
    head, everything = _plan(Phase(epochs=2.5, trainable="head"), Phase(epochs=1, lr_scale=0.1, warmup_epochs=0.5))
    assert (head.first_step, head.end_step, head.peak_lr, head.trainable) == (0, 78, 0.1, "head")
    assert (everything.first_step, everything.end_step, everything.warmup_steps) == (78, 109, 15)
    assert everything.peak_lr == pytest.approx(0.01)


def test_a_phase_may_be_given_in_steps() -> None:
    first, second = _plan(Phase(steps=7, cached_features=True, trainable="head"), Phase(steps=50, warmup_epochs=1))
    assert (first.first_step, first.end_step, first.cached_features) == (0, 7, True)
    assert (second.first_step, second.end_step, second.warmup_steps, second.cached_features) == (7, 57, 31, False)


def test_each_step_belongs_to_one_phase() -> None:
    first, second = plans = _plan(Phase(steps=2), Phase(steps=3))
    assert [schedule.phase_at(plans, step) for step in range(5)] == [first, first, second, second, second]
    with pytest.raises(ValueError, match="step=5: the phases take 5 steps"):
        schedule.phase_at(plans, 5)


def test_a_phase_has_at_least_one_step() -> None:
    assert _plan(Phase(epochs=0.001))[0].end_step == 1


def test_hundredths_of_epochs_lose_no_step() -> None:
    assert _plan(Phase(epochs=0.29, warmup_epochs=0.29), examples=100, global_batch=1)[0].warmup_steps == 29


def test_warmup_rises_to_the_peak_and_the_cosine_falls_to_the_end() -> None:
    # 20 steps of 10 examples at a batch of 1, with 4 to warm up: 1/5, 2/5, 3/5, 4/5 of the peak, then 16 of cosine.
    rates = _rates(Phase(epochs=2, warmup_epochs=0.4, final_lr_fraction=0.1))
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[12] == pytest.approx(0.55)  # half way down: the mean of 1.0 and 0.1
    assert rates[8] == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)  # a quarter of the way
    assert rates[20] == pytest.approx(0.1)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_the_cosine_ends_at_nothing_by_default() -> None:
    rates = _rates(Phase(steps=4))
    assert rates == pytest.approx([1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0.0])


def test_exponential_falls_smoothly_from_the_end_of_the_warmup() -> None:
    # Two steps of warmup, then a half every epoch of 4 steps: 2 ** (-1/4) after one step.
    rates = _rates(
        Phase(steps=11, warmup_epochs=0.5, schedule="exponential", decay_rate=0.5, decay_epochs=1), examples=4
    )
    fourth = 0.8408964152537145
    assert rates[:4] == pytest.approx([1 / 3, 2 / 3, 1.0, fourth])
    assert (rates[4], rates[6], rates[10]) == pytest.approx((fourth**2, 0.5, 0.25))


def test_exponential_is_efficientnets_by_default() -> None:
    # 0.97 every 2.4 epochs: after 12 epochs 0.97 ** 5.
    assert _rates(Phase(epochs=12, schedule="exponential"))[120] == pytest.approx(0.8587340257)


def test_step_falls_in_stairs() -> None:
    rates = _rates(Phase(epochs=1, schedule="step", decay_rate=0.5, decay_epochs=0.3))
    assert rates == pytest.approx([1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125])


def test_a_stair_is_not_late_by_rounding() -> None:
    # 0.07 * 100 is a little more than 7.
    rates = _rates(Phase(steps=8, schedule="step", decay_rate=0.5, decay_epochs=0.07), examples=100)
    assert rates[6:8] == pytest.approx([1, 0.5])


def test_step_falls_to_a_tenth_at_each_third_by_default() -> None:
    rates = _rates(Phase(steps=11, warmup_epochs=0.2, schedule="step"))
    assert rates[:11] == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])


@pytest.mark.parametrize("name", ["constant", "plateau"])
def test_constant_and_plateau_stay_at_the_peak(name: str) -> None:
    assert _rates(Phase(steps=4, warmup_epochs=0.1, schedule=name)) == [0.5, 1.0, 1.0, 1.0, 1.0]


def test_plateau_tells_its_follower_where_to_go() -> None:
    [usual] = _plan(Phase(epochs=1, schedule="plateau"))
    assert (usual.final_lr_fraction, usual.decay_rate, usual.patience, usual.decay_steps) == (0.001, 0.1, 5, None)
    [other] = _plan(Phase(epochs=1, schedule="plateau", final_lr_fraction=0.0, decay_rate=0.5, patience=2))
    assert (other.final_lr_fraction, other.decay_rate, other.patience) == (0.0, 0.5, 2)


def test_a_later_phase_counts_from_its_own_start() -> None:
    first, second = _plan(Phase(epochs=1), Phase(epochs=1), examples=8, global_batch=1)
    assert schedule.learning_rate(8, second) == schedule.learning_rate(0, first) == 0.1
    assert schedule.learning_rate(12, second) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        (Phase(steps=50, warmup_epochs=2), r"phases\[1\].warmup_epochs=2: its 62 steps are more than the phase's 50"),
        (Phase(epochs=1, decay_rate=0.5), r"phases\[1\].decay_rate=0.5: schedule='cosine' has none"),
        (Phase(epochs=1, schedule="step", patience=5), r"phases\[1\].patience=5: schedule='step' has none"),
        (Phase(epochs=1, schedule="poly"), r"phases\[1\].schedule='poly': expected one of cosine, exp"),
        (Phase(), r"phases\[1\]: neither epochs nor steps"),
        (
            Phase(epochs=90, schedule="exponential", decay_epochs=0.01),
            r"phases\[1\].decay_rate=0.97 every 0.3125 s",
        ),
        (Phase(epochs=9, schedule="step", decay_rate=0.01, decay_epochs=0.1), r"phases\[1\].decay_rate=0.01 every"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(phase: Phase, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        _plan(Phase(epochs=1), phase)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        {"end_step": 0}, {"warmup_steps": 101}, {"peak_lr": 0.0}, {"schedule": "poly"}, {"final_lr_fraction": None},
        {"decay_rate": 0.5}, {"final_lr_fraction": 1.5}, {"first_step": -1},
    ],
)  # fmt: skip
def test_a_plan_refuses_to_be_impossible(change: dict[str, Any]) -> None:
    [sound] = _plan(Phase(steps=100))
    with pytest.raises(ValueError, match=r"poly|no phase|None|0\.5|1\.5"):
        dataclasses.replace(sound, **change)


_PHASES = st.builds(
    Phase,
    steps=st.one_of(st.none(), st.integers(1, 500)),
    epochs=st.floats(0.001, 20),
    lr_scale=st.floats(0.001, 10),
    schedule=st.sampled_from(SCHEDULES),
    warmup_epochs=st.floats(0, 2),
)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(st.lists(_PHASES, min_size=1, max_size=4), st.integers(64, 3000), st.integers(1, 64))
def test_phases_leave_no_gap_and_rates_no_jump(phases: list[Phase], examples: int, global_batch: int) -> None:
    try:
        plans = _plan(*phases, examples=examples, global_batch=global_batch)
    except InputError as error:
        hypothesis.assume("warmup_epochs" not in str(error))
        raise
    assert plans[0].first_step == 0
    assert [plan.first_step for plan in plans[1:]] == [plan.end_step for plan in plans[:-1]]
    for plan in plans:
        rates = [schedule.learning_rate(step, plan) for step in range(plan.first_step, plan.end_step)]
        warmup, rest = rates[: plan.warmup_steps], rates[plan.warmup_steps :]
        assert min(rates) > 0
        assert max(rates) <= plan.peak_lr * (1 + 1e-12)
        # As much up as in each step before it: the peak is where the warmup's line ends.
        line = [*warmup, *rest[:1]]
        assert line == pytest.approx([plan.peak_lr * (n + 1) / (plan.warmup_steps + 1) for n in range(len(line))])
        assert rest == sorted(rest, reverse=True)
