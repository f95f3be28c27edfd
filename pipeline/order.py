"""Which examples a step sees: shards and a step go in, streams and positions come out; nothing here reads data.

The order of examples is a function of (seed, epoch, dataset) alone. Shards are dealt to canonical streams; each global
batch takes equally many examples from every stream, its block; a worker reads whole streams. So the sequence of global
batches is the same for 1, 2, 4 or 8 workers, and a step's place in it is arithmetic.

Within a stream an epoch's shards change places, and what comes of them is permuted window by window: a window is as
much as is held in memory to draw from at random. To go on in the middle of an epoch a stream skips whole shards by
their counts, and reads again what lies between the beginning of a shard and the window it stood in: without decoding,
and less than a shard and a window of a stream.

A stream starts its next epoch as soon as it has finished one; within a stream every example comes once an epoch. Shards
that were written together differ by at most one record, so one epoch of two streams differs by at most their number of
shards: after E epochs the shorter one is at most E times as many examples ahead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipeline.errors import InputError
from pipeline.manifest import Shard, Split

# A power of two, so that 1, 2, 4 … workers read equally many streams; beyond 8 workers prepare with --max_workers=64.
MAX_STREAMS = 64


@dataclasses.dataclass(frozen=True)
class Stream:
    index: int
    shards: tuple[Shard, ...]

    @property
    def examples(self) -> int:
        return sum(shard.examples for shard in self.shards)


@dataclasses.dataclass(frozen=True)
class Plan:
    """All streams of a split, whoever reads them.

    Attributes:
      window: examples of one stream that are permuted together.
      block: examples that a global batch takes from each stream, one after the other.
    """

    streams: tuple[Stream, ...]
    window: int
    block: int

    def numbers(self, streams: Sequence[Stream]) -> list[int]:
        """The places of these streams' shards among the split's, stream by stream."""
        return [stream.index + len(self.streams) * turn for stream in streams for turn in range(len(stream.shards))]


def plan(split: Split, *, global_batch: int, shuffle_mib: float, least_block: int = 1, least_window: int = 1) -> Plan:
    """Deals a split's shards to streams, and the memory to draw from at random to windows.

    Args:
      shuffle_mib: stored MiB that all workers together draw from at random. Given in bytes and turned into examples by
        the manifest, so that the order doesn't depend on the machine.
      least_block, least_window: what sampling or mixing within a block or a window needs; fewer streams have more.

    Raises:
      InputError: for an empty split, a global batch below one, or one too small for `least_block`.
    """
    if global_batch < least_block:
        raise InputError(f"global_batch={global_batch}: expected at least {least_block}")
    if not split.examples:
        raise InputError("the split to train on has no examples: prepare the dataset with a larger fraction for it")
    held = shuffle_mib * 2**20 * split.examples / sum(shard.bytes for shard in split.shards)

    def serves(count: int) -> bool:
        return (
            global_batch % count == 0
            and global_batch // count >= least_block
            and min(held, split.examples) / count >= least_window
            and _balanced(_deal(split, count))
        )

    count = 1
    while count < MAX_STREAMS and serves(count * 2):
        count *= 2
    streams = _deal(split, count)
    longest = max(stream.examples for stream in streams)
    return Plan(streams, window=max(1, min(longest, int(held / count))), block=global_batch // count)


def _deal(split: Split, count: int) -> tuple[Stream, ...]:
    return tuple(Stream(index, split.shards[index::count]) for index in range(count))


def _balanced(streams: Sequence[Stream]) -> bool:
    """Whether every stream has equally many shards, and as many examples to within one for each.

    One with fewer would come round more often and be seen more often. Shards that were added later may be empty; they
    stand behind those before them in the same streams.
    """
    shards = {len(stream.shards) for stream in streams}
    examples = [stream.examples for stream in streams]
    return len(shards) == 1 and min(examples) > 0 and max(examples) - min(examples) <= shards.pop()


def for_worker(streams: tuple[Stream, ...], *, worker: int, num_workers: int) -> tuple[Stream, ...]:
    """The streams that `worker` (0-based) of `num_workers` reads.

    Raises:
      InputError: where the streams can't be shared out equally.
    """
    if not 0 <= worker < num_workers:
        raise InputError(f"worker index {worker} is outside 0..{num_workers - 1}")
    if len(streams) % num_workers:
        raise InputError(
            f"{num_workers} workers can't share {len(streams)} streams equally: use a number of workers that divides "
            "it, or a global batch and --max_workers (at preparation) that larger powers of two divide"
        )
    share = len(streams) // num_workers
    return streams[worker * share : (worker + 1) * share]


def share(plan: Plan, *, worker: int, num_workers: int) -> tuple[tuple[Stream, ...], range]:
    """The streams that `worker` reads, and which of the examples that these give in a step it takes.

    All of them where workers divide the streams. Else a stream, a single one perhaps, is read by several workers, each
    of which takes its part of the block and skips the rest.

    Raises:
      InputError: where there is no such worker, or the global batch can't be shared out equally.
    """
    if not 0 <= worker < num_workers:
        raise InputError(f"worker index {worker} is outside 0..{num_workers - 1}")
    global_batch = plan.block * len(plan.streams)
    if global_batch % num_workers:
        raise InputError(f"global_batch={global_batch} doesn't divide by {num_workers} workers: use a multiple")
    begin, end = (global_batch // num_workers * border for border in (worker, worker + 1))
    first, last = begin // plan.block, -(-end // plan.block)
    return plan.streams[first:last], range(begin - first * plan.block, end - first * plan.block)
