"""Evaluations in; which was the best, whether to wait for a better one, and how far a plateau has lowered the rate out.

All of it is pure, and `Standing` goes into every checkpoint, so that a run that was killed decides as it would have.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from trainer.schedule import PhasePlan


@dataclasses.dataclass(frozen=True)
class Rules:
    """What counts as better, and for how long to wait for it; see `configs.schema.Monitor`."""

    metric: str
    min_delta: float
    patience: int | None
    restore_best: bool

    def is_gain(self, value: float | None, best: float | None) -> bool:
        """Whether `value` is better than `best` by more than `min_delta`; what is no number never is."""
        if value is None or not math.isfinite(value):
            return False
        if best is None:
            return True
        return value + self.min_delta < best if self.metric == "loss" else value - self.min_delta > best


@dataclasses.dataclass(frozen=True)
class Standing:
    """What the evaluations so far have come to."""

    best: float | None = None
    best_step: int | None = None
    phase_first_step: int = 0  # which phase the following belong to
    phase_best: float | None = None
    waited: int = 0  # evaluations since the phase's last gain
    plateau_waited: int = 0  # the same, or since the rate was last lowered
    plateau_factor: float = 1.0  # times the phase's rate

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Standing:
        return cls(**value)


def enter(standing: Standing, phase: PhasePlan) -> Standing:
    """A phase's waiting begins anew with it, and so does its rate; the best stays the best of all phases.

    What it waits for is a gain over the phase's own best: what was frozen and now trains often falls behind first.
    """
    if standing.phase_first_step == phase.first_step:
        return standing
    return Standing(standing.best, standing.best_step, phase_first_step=phase.first_step)


def after_evaluation(
    standing: Standing, rules: Rules, metrics: Mapping[str, Any], step: int, phase: PhasePlan, *, due: bool = True
) -> Standing:
    """The standing after an evaluation of the weights that `phase` had after global step `step`.

    Waiting is counted as `keras.callbacks.EarlyStopping` and `ReduceLROnPlateau` (without cooldown) count it when each
    phase has its own.

    Args:
      metrics: `rules.metric` among them.
      due: whether it is one of the regular ones; another can be the best, and leaves the waiting as it is.
    """
    value, standing = metrics[rules.metric], enter(standing, phase)
    if due:
        standing = _wait(standing, rules, value, phase)
    if rules.is_gain(value, standing.best):
        return dataclasses.replace(standing, best=value, best_step=step)
    return standing


def _wait(standing: Standing, rules: Rules, value: float | None, phase: PhasePlan) -> Standing:
    if rules.is_gain(value, standing.phase_best):
        return dataclasses.replace(standing, phase_best=value, waited=0, plateau_waited=0)
    standing = dataclasses.replace(standing, waited=standing.waited + 1)
    if phase.schedule != "plateau":
        return standing
    assert phase.patience is not None
    assert phase.decay_rate is not None
    assert phase.final_lr_fraction is not None
    waited, factor = standing.plateau_waited + 1, standing.plateau_factor
    if waited >= phase.patience:
        waited, factor = 0, max(phase.final_lr_fraction, factor * phase.decay_rate)
    return dataclasses.replace(standing, plateau_waited=waited, plateau_factor=factor)


def should_stop(standing: Standing, rules: Rules, *, last_phase: PhasePlan) -> bool:
    """Whether to give up waiting. Only in the last phase: an earlier one is there to prepare for those that follow."""
    in_last = standing.phase_first_step == last_phase.first_step
    return rules.patience is not None and in_last and standing.waited >= rules.patience
