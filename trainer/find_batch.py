"""An experiment's settings in; how fast and how large each batch size is, and which ones to take, out.

Batches double until one does not fit. Each is tried in a process of its own, with random pixels and labels: what one
leaves behind in memory, or takes down with it, doesn't touch the next. Accelerators refuse what they can't hold; Linux
kills instead, and perhaps another process than ours, so on CPU a trial ends when it holds more than it may.
"""

from __future__ import annotations

import itertools
import multiprocessing
import multiprocessing.connection
import pathlib
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline import cache, startup
from pipeline import manifest as manifest_lib
from pipeline.errors import InputError

SMALLEST = 8
LARGEST = 1024  # of one replica; a step of that takes a minute on a CPU, and rates have long stopped rising on a GPU
GOOD_ENOUGH = 0.95  # of the best rate: beyond, a larger batch costs memory and steps and gives nothing
# What an input cache leaves of the memory that is free: a third is its own.
_MEMORY_SHARE = 1 - cache.MEMORY_SHARE
_WATCHED_EVERY_S = 0.05


class Trial(NamedTuple):
    batch: int  # of one replica
    images_per_s: float  # of all replicas together
    peak_bytes: int  # of the process on CPU, TensorFlow's own included; of the fullest device elsewhere


class Failure(NamedTuple):
    batch: int
    reason: str


class Advice(NamedTuple):
    smallest: Trial  # whose rate is within 5 % of the best
    largest: Trial  # that fits


def sizes(smallest: int, largest: int) -> list[int]:
    """`smallest`, its doubles up to `largest`.

    Raises:
      InputError: where there are none.
    """
    if not 1 <= smallest <= largest:
        raise InputError(f"batch sizes from {smallest} to {largest}: expected 1 <= smallest <= largest")
    return list(itertools.takewhile(lambda size: size <= largest, (smallest << i for i in itertools.count())))


def advise(trials: Sequence[Trial]) -> Advice:
    """Picks from trials of rising batch sizes, of which there is at least one."""
    best = max(trial.images_per_s for trial in trials)
    return Advice(next(trial for trial in trials if trial.images_per_s >= GOOD_ENOUGH * best), trials[-1])


def run(
    *, data: str, settings: Mapping[str, Any], strategy: str, smallest: int = SMALLEST, largest: int = LARGEST
) -> Advice:
    """Tries the phase that trains most, prints a table row by row and then what to take.

    Args:
      data: the dataset's folder; of it only the manifest is read.
      settings: fields of `configs.schema.Config`. `global_batch` and `optimizer.accumulation` stay unread: what is
        found is what each replica can take in one part.
      strategy: see `strategies.connect`; not multi_worker, whose workers each can do what one can.

    Raises:
      InputError: where settings and data don't go together, or not even `smallest` fits.
    """
    if strategy == "multi_worker":
        raise InputError(
            "--strategy=multi_worker: try one worker with --strategy=mirrored; a replica's batch is the same"
        )
    trials: list[Trial] = []
    # A split's examples bound what makes sense, and a small one also what can be dealt out.
    largest = min(largest, max(smallest, manifest_lib.load(data).split(settings["train_split"]).examples))
    print(f"{'batch':>6} {'images/s':>9} {'peak MiB':>9}")
    for outcome in attempts(data, settings, strategy, sizes(smallest, largest)):
        if isinstance(outcome, Failure):
            print(f"{outcome.batch:>6} {outcome.reason}", flush=True)
            break
        print(f"{outcome.batch:>6} {outcome.images_per_s:>9.1f} {outcome.peak_bytes / 2**20:>9,.0f}", flush=True)
        trials.append(outcome)
    if not trials:
        raise InputError(f"a batch of {smallest} for each replica does not fit: lower input.image_size or the model's")
    advice = advise(trials)
    print(describe(advice))
    return advice


def describe(advice: Advice) -> str:
    """One line for the user."""
    return (
        f"take {advice.smallest.batch} for each replica: {advice.smallest.images_per_s:.0f} images/s, no larger one is "
        f"more than 5 % faster; the largest that was tried and fits is {advice.largest.batch}. config.global_batch is "
        "that times replicas and config.optimizer.accumulation"
    )


def attempts(
    data: str, settings: Mapping[str, Any], strategy: str, batches: Sequence[int]
) -> Iterator[Trial | Failure]:
    """Tries one batch size after the other, each in its own process; ends after the first that fails.

    Raises:
      InputError: that a trial raised, which has to do with settings and not with memory.
    """
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit TensorFlow's threads' locks
    for batch in batches:
        receiver, sender = spawn.Pipe(duplex=False)
        process = spawn.Process(target=_attempt, args=(sender, data, settings, strategy, batch), daemon=True)
        process.start()
        sender.close()
        try:
            outcome = _watch(process, receiver, batch)
        finally:
            process.kill()
            process.join()
        if isinstance(outcome, InputError):
            raise outcome
        yield outcome
        if isinstance(outcome, Failure):
            return


def _watch(
    process: multiprocessing.process.BaseProcess, receiver: multiprocessing.connection.Connection, batch: int
) -> Trial | Failure | InputError:
    """Waits for the trial's answer or its end, and ends it where it holds too much of the host's memory."""
    bound = int(cache.available_bytes() * _MEMORY_SHARE)
    while not receiver.poll(_WATCHED_EVERY_S):
        held = memory_bytes(process.pid or 0, "VmRSS")
        if held > bound:
            share = f"{bound / 2**20:,.0f} MiB, two thirds of what is free"
            return Failure(batch, f"does not fit: it holds more than {share}")
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGKILL:  # what Linux does where memory runs out
            return Failure(batch, "does not fit: its process was killed, as Linux does where memory runs out")
        return InputError(f"the trial of batch {batch} ended with status {process.exitcode}; what it said stands above")


def _attempt(
    sender: multiprocessing.connection.Connection,
    data: str,
    settings: Mapping[str, Any],
    strategy: str,
    batch: int,
) -> None:
    """Runs in the trial's process: TensorFlow is imported there and not here, and holds no device of the others."""
    startup.import_tensorflow()
    from trainer import batch_trial

    try:
        sender.send(Trial(batch, *batch_trial.measure(data, settings, strategy, batch)))
    except batch_trial.OutOfMemoryError as error:
        sender.send(Failure(batch, f"does not fit: {error}"))
    except InputError as error:
        sender.send(error)


def memory_bytes(pid: int, field: str) -> int:
    """A process's memory from Linux' table: VmRSS is what it holds now, VmHWM the most it held; 0 on other systems.

    Not from getrusage, whose maximum a new process inherits from the one that started it.
    """
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)
