"""Losses in; what went wrong, with the images that it went wrong on, or nothing out. And the one way back.

A loss that is no number never becomes one again, and some runs don't recover from a spike. PaLM's authors went back 100
steps and skipped the batches (https://arxiv.org/abs/2204.02311, section 5.1); here the order of examples is a promise,
so the same batches come again, at a lower rate.
"""

from __future__ import annotations

import collections
import logging
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from pipeline import manifest as manifest_lib
from pipeline import storage, training
from pipeline.augmentations.augment import Augment
from pipeline.errors import InputError

FILE = "divergence.json"
_ROLLBACK_FILE = "rollback.json"
_WINDOW = 100  # losses that the median is of: it has to follow a falling loss, and not a few odd batches
_LEAST = 20  # fewer say little, and the first losses fall fast by themselves
_FLOOR = 0.01  # below it losses are noise around nothing, and a hundred times nothing is nothing
_SHOWN_IDS = 3
LR_FACTOR = 0.5  # the usual first thing to try by hand, and enough where the rate was only just too high


class Divergence(NamedTuple):
    """What is wrong with the step that led to global step `step`."""

    step: int
    what: str


class DivergedError(FloatingPointError):
    """Training can't go on; the message says what happened, on which images, and what there is to go back to."""


class Watch:
    """Looks at every step's loss, in order."""

    def __init__(self, *, spike_factor: float | None, losses: Iterable[float] = ()) -> None:
        """Args: spike_factor: see `configs.schema.Divergence`; losses: of a watch that this one goes on for."""
        self._spike_factor = spike_factor
        self._losses: collections.deque[float] = collections.deque(losses, maxlen=_WINDOW)

    @property
    def losses(self) -> tuple[float, ...]:
        """The last ones, which the next are compared with."""
        return tuple(self._losses) if self._spike_factor is not None else ()

    def restart(self) -> None:
        """Forgets what was seen: another phase's losses say nothing about this one's."""
        self._losses.clear()

    def look(self, losses: Iterable[tuple[int, float]]) -> Divergence | None:
        """The first of `losses`, (global step, loss), that is no number or a spike."""
        for step, loss in losses:
            if not math.isfinite(loss):
                return Divergence(step, f"the loss became {loss}")
            if self._spike_factor is not None and len(self._losses) >= _LEAST:
                median = max(statistics.median(self._losses), _FLOOR)
                if loss > self._spike_factor * median:
                    return Divergence(
                        step, f"the loss jumped to {loss:.4g}, {loss / median:.3g} times the median of those before it"
                    )
            self._losses.append(loss)
        return None


def not_finite(net: keras.Model, step: int) -> Divergence | None:
    """Weights can break in a step whose loss was still a number; they must not be saved."""
    for variable in net.variables:
        if tf.as_dtype(variable.dtype).is_floating and not bool(tf.reduce_all(tf.math.is_finite(variable.value))):
            return Divergence(step, f"{variable.path} is no longer finite")
    return None


class Rollback(NamedTuple):
    """How often a run went back, and by what its rate is multiplied since then."""

    times: int = 0
    lr_factor: float = 1.0


def load_rollback(workdir: str) -> Rollback:
    path = storage.join(workdir, _ROLLBACK_FILE)
    if not storage.exists(path):
        return Rollback()
    value = storage.read_json(path)
    return Rollback(int(value["times"]), float(value["lr_factor"]))


def roll_back(workdir: str, before: Rollback, *, lr_factor: float, is_chief: bool) -> Rollback:
    """Notes that the run goes back, before it does: a process that is killed on the way finds that it has."""
    after = Rollback(before.times + 1, before.lr_factor * lr_factor)
    if is_chief:
        storage.write_json(storage.join(workdir, _ROLLBACK_FILE), after._asdict())
    return after


def forget_rollback(workdir: str) -> None:
    """For a run that begins in a folder where another one was."""
    path = storage.join(workdir, _ROLLBACK_FILE)
    if storage.exists(path):
        storage.remove_tree(path)


def report(
    found: Divergence,
    *,
    workdir: str,
    data: str,
    manifest: manifest_lib.Manifest,
    settings: Mapping[str, Any],
    last_good_step: int | None,
    is_chief: bool,
) -> str:
    """Writes `divergence.json`, with the ids of the step's whole global batch, and says it in one line.

    What keeps it from being written keeps nobody from going back: the line then says less.
    """
    path, where = storage.join(workdir, FILE), ""
    try:
        ids = batch_ids(data, manifest, settings, step=found.step)
        if is_chief:
            content = {"step": found.step, "what": found.what, "last_good_step": last_good_step, "ids": ids}
            storage.write_json(path, content)
        shown = ", ".join(name[:12] for name in ids[:_SHOWN_IDS])
        more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
        where = f", on images {shown}{more} ({path})"
    except (OSError, tf.errors.OpError, InputError) as error:
        logging.warning("the batch's images can't be named: %s", str(error).splitlines()[0])
    good = "no checkpoint was saved" if last_good_step is None else f"checkpoint {last_good_step} is good"
    return f"{found.what} in the step to {found.step}{where}; {good}"


def advice(rollback: Rollback) -> str:
    """What the reader of `report` can do."""
    again = "it went back once already" if rollback.times else "go on here with --config.divergence.rollback=true"
    return f"lower optimizer.peak_lr, lengthen the warmup or set optimizer.clip_norm in another --workdir; {again}"


def batch_ids(data: str, manifest: manifest_lib.Manifest, settings: Mapping[str, Any], *, step: int) -> Sequence[str]:
    """The ids of the examples that all workers together trained on in the step to global step `step`."""
    ids = training.sample_ids(
        data,
        manifest,
        split=settings["train_split"],
        seed=settings["seed"],
        global_batch=settings["global_batch"],
        shuffle_mib=settings["input"]["shuffle_mib"],
        sampling=settings["input"]["sampling"],
        mixes=Augment(**settings["augment"]).mixes,
        start_step=step - 1,
        **{name: settings["input"][name] for name in ("cache_dir", "cache_gib")},
    )
    return [name.decode() for name in next(iter(ids)).numpy()]
