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
    first_step = 0
    for phase in phases:
        steps = max(1, int(phase["epochs"] * examples / global_batch))
        phase_peak = peak_lr * phase["lr_scale"]
        plans.append(
            PhasePlan(
                first_step=first_step,
                end_step=first_step + steps,
                warmup_steps=min(steps, int(phase["warmup_epochs"] * examples / global_batch)),
                peak_lr=phase_peak,
                final_lr=phase_peak * phase["final_lr_fraction"],
                trainable=phase["trainable"],
                freeze_batch_norm=phase["freeze_batch_norm"],
            )
        )
        first_step += steps
    return plans


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
