"""The best, the waiting and the plateau, against Keras' own callbacks over the same evaluations."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import monitor, schedule

# Keras compares in float32: these and their differences are exact there, and ties are frequent.
VALUES = st.lists(st.integers(0, 64).map(lambda part: part / 64), min_size=1, max_size=30)


def _rules(metric: str = "accuracy", min_delta: float = 0.0, patience: int | None = 3) -> monitor.Rules:
    return monitor.Rules(metric=metric, min_delta=min_delta, patience=patience, restore_best=True)


def _phases(**changed: object) -> list[schedule.PhasePlan]:
    """A head phase of 10 steps, and one of 1,000 that follows plateaus."""
    common = {"freeze_batch_norm": False, "cached_features": False, "lr_scale": 1.0, "warmup_epochs": 0.0}
    unset = {"final_lr_fraction": None, "decay_rate": None, "decay_epochs": None, "patience": None}
    first = {**common, **unset, "epochs": None, "steps": 10, "trainable": "head", "schedule": "constant"}
    second = {**first, "steps": 1000, "trainable": "all", "schedule": "plateau", **changed}
    return schedule.plan([first, second], examples=10, global_batch=1, peak_lr=1.0)


def _follow(rules: monitor.Rules, phase: schedule.PhasePlan, values: Sequence[float]) -> list[monitor.Standing]:
    standing, found = monitor.Standing(), []
    for step, value in enumerate(values, phase.first_step + 1):
        standing = monitor.after_evaluation(standing, rules, {rules.metric: value, "examples": 7}, step, phase)
        standing = monitor.Standing.from_json(json.loads(json.dumps(standing.to_json())))  # as a checkpoint keeps it
        found.append(standing)
    return found


class _Net:
    """What Keras' callbacks ask of a model."""

    def __init__(self) -> None:
        self.stop_training = False
        self.optimizer = keras.optimizers.SGD(1.0)

    def get_weights(self) -> list[object]:
        return []

    def set_weights(self, weights: object) -> None:
        pass


@settings(deadline=None, max_examples=50)
@given(values=VALUES, patience=st.integers(1, 4), min_delta=st.sampled_from([0.0, 1 / 16]), metric=st.booleans())
def test_waiting_and_the_best_are_those_of_early_stopping(
    values: list[float], patience: int, min_delta: float, metric: bool
) -> None:
    name = "accuracy" if metric else "loss"
    phase = _phases()[-1]
    callback = keras.callbacks.EarlyStopping(name, min_delta, patience, mode="max" if metric else "min")
    callback.set_model(_Net())
    callback.on_train_begin()
    rules = _rules(name, min_delta, patience)
    for epoch, (value, standing) in enumerate(zip(values, _follow(rules, phase, values), strict=True)):
        callback.on_epoch_end(epoch, {name: value})
        assert standing.best == callback.best
        assert standing.best_step == phase.first_step + 1 + callback.best_epoch
        # Keras never stops after the very first epoch.
        if epoch:
            stops = monitor.should_stop(standing, rules, last_phase=phase)
            assert stops == callback.model.stop_training
        if callback.model.stop_training:
            break


@settings(deadline=None, max_examples=50)
@given(values=VALUES, patience=st.integers(1, 4))
def test_the_plateaus_factor_is_that_of_reduce_lr_on_plateau(values: list[float], patience: int) -> None:
    phase = _phases(patience=patience, decay_rate=0.5, final_lr_fraction=0.1)[-1]
    callback = keras.callbacks.ReduceLROnPlateau("accuracy", 0.5, patience, mode="max", min_delta=0.0, min_lr=0.1)
    callback.set_model(_Net())
    callback.on_train_begin()
    for epoch, (value, standing) in enumerate(zip(values, _follow(_rules(), phase, values), strict=True)):
        callback.on_epoch_end(epoch, {"accuracy": value})
        assert standing.plateau_factor == pytest.approx(float(callback.model.optimizer.learning_rate), rel=1e-6)


def test_a_phase_begins_its_waiting_and_its_rate_anew_and_keeps_the_best() -> None:
    head, everything = _phases(patience=1)
    rules = _rules(patience=1)
    tired = _follow(rules, head, [0.9, 0.8, 0.7])[-1]
    assert tired.waited == 2
    assert not monitor.should_stop(tired, rules, last_phase=everything)  # the phase it prepares for is still to come
    entered = monitor.enter(tired, everything)
    assert (entered.waited, entered.plateau_factor, entered.best, entered.best_step) == (0, 1.0, 0.9, 1)
    first = monitor.after_evaluation(entered, rules, {"accuracy": 0.5}, 11, everything)
    assert (first.waited, first.best, first.phase_best) == (0, 0.9, 0.5)
    assert monitor.enter(first, everything) is first
    worse = monitor.after_evaluation(first, rules, {"accuracy": 0.4}, 12, everything)
    assert (worse.waited, worse.best) == (1, 0.9)
    assert monitor.should_stop(worse, rules, last_phase=everything)


def test_a_phase_that_fell_behind_and_gains_is_waited_for() -> None:
    """As a second EarlyStopping would, for the second phase; only its last value is better than the first phase's."""
    head, everything = _phases()
    rules, standing = _rules(patience=2), _follow(_rules(patience=2), head, [0.8])[-1]
    for step, value in enumerate([0.5, 0.6, 0.55, 0.7, 0.85], 11):
        standing = monitor.after_evaluation(standing, rules, {"accuracy": value}, step, everything)
        assert not monitor.should_stop(standing, rules, last_phase=everything)
        assert standing.best_step == (15 if value == 0.85 else 1)


def test_an_evaluation_that_is_not_due_can_be_the_best_and_changes_no_waiting() -> None:
    phase, rules = _phases()[-1], _rules(patience=3)
    before = _follow(rules, phase, [0.5, 0.4])[-1]
    after = monitor.after_evaluation(before, rules, {"accuracy": 0.7}, 99, phase, due=False)
    assert (after.best, after.best_step) == (0.7, 99)
    assert dataclasses.replace(after, best=before.best, best_step=before.best_step) == before


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_what_is_no_number_is_no_gain(value: float | None) -> None:
    standing = _follow(_rules("loss"), _phases()[-1], [value, 0.5, value])[-1]
    assert (standing.best, standing.best_step, standing.waited) == (0.5, 12, 1)


def test_without_patience_it_never_stops() -> None:
    rules = _rules(patience=None)
    [*_, last] = _follow(rules, _phases()[-1], [0.5] * 100)
    assert not monitor.should_stop(last, rules, last_phase=_phases()[-1])
