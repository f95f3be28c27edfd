"""When what trains, and how fast: phases in epochs go in, phases in steps and a learning rate for any step come out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class PhasePlan:
    """One phase in global steps: from `first_step` up to but not including `end_step`."""

    first_step: int
    end_step: int
    warmup_steps: int
    peak_lr: float
    final_lr: float
    trainable: str
    freeze_batch_norm: bool


def plan(phases: Sequence[Mapping[str, Any]], *, examples: int, global_batch: int, peak_lr: float) -> list[PhasePlan]:
    """Lays the phases (fields of `configs.schema.Phase`) end to end. Each has at least one step.

    Epochs are counted in examples and rounded once per phase, as big_vision does: 2.5 epochs of 1,000 examples at a
    batch of 32 are 78 steps.
    """
    plans: list[PhasePlan] = []
    for phase in phases:
        first_step = plans[-1].end_step if plans else 0
        plans.append(_plan_one(first_step, examples / global_batch, peak_lr, **phase))
    return plans


def _plan_one(
    first_step: int,
    steps_per_epoch: float,
    peak_lr: float,
    *,
    epochs: float,
    trainable: str,
    freeze_batch_norm: bool,
    lr_scale: float,
    warmup_epochs: float,
    final_lr_fraction: float,
) -> PhasePlan:
    steps = max(1, int(epochs * steps_per_epoch))
    return PhasePlan(
        first_step=first_step,
        end_step=first_step + steps,
        warmup_steps=min(steps, int(warmup_epochs * steps_per_epoch)),
        peak_lr=peak_lr * lr_scale,
        final_lr=peak_lr * lr_scale * final_lr_fraction,
        trainable=trainable,
        freeze_batch_norm=freeze_batch_norm,
    )


def learning_rate(step: int, phase: PhasePlan) -> float:
    """Linear warmup from zero, then half a cosine from `peak_lr` to `final_lr`.

    SGDR without restarts, equation 5 (https://arxiv.org/abs/1608.03983); warmup as in section 2.2 of
    https://arxiv.org/abs/1706.02677. The step after the warmup's last runs at the peak; a warmup step is never at zero,
    because such a step would be paid for and wasted.
    """
    done = step - phase.first_step
    if done < phase.warmup_steps:
        return phase.peak_lr * (done + 1) / (phase.warmup_steps + 1)
    progress = (done - phase.warmup_steps) / max(1, phase.end_step - phase.first_step - phase.warmup_steps)
    return phase.final_lr + (phase.peak_lr - phase.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
