"""What an examination found: every measurement and what was concluded from it, as plain values."""

from __future__ import annotations

import dataclasses

from pipeline.doctor import advice as advice_lib
from pipeline.doctor import costs as costs_lib


@dataclasses.dataclass(frozen=True)
class EndToEnd:
    """`training.batches` itself, in an epoch after the first where there is a cache."""

    cpu_s: float  # per 1,000 images
    images_per_s: float
    cores: float  # that this process had on average
    others: float | None  # cores that other processes had meanwhile, where that is known


@dataclasses.dataclass(frozen=True)
class Shuffle:
    """What waits in memory at once so that its order can be mixed."""

    examples: int
    bytes: int
    whole: bool  # it is the whole split: every order of it is equally likely


@dataclasses.dataclass(frozen=True)
class Findings:
    """CPU seconds are per 1,000 images throughout."""

    name: str
    version: str
    split: str
    examples: int
    shards: int
    image_bytes: float  # stored, on average
    pixels: float  # likewise
    image_size: int
    global_batch: int
    sample: int  # examples that the stages were measured on
    cache_asked: str
    cache: str
    cache_reason: str
    shuffle: Shuffle
    first_epoch: tuple[costs_lib.Cost, ...]  # from storage
    later_epochs: tuple[costs_lib.Cost, ...]  # from the cache; the same as `first_epoch` without one
    end_to_end: EndToEnd
    alternatives: tuple[advice_lib.Alternative, ...]
    bottleneck: costs_lib.Bottleneck
    storage_images_per_s: float | None  # when nothing was in memory yet; None where that was too fast to tell
    cores: float
    asked_cores: int | None
    accelerator_rate: float | None
    advice: advice_lib.Advice

    @property
    def cpu_s(self) -> float:
        """All stages together, in the epochs that most of training consists of."""
        return self.later_epochs[-1].cpu_s

    def rate(self, cores: float) -> float:
        """Images a second that a host of so many cores feeds, by what `training.batches` itself was measured to take.

        One thread puts batches together, so beyond some number of cores no more help.
        """
        return costs_lib.rate(self.end_to_end.cpu_s, cores, self.serial_cpu_s)

    @property
    def serial_cpu_s(self) -> float:
        return costs_lib.serial_cpu_s(self.later_epochs)

    @property
    def advised_cores(self) -> float:
        """Of the host that the advice is for: the one that was asked about, or else this one."""
        return self.cores if self.asked_cores is None else self.asked_cores
