"""The examination: a dataset and an experiment's settings in, everything that was measured and the advice out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf
import tqdm

from pipeline import cache as cache_lib
from pipeline.doctor import advice as advice_lib
from pipeline.doctor import alternatives, clock, stages
from pipeline.doctor import costs as costs_lib
from pipeline.doctor.findings import EndToEnd, Findings
from pipeline.doctor.subject import Subject
from pipeline.manifest import Split

# Enough for a mean over images of different sizes. Whole shards are read, since half of one costs nearly all of it.
_SAMPLE = 256
_END_TO_END_SHARE = 0.25  # of the seconds
_SLOW_STORAGE_S = 0.5  # that the first reading takes longer than later ones, before it says anything about the storage
_LOG_FILE_PERIOD_S = 10.0  # a bar that redraws itself would fill a log file
_FIRST, _LATER = "first epoch: ", "later epochs: "


class _Measured(NamedTuple):
    first_epoch: tuple[costs_lib.Cost, ...]
    later_epochs: tuple[costs_lib.Cost, ...]  # the same without a cache
    alternatives: tuple[advice_lib.Alternative, ...]
    storage_images_per_s: float | None
    end_to_end: EndToEnd


def examine(
    subject: Subject,
    *,
    seconds: float,
    cores: int | None = None,
    accelerator_rate: float | None = None,
    show_progress: bool = True,
) -> Findings:
    """Measures the stages and the whole for about `seconds`.

    Args:
      cores: of another host to answer for, and to give the advice for.
      accelerator_rate: images per second that the accelerators of one host train on.

    Raises:
      InputError: where training would refuse the split or the settings; naming shard or image, where one can't be
        read.
    """
    options = subject.batches(cache=subject.input["cache"]).dataset.options()  # refuses here what training would refuse
    available_bytes = cache_lib.available_bytes()
    choice = subject.choose_cache(available_bytes)
    sample = _sample(subject.part)
    try:
        with tempfile.TemporaryDirectory() as folder:
            trials = list(
                alternatives.trials(subject, sample, cache=choice.mode, available_bytes=available_bytes, folder=folder)
            )
            measured = _measure(subject, sample, choice.mode, trials, options, seconds=seconds, show=show_progress)
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        raise subject.explain(error) from error

    here = clock.cores()
    advised = here if cores is None else cores
    bottleneck = functools.partial(
        costs_lib.bottleneck,
        measured.later_epochs,
        storage_images_per_s=measured.storage_images_per_s if choice.mode == "none" else None,
    )
    cpu_s, serial_cpu_s = measured.later_epochs[-1].cpu_s, costs_lib.serial_cpu_s(measured.later_epochs)
    advice = advice_lib.advise(
        cpu_s,
        bottleneck(cores=advised),
        measured.alternatives,
        host=advice_lib.Host(advised, measured.end_to_end.cpu_s / cpu_s, serial_cpu_s),
        accelerator_rate=accelerator_rate,
    )
    return Findings(
        name=subject.manifest.name,
        version=subject.manifest.version,
        split=subject.split,
        examples=subject.part.examples,
        shards=len(subject.part.shards),
        image_bytes=subject.stored_bytes / subject.part.examples,
        pixels=subject.pixels / subject.part.examples,
        image_size=subject.way.image_size,
        global_batch=subject.global_batch,
        sample=sample.examples,
        cache_asked=subject.input["cache"],
        cache=choice.mode,
        cache_reason=choice.reason,
        shuffle=subject.shuffle(),
        **measured._asdict(),
        bottleneck=bottleneck(cores=here),
        cores=here,
        asked_cores=cores,
        accelerator_rate=accelerator_rate,
        advice=advice,
    )


def _measure(
    subject: Subject,
    sample: Split,
    cache: str,
    trials: Sequence[alternatives.Trial],
    options: tf.data.Options,
    *,
    seconds: float,
    show: bool,
) -> _Measured:
    """Everything in one run: stages and trials in turn, then `training.batches`, whose threads never rest."""
    batch, shards = subject.global_batch, len(sample.shards)

    def built(mode: str) -> tuple[stages.Stage, ...]:
        reader = subject.reader(sample, mode)
        return stages.build(reader, subject.way, shards=shards, examples=sample.examples, cache=mode, options=options)

    first, later = built("none"), built(cache) if cache != "none" else ()
    works = {_FIRST + stage.name: _work(stage, sample.examples) for stage in first}
    works |= {_LATER + stage.name: _work(stage, sample.examples) for stage in later}
    for trial in trials:
        *_, last = stages.build(
            trial.reader,
            trial.way,
            shards=trial.shards,
            examples=trial.examples,
            cache=trial.cache,
            options=options,
        )
        works[trial.alternative.setting] = _work(last, trial.examples)

    with _progress(clock.passes(len(works)) + clock.REPEATS, show=show) as tick:
        found, warm = clock.interleaved(works, seconds=seconds * (1 - _END_TO_END_SHARE), tick=tick)
        end_to_end = _measure_end_to_end(
            # A cache is filled in the first epoch; of a part, that is over soon.
            subject.batches(cache=cache, part=sample if later else None),
            warm_up=2 + (math.ceil(sample.examples / batch) if later else 0),
            batch=batch,
            window_s=seconds * _END_TO_END_SHARE / clock.REPEATS,
            tick=tick,
        )

    first_epoch = _costs(first, _FIRST, found)
    return _Measured(
        first_epoch=first_epoch,
        later_epochs=_costs(later, _LATER, found) if later else first_epoch,
        alternatives=tuple(
            dataclasses.replace(trial.alternative, cpu_s=_median_cpu_s(found[trial.alternative.setting]))
            for trial in trials
        ),
        storage_images_per_s=_storage_rate(warm[_FIRST + first[0].name], found[_FIRST + first[0].name]),
        end_to_end=end_to_end,
    )


def _sample(split: Split) -> Split:
    """The first shards with `_SAMPLE` examples, or all; a power of two of them, as they are dealt out."""
    count = 1
    while count < len(split.shards) and sum(shard.examples for shard in split.shards[:count]) < _SAMPLE:
        count *= 2
    shards = split.shards[:count]
    return Split(sum(shard.examples for shard in shards), shards)


def _compiled(build: Callable[[tf.Tensor], tf.data.Dataset]) -> Callable[[int], object]:
    @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])
    def run(rounds: tf.Tensor) -> tf.Tensor:
        return stages.consume(build(rounds))

    run.get_concrete_function()  # tracing is not what is measured
    return lambda rounds: int(run(tf.constant(rounds, tf.int64)))


def _work(stage: stages.Stage, examples: int) -> clock.Work:
    def images(rounds: int) -> int:
        return rounds * examples // stage.per * stage.per

    return clock.Work(_compiled(stage.build), images, least_rounds=math.ceil(stage.per / examples))


def _measure_end_to_end(
    dataset: Iterable[object], *, warm_up: int, batch: int, window_s: float, tick: Callable[[str], None]
) -> EndToEnd:
    """Takes batches one after the other as the train loop would, and does nothing with them."""
    batches = iter(dataset)

    def take(count: int) -> None:
        for _ in range(count):
            next(batches)

    warm = clock.timed(lambda: take(warm_up), warm_up * batch)
    steps = max(1, round(window_s * warm.images_per_s / batch))
    machine_before = clock.machine_cpu_s()
    windows = []
    for _ in range(clock.REPEATS):
        tick("training.batches")
        windows.append(clock.timed(lambda: take(steps), steps * batch))
    machine_after = clock.machine_cpu_s()
    own_s, wall_s = sum(spent.cpu_s for spent in windows), sum(spent.wall_s for spent in windows)
    others = None
    if machine_before is not None and machine_after is not None:
        others = max(0.0, machine_after - machine_before - own_s) / wall_s
    rate = statistics.median(spent.images_per_s for spent in windows)
    return EndToEnd(_median_cpu_s(windows), rate, own_s / wall_s, others)


def _costs(
    built: Sequence[stages.Stage], epoch: str, found: Mapping[str, Sequence[clock.Spent]]
) -> tuple[costs_lib.Cost, ...]:
    names = [stage.name for stage in built]
    return costs_lib.of_stages(names, {name: found[epoch + name] for name in names})


def _median_cpu_s(spent: Sequence[clock.Spent]) -> float:
    return statistics.median(one.cpu_s_per_1000 for one in spent)


def _storage_rate(first: clock.Spent, later: Sequence[clock.Spent]) -> float | None:
    """Images a second of the very first reading; None where that is what reading from memory gives too."""
    usual_s = first.images / statistics.median(spent.images_per_s for spent in later)
    return first.images_per_s if first.wall_s - usual_s > _SLOW_STORAGE_S else None


@contextlib.contextmanager
def _progress(total: int, *, show: bool) -> Iterator[Callable[[str], None]]:
    with tqdm.tqdm(
        total=total,
        desc="measuring",
        disable=not show,
        file=sys.stderr,
        leave=False,
        mininterval=0.1 if sys.stderr.isatty() else _LOG_FILE_PERIOD_S,
    ) as bar:

        def tick(name: str) -> None:
            bar.set_postfix_str(name, refresh=False)
            bar.update(1)

        yield tick
