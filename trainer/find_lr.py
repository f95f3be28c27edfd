"""A dataset and an experiment's settings in; the learning rates worth trying, with a plot of why, out.

The learning-rate range test: the rate rises from far too low to far too high within some steps, and the loss shows
where that begins to help and where to hurt. Cyclical Learning Rates for Training Neural Networks, section 3.3
(https://arxiv.org/abs/1506.01186); with rates that rise by a factor, and the two suggestions that fastai made usual.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm
from matplotlib.figure import Figure

from pipeline import manifest as manifest_lib
from pipeline import storage
from pipeline.errors import InputError
from trainer import learner, probe, strategies

LOWEST, HIGHEST = 1e-7, 10.0  # below and above what any optimizer here trains with
STEPS = 100
LEAST_STEPS = 20  # fewer leave two points for each power of ten
# The mean looks back about 1 / (1 - SMOOTHING) steps: of 100 from 1e-7 to 10, over less than a power of ten.
SMOOTHING = 0.9
DIVERGED = 4.0  # times the best smoothed loss
_HALF = 10**0.5  # half a power of ten


class Suggestion(NamedTuple):
    steepest: float  # the rate at which the smoothed loss falls fastest
    minimum: float  # the rate at which it is lowest

    @property
    def tenth(self) -> float:
        """A power of ten below the minimum, where the loss is about to rise again."""
        return self.minimum / 10


def rates(lowest: float, highest: float, steps: int) -> list[float]:
    """`steps` learning rates from `lowest` to `highest`, each the same factor above the one before.

    Raises:
      InputError: where they don't rise, or are fewer than `LEAST_STEPS`.
    """
    if not 0 < lowest < highest < math.inf:
        raise InputError(f"learning rates from {lowest} to {highest}: expected 0 < lowest < highest")
    if steps < LEAST_STEPS:
        raise InputError(f"--steps={steps}: expected at least {LEAST_STEPS}")
    return [lowest * (highest / lowest) ** (i / (steps - 1)) for i in range(steps)]


def smooth(losses: Sequence[float], smoothing: float = SMOOTHING) -> list[float]:
    """The exponential moving average up to each loss, divided by the sum of its weights (Adam's bias correction)."""
    smoothed, mean = [], 0.0
    for count, loss in enumerate(losses, 1):
        mean = smoothing * mean + (1 - smoothing) * loss
        smoothed.append(mean / (1 - smoothing**count))
    return smoothed


def diverged(smoothed: Sequence[float]) -> bool:
    """Whether the last value is no number, or `DIVERGED` times the lowest of all."""
    return not math.isfinite(smoothed[-1]) or smoothed[-1] > DIVERGED * min(smoothed)


def suggest(tried: Sequence[float], smoothed: Sequence[float]) -> Suggestion | None:
    """Where the smoothed loss is lowest, and where before that it falls fastest along the rate's logarithm.

    Args:
      tried: rates as `rates` gives them, or the first of them.
      smoothed: the losses at these, all finite.

    Returns:
      None where the loss never falls.
    """
    begin = len(tried) // 10  # the average has no past at first and moves with every batch
    minimum = tried[begin + int(np.argmin(smoothed[begin:]))]
    slopes = {rate: _slope(tried, smoothed, rate) for rate in tried[begin:] if rate * _HALF <= minimum}
    steepest = min(slopes, key=slopes.__getitem__, default=None)
    return None if steepest is None or slopes[steepest] >= 0 else Suggestion(steepest, minimum)


def _slope(tried: Sequence[float], losses: Sequence[float], rate: float) -> float:
    """Loss per power of ten around `rate`, of the straight line that fits a power of ten; 0 where there is no line.

    From one point to the next it would be noise: on banana leaves (ImageNet's MobileNetV2, all of it trained) that fell
    fastest at 3e-6, 300 times below the minimum, in a plot whose slope anybody sees around 1e-4.
    """
    near = [index for index, other in enumerate(tried) if rate / _HALF <= other <= rate * _HALF]
    if len(near) < 3:
        return 0.0
    x, y = np.log10([tried[index] for index in near]), np.asarray([losses[index] for index in near])
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum())


