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
class Advice:
    setting: str | None  # None: leave everything as it is
    reason: str  # whole sentences
    cpu_s: float | None = None  # per 1,000 images with it, where that was measured


def advise(
    cpu_s: float,
    bottleneck: costs_lib.Bottleneck,
    alternatives: Sequence[Alternative],
    *,
    cores: float,
    images_per_s: float,
    accelerator_rate: float | None,
) -> Advice:
    """The first setting, in the order of how little it changes what the model sees, that is worth it.

    Args:
      cpu_s: per 1,000 images, all stages, as configured.
      images_per_s: what this host feeds as configured.
      accelerator_rate: images per second that the accelerators of this host train on, if known.
    """
    if accelerator_rate is not None and images_per_s >= MARGIN * accelerator_rate:
        return Advice(None, f"The accelerator's {accelerator_rate:,.0f} images/s are met with room to spare.")
    if bottleneck.name == costs_lib.STORAGE:
        return Advice(
            "a faster place for --data",
            "The CPUs wait for the storage: copy the dataset to a local disk, or prepare it with a larger "
            "--max_workers, so that more shards are read at once.",
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
        return Advice(worth[0].setting, worth[0].price, worth[0].cpu_s)
    enough = [found for found in worth if costs_lib.rate(found.cpu_s, cores) >= accelerator_rate]
    if enough:
        return Advice(enough[0].setting, enough[0].price, enough[0].cpu_s)
    best = min(worth, key=lambda found: found.cpu_s, default=None)
    best_cpu_s = best.cpu_s if best else cpu_s
    needed = math.ceil(accelerator_rate * cpu_s / 1000)
    with_best = f", {math.ceil(accelerator_rate * best_cpu_s / 1000):,} with {best.setting}" if best else ""
    return Advice(
        "--input_service",
        f"No single setting feeds {accelerator_rate:,.0f} images/s from {cores:g} cores: that takes {needed:,} cores "
        f"like these as it is configured{with_best}, so other hosts have to help.",
    )
