"""Which examples a step sees: shards and a step go in, streams and positions come out; nothing here reads data.

The order of examples is a function of (seed, epoch, dataset) alone. Shards are dealt to canonical streams; each global
batch takes equally many examples from every stream; a worker reads whole streams. So the sequence of global batches is
the same for 1, 2, 4 or 8 workers, and a step's place in it is arithmetic.

A stream starts its next epoch as soon as it has finished one. Shards that were written together differ by at most one
record, so near the end of an epoch two streams differ by at most their number of shards; within a stream every example
comes once an epoch.
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


def deal(split: Split, *, global_batch: int) -> tuple[Stream, ...]:
    """Deals the shards to as many streams as divide both them and the global batch, a power of two up to `MAX_STREAMS`.

    Every stream has equally many shards, and as many examples to within one for each: one with fewer would come round
    more often and be seen more often. Shards that were added later may be empty; they stand behind those before them in
    the same streams.

    Raises:
      InputError: for an empty split or a global batch below one.
    """
    if global_batch < 1:
        raise InputError(f"global_batch={global_batch}: expected at least 1")
    if not split.examples:
        raise InputError("the split to train on has no examples: prepare the dataset with a larger fraction for it")
    count = 1
    while count < MAX_STREAMS and global_batch % (count * 2) == 0 and _balanced(_streams(split, count * 2)):
        count *= 2
    return _streams(split, count)


def _streams(split: Split, count: int) -> tuple[Stream, ...]:
    return tuple(Stream(index, split.shards[index::count]) for index in range(count))


def _balanced(streams: Sequence[Stream]) -> bool:
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


def position(stream: Stream, *, step: int, num_streams: int, global_batch: int) -> tuple[int, int]:
    """(epoch, examples of that epoch already taken) of `stream` before global step `step`."""
    return divmod(step * (global_batch // num_streams), stream.examples)
