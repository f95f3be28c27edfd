"""Measured passes in; what each stage costs, which one is the bottleneck and what rate follows out. Pure arithmetic."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from pipeline.doctor.clock import Spent

STORAGE = "storage"
SERIAL = "batch"  # the stage that one thread does alone, whatever the number of cores


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one stage; CPU seconds are per 1,000 images."""

    name: str
    own_cpu_s: float  # of this stage alone
    cpu_s: float  # of it and all before it
    images_per_s: float  # as measured, on this host as busy as it was
    noise: bool  # what it costs by itself can't be told from nothing


@dataclasses.dataclass(frozen=True)
class Bottleneck:
    name: str  # of a stage, or `STORAGE`
    share: float  # of the CPU time that an image takes; of storage, 1


def of_stages(names: Sequence[str], found: Mapping[str, Sequence[Spent]]) -> tuple[Cost, ...]:
    """The cost of each stage from passes that end behind it.

    A stage's own cost is the median of the differences to the stage before it, repeat by repeat: what disturbs one
    repeat disturbs both. Where the lower quartile is not above zero, it is called noise.

    Args:
      names: in the order of the stages.
      found: of each name equally many passes.
    """
    before = [0.0] * len(found[names[0]])
    costs: list[Cost] = []
    for name in names:
        so_far = [spent.cpu_s_per_1000 for spent in found[name]]
        own = [after - earlier for after, earlier in zip(so_far, before, strict=True)]
        costs.append(
            Cost(
                name=name,
                own_cpu_s=statistics.median(own),
                cpu_s=statistics.median(so_far),
                images_per_s=statistics.median(spent.images_per_s for spent in found[name]),
                noise=statistics.quantiles(own, n=4, method="inclusive")[0] <= 0,
            )
        )
        before = so_far
    return tuple(costs)


def bottleneck(costs: Sequence[Cost], *, cores: float, storage_images_per_s: float | None) -> Bottleneck:
    """The stage that takes most of the CPU, or the storage where that is slower than the CPUs.

    Args:
      storage_images_per_s: how many images a second were read when nothing of them was in memory yet; None where that
        is not known or does not matter.
    """
    if storage_images_per_s is not None and storage_images_per_s < rate(costs[-1].cpu_s, cores):
        return Bottleneck(STORAGE, 1.0)
    most = max(costs, key=lambda cost: cost.own_cpu_s)
    # Not of the last stage's `cpu_s`: own costs are medians of differences, and one of them may be more than that.
    return Bottleneck(most.name, most.own_cpu_s / sum(max(0.0, cost.own_cpu_s) for cost in costs))


def serial_cpu_s(costs: Sequence[Cost]) -> float:
    """What one thread does alone, in CPU seconds per 1,000 images; 0 where that can't be told from nothing."""
    (serial,) = (cost for cost in costs if cost.name == SERIAL)
    return 0.0 if serial.noise else serial.own_cpu_s


def rate(cpu_s_per_1000: float, cores: float, serial_cpu_s_per_1000: float = 0.0) -> float:
    """Images a second that `cores` make if they do nothing else.

    Args:
      serial_cpu_s_per_1000: the part that one thread does alone, and that more cores don't make faster.
    """
    return 1000 / max(cpu_s_per_1000 / cores, serial_cpu_s_per_1000)
