"""When what trains, and how fast: phases in epochs go in, phases in steps and a learning rate for any step come out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import InputError

# What each schedule asks for, and what it takes where nothing is said.
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "cosine": {"final_lr_fraction": 0.0},
    "exponential": {"decay_rate": 0.97, "decay_epochs": 2.4},  # EfficientNet's (https://arxiv.org/abs/1905.11946, 5.2)
    # ResNet's tenth (https://arxiv.org/abs/1512.03385, 3.4). It comes every third of what follows the warmup, as
    # ImageNet's 90 epochs are divided by 30 (https://arxiv.org/abs/1706.02677, 5.1).
    "step": {"decay_rate": 0.1, "decay_epochs": None},
    "constant": {},
    # The same tenth; after three of them training is over.
    "plateau": {"final_lr_fraction": 0.001, "decay_rate": 0.1, "patience": 5},
}
_LEAST_LR = 1e-38  # about the smallest normal float32: below it a step moves nothing
_GRAIN = 1e-9  # 0.29 epochs of 100 steps are 28.999999999999996 in floating point, and 0.07 are 7.000000000000001


@dataclasses.dataclass(frozen=True)
class PhasePlan:
    """One phase in global steps: from `first_step` up to but not including `end_step`.

    A field that its schedule doesn't have is None. `trainer.monitor` follows `plateau`'s: here its rate is constant.
    """

    first_step: int
    end_step: int
    warmup_steps: int
    peak_lr: float
    trainable: str
    freeze_batch_norm: bool
    cached_features: bool
    schedule: str
    final_lr_fraction: float | None  # of peak_lr
    decay_rate: float | None
    decay_steps: float | None
    patience: int | None  # evaluations

    def __post_init__(self) -> None:
        steps = self.end_step - self.first_step
        if not (self.first_step >= 0 and steps >= 1 and 0 <= self.warmup_steps <= steps and self.peak_lr > 0):
            raise ValueError(f"{self} is no phase")
        if self.schedule not in _SETTINGS:
            raise ValueError(f"schedule={self.schedule!r}: expected one of {', '.join(_SETTINGS)}")
        asked = {"decay_steps" if name == "decay_epochs" else name for name in _SETTINGS[self.schedule]}
        for name in ("final_lr_fraction", "decay_rate", "decay_steps", "patience"):
            if (getattr(self, name) is not None) != (name in asked):
                raise ValueError(f"{name}={getattr(self, name)} with schedule={self.schedule!r}")
        for name, low, high in (
            ("final_lr_fraction", 0, 1), ("decay_rate", 0, 1), ("decay_steps", 0, math.inf), ("patience", 1, math.inf)
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name}={value}: expected {low} to {high}")


def plan(phases: Sequence[Mapping[str, Any]], *, examples: int, global_batch: int, peak_lr: float) -> list[PhasePlan]:
    """Lays the phases (fields of `configs.schema.Phase`) end to end. Each has at least one step.

    Epochs are counted in examples and rounded down once per phase, as big_vision does: 2.5 epochs of 1,000 examples at
    a batch of 32 are 78 steps.

    Args:
      examples: of the training split.
      peak_lr: times the phase's `lr_scale` is its peak.

    Raises:
      InputError: where a warmup is longer than its phase, a schedule doesn't have a setting, or a rate falls to
        nothing before its phase ends.
    """
    plans: list[PhasePlan] = []
    for index, phase in enumerate(phases):
        first_step = plans[-1].end_step if plans else 0
        plans.append(_plan_one(f"phases[{index}]", first_step, examples / global_batch, peak_lr, **phase))
    return plans


def _plan_one(
    name: str,
    first_step: int,
    steps_per_epoch: float,
    peak_lr: float,
    *,
    epochs: float | None,
    steps: int | None,
    trainable: str,
    freeze_batch_norm: bool,
    cached_features: bool,
    lr_scale: float,
    schedule: str,
    warmup_epochs: float,
    **settings: Any,
) -> PhasePlan:
    if steps is None:
        if epochs is None:
            raise InputError(f"{name}: neither epochs nor steps is set; give one of the two")
        steps = max(1, math.floor(epochs * steps_per_epoch + _GRAIN))
    warmup_steps = math.floor(warmup_epochs * steps_per_epoch + _GRAIN)
    if warmup_steps > steps:
        raise InputError(
            f"{name}.warmup_epochs={warmup_epochs}: its {warmup_steps} steps are more than the phase's {steps}; "
            "shorten the warmup or lengthen the phase"
        )
    settings = _complete(name, schedule, settings)
    decay_epochs = settings.pop("decay_epochs")
    decay_steps = None if decay_epochs is None else decay_epochs * steps_per_epoch
    if schedule == "step" and decay_steps is None:
        decay_steps = max(1.0, (steps - warmup_steps) / 3)
    phase = PhasePlan(
        first_step=first_step,
        end_step=first_step + steps,
        warmup_steps=warmup_steps,
        peak_lr=peak_lr * lr_scale,
        trainable=trainable,
        freeze_batch_norm=freeze_batch_norm,
        cached_features=cached_features,
        schedule=schedule,
        decay_steps=decay_steps,
        **settings,
    )
    # Cosine ends at zero by its nature, and after its last step; these get there only by a setting that went wrong.
    if schedule in ("exponential", "step") and learning_rate(phase.end_step - 1, phase) < _LEAST_LR:
        raise InputError(
            f"{name}.decay_rate={phase.decay_rate} every {decay_steps:g} steps leaves no learning rate before the "
            f"phase's {steps} steps are over; raise decay_rate or decay_epochs"
        )
    return phase


def _complete(name: str, schedule: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with the schedule's own where they are None."""
    if schedule not in _SETTINGS:
        raise InputError(f"{name}.schedule={schedule!r}: expected one of {', '.join(_SETTINGS)}")
    own = _SETTINGS[schedule]
    for field, value in settings.items():
        if value is not None and field not in own:
            raise InputError(f"{name}.{field}={value}: schedule={schedule!r} has none; leave it None")
    return {field: own.get(field) if value is None else value for field, value in settings.items()}