def sweep(step: Callable[[float], float], tried: Sequence[float]) -> list[float]:
    """The loss of one step at each rate, up to the one with which it diverges; one that is no number is left out."""
    losses: list[float] = []
    for rate in tqdm.tqdm(tried, unit="step", disable=not sys.stderr.isatty()):
        loss = step(rate)
        if not math.isfinite(loss):
            break
        losses.append(loss)
        if diverged(smooth(losses)):
            break
    return losses


def run(
    *,
    data: str,
    settings: Mapping[str, Any],
    out: str,
    strategy: str,
    steps: int = STEPS,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
) -> Suggestion | None:
    """Tries rates on real batches of the first phase, writes `find_lr.png` and `find_lr.csv` to `out`, prints one line.

    Args:
      data: the dataset's folder.
      settings: fields of `configs.schema.Config`.
      strategy: see `strategies.connect`.

    Returns:
      Learning rates of the first phase, which is `lr_scale` times optimizer.peak_lr; None where the loss never fell.

    Raises:
      InputError: where data, settings and cluster don't go together.
    """
    tried = rates(lowest, highest, steps)
    manifest = manifest_lib.load(data)
    manifest_lib.verify(data, manifest, [settings["train_split"]])
    cluster = strategies.connect(strategy)
    phase = settings["phases"][0]
    probed = probe.build(manifest, cluster, settings, phase, load_weights=True)
    batches = learner.batches(data, manifest, settings, cluster)
    stream, deal = iter(batches), strategies.distributor(cluster)
    losses = sweep(lambda rate: float(probed.step(deal(next(stream)), rate)), tried)
    batches.close()
    tried = tried[: len(losses)]
    found = suggest(tried, smooth(losses)) if losses else None
    if cluster.is_chief:
        storage.write_text(storage.join(out, "find_lr.csv"), table(tried, losses))
        storage.write_bytes(storage.join(out, "find_lr.png"), plot(tried, losses, found))
        print(describe(found, phase["lr_scale"], storage.join(out, "find_lr.png")))
    return found


def describe(found: Suggestion | None, lr_scale: float, path: str) -> str:
    """One line for the user, in values of optimizer.peak_lr."""
    if found is None:
        return f"the loss never fell: see {path}, and try `--overfit_one_batch`"
    return (
        f"the loss falls fastest at optimizer.peak_lr={found.steepest / lr_scale:.1e} and is lowest at "
        f"{found.minimum / lr_scale:.1e}; try a tenth of that, --config.optimizer.peak_lr={found.tenth / lr_scale:.1e} "
        f"({path})"
    )


def table(tried: Sequence[float], losses: Sequence[float]) -> str:
    """CSV with a row for each step."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["learning_rate", "loss", "smoothed_loss"])
    writer.writerows(zip(tried, losses, smooth(losses), strict=True))
    return stream.getvalue()


def plot(tried: Sequence[float], losses: Sequence[float], found: Suggestion | None) -> bytes:
    """PNG of the losses, raw and smoothed, over the logarithm of the rate, with the suggestions marked."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    smoothed = smooth(losses)
    axes.plot(tried, losses, color="0.8", linewidth=1, label="loss of each batch")
    axes.plot(tried, smoothed, color="tab:blue", label="smoothed")
    if found:
        at = dict(zip(tried, smoothed, strict=True))
        axes.axvline(
            found.tenth, color="tab:green", linestyle="--", label=f"a tenth of the minimum's: {found.tenth:.1e}"
        )
        axes.plot(found.steepest, at[found.steepest], "o", color="tab:red", label=f"steepest: {found.steepest:.1e}")
        axes.plot(found.minimum, at[found.minimum], "o", color="tab:blue", label=f"minimum: {found.minimum:.1e}")
    axes.set_xscale("log")
    if smoothed:  # single batches at the end would squeeze everything else flat
        low, high = min(smoothed), max(smoothed[: max(1, len(smoothed) * 9 // 10)])
        margin = 0.15 * (high - low) + 1e-6
        axes.set_ylim(low - margin, high + margin)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()
