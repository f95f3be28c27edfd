"""What an image costs and what it would cost with other settings in; the one setting to change, and why, out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from pipeline.doctor import costs as costs_lib

# Better than this, or it is not worth a change: repeats of one measurement differ by a few per cent.
LEAST_GAIN = 0.1
# Preparing a dataset again has to be worth it to somebody who has not said that the input is too slow.
LEAST_GAIN_OF_PREPARING = 0.25
# Input that is only just as fast as the accelerator makes it wait whenever a batch is late.
MARGIN = 1.1


@dataclasses.dataclass(frozen=True)
class Alternative:
    """The same images made with one other setting, measured in the same run."""

    setting: str  # as it is typed
    cpu_s: float  # per 1,000 images, all stages
    price: str  # what it costs otherwise; one sentence
    changes: str  # "nothing" that the model sees, its "pixels", the "step", or the "model"


_ORDER = ("nothing", "pixels", "step", "model")


@dataclasses.dataclass(frozen=True)
class Host:
    """Whom the advice is for."""

    cores: float
    overhead: float  # CPU time of `training.batches` itself as a multiple of its stages', with any setting
    serial_cpu_s: float  # per 1,000 images, what one thread does alone

    def cores_for(self, images_per_s: float, cpu_s: float) -> int:
        """How many cores like its own it takes where an image takes `cpu_s`, per 1,000 images, in the stages."""
        return math.ceil(images_per_s * self.overhead * cpu_s / 1000)

    def rate(self, cpu_s: float) -> float:
        """Images a second that it feeds then."""
        return costs_lib.rate(self.overhead * cpu_s, self.cores, self.serial_cpu_s)


@dataclasses.dataclass(frozen=True)
class Advice:
    setting: str | None  # None: leave everything as it is
    reason: str  # whole sentences
    cpu_s: float | None = None  # per 1,000 images with it, all stages, where that was measured
    images_per_s: float | None = None  # that the host feeds with it, likewise


def advise(
    cpu_s: float,
    bottleneck: costs_lib.Bottleneck,
    alternatives: Sequence[Alternative],
    *,
    host: Host,
    accelerator_rate: float | None,
) -> Advice:
    """The first setting, in the order of how little it changes what the model sees, that is worth it.

    Args:
      cpu_s: per 1,000 images, all stages, as configured.
      bottleneck: of `host`.
      accelerator_rate: images per second that the accelerators of this host train on, if known.
    """
    if accelerator_rate is not None and host.rate(cpu_s) >= MARGIN * accelerator_rate:
        return Advice(
            None,
            f"The accelerator's {accelerator_rate:,.0f} images/s are met with room to spare by {host.cores:g} cores.",
        )
    if bottleneck.name == costs_lib.STORAGE:
        return Advice(
            "a faster place for --data",
            f"With {host.cores:g} cores the CPUs wait for the storage: copy the dataset to a local disk, or prepare it "
            "with a larger --max_workers, so that more shards are read at once.",
        )
    worth = [found for found in alternatives if found.cpu_s < (1 - LEAST_GAIN) * cpu_s]
    worth.sort(key=lambda found: (_ORDER.index(found.changes), found.cpu_s))
    if accelerator_rate is None:
        # What changes the model or its step has a price that nobody has to pay without need.
        least = {"nothing": LEAST_GAIN, "pixels": LEAST_GAIN_OF_PREPARING}
        worth = [found for found in worth if found.cpu_s < (1 - least.get(found.changes, 1)) * cpu_s]
        if not worth:
            return Advice(
                None,
                "No setting tried here saves enough to be worth a change; where the accelerator waits, more cores or "
                "an input service (--input_service) are what is left.",
            )
        return _take(worth[0], host)
    # Where one thread is what limits it, a setting that saves CPU time makes nothing faster.
    enough = [found for found in worth if accelerator_rate <= host.rate(found.cpu_s) > host.rate(cpu_s)]
    if enough:
        return _take(enough[0], host)
    if host.rate(cpu_s) >= accelerator_rate:
        return Advice(
            None,
            f"The accelerator's {accelerator_rate:,.0f} images/s are only just met by {host.cores:g} cores, and no "
            "setting tried here gives enough more to be worth a change; where the accelerator waits, an input service "
            "(--input_service) is what is left.",
        )
    best = min(worth, key=lambda found: found.cpu_s, default=None)
    return Advice("--input_service", _why_others(cpu_s, best, host, accelerator_rate))


def _take(found: Alternative, host: Host) -> Advice:
    return Advice(found.setting, found.price, found.cpu_s, host.rate(found.cpu_s))


def _why_others(cpu_s: float, best: Alternative | None, host: Host, accelerator_rate: float) -> str:
    """Why `host` can't feed its accelerators, not with the best setting either."""
    if host.serial_cpu_s and accelerator_rate > 1000 / host.serial_cpu_s:
        return (
            f"No number of cores feeds {accelerator_rate:,.0f} images/s from one host, as one thread puts the batches "
            f"together, {1000 / host.serial_cpu_s:,.0f} images/s at most: other hosts have to help."
        )
    with_best = f", {host.cores_for(accelerator_rate, best.cpu_s):,} with {best.setting}" if best else ""
    return (
        f"No single setting feeds {accelerator_rate:,.0f} images/s from {host.cores:g} cores: that takes "
        f"{host.cores_for(accelerator_rate, cpu_s):,} cores like these as it is configured{with_best}, so other hosts "
        "have to help."
    )