def phase_at(plans: Sequence[PhasePlan], step: int) -> PhasePlan:
    """The phase that the step after `step` global ones belongs to; ValueError where all of them are over."""
    for phase in plans:
        if phase.first_step <= step < phase.end_step:
            return phase
    raise ValueError(f"step={step}: the phases take {plans[-1].end_step} steps")


def learning_rate(step: int, phase: PhasePlan) -> float:
    """Linear warmup from zero to `peak_lr`, then the phase's schedule, which counts from the end of the warmup.

    With d steps after the warmup and D of them in the phase:
      cosine: f + (1 - f) * (1 + cos(pi * d / D)) / 2 of the peak, f being `final_lr_fraction`; SGDR without restarts,
        equation 5 (https://arxiv.org/abs/1608.03983).
      exponential: decay_rate ** (d / decay_steps), smooth, where EfficientNet's authors take stairs.
      step: decay_rate ** floor(d / decay_steps).
      constant, plateau: the peak; `plateau`'s factor comes from outside.

    Warmup as in section 2.2 of https://arxiv.org/abs/1706.02677. The step after the warmup's last runs at the peak; a
    warmup step is never at zero, because such a step would be paid for and wasted.

    Args:
      step: global steps taken before this one, within the phase.
    """
    done = step - phase.first_step
    if done < phase.warmup_steps:
        return phase.peak_lr * (done + 1) / (phase.warmup_steps + 1)
    done -= phase.warmup_steps
    return phase.peak_lr * _fraction(done, phase.end_step - phase.first_step - phase.warmup_steps, phase)


def _fraction(done: int, steps: int, phase: PhasePlan) -> float:
    """Of the peak, `done` of `steps` steps after the warmup."""
    if phase.schedule == "cosine":
        assert phase.final_lr_fraction is not None
        falling = 0.5 * (1 + math.cos(math.pi * done / max(1, steps)))
        return phase.final_lr_fraction + (1 - phase.final_lr_fraction) * falling
    if phase.schedule in ("exponential", "step"):
        assert phase.decay_rate is not None
        assert phase.decay_steps is not None
        factors = done / phase.decay_steps
        return float(phase.decay_rate ** (math.floor(factors + _GRAIN) if phase.schedule == "step" else factors))
    return 1.0
