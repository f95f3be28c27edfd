"""What `recorder/` wrote in; which examples every step of a training took, out."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Example(NamedTuple):
    place: int  # in the sequence of all examples, see `pipeline.training.batches`
    label: int
    pixels: int  # their checksum


@dataclasses.dataclass(frozen=True)
class Row:
    """A step that a worker has taken."""

    pid: int
    at: float  # by `time.time`
    step: int
    examples: tuple[Example, ...]


@dataclasses.dataclass(frozen=True)
class Result:
    """How a training ended: what no fault may change."""

    weights: str  # their hash, as printed
    examples: Mapping[int, tuple[Example, ...]]  # of each step, the workers' parts one after the other
    history: tuple[Mapping[str, Any], ...]


def rows(path: pathlib.Path) -> list[Row]:
    """All steps that a host's workers have taken, those before restarts included, in the order of time."""
    return [
        Row(row["pid"], row["at"], row["step"], tuple(Example(*example) for example in row["examples"]))
        for row in _read(path)
        if "step" in row
    ]


def workers(path: pathlib.Path) -> dict[int, float]:
    """Process ids of a host's workers, one after the other, and when they came to their training."""
    return {row["pid"]: row["at"] for row in _read(path) if "step" not in row}


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in path.read_text().splitlines()]
    return []


def join(hosts: Sequence[Sequence[Row]], *, steps: int) -> dict[int, tuple[Example, ...]]:
    """The examples of each step, the hosts' parts one after the other.

    Raises:
      AssertionError: where a step was not taken, or taken on something else when it was taken again.
    """
    examples: dict[int, tuple[Example, ...]] = dict.fromkeys(range(1, steps + 1), ())
    for number, found in enumerate(hosts):
        taken: dict[int, tuple[Example, ...]] = {}
        for row in found:
            assert taken.setdefault(row.step, row.examples) == row.examples, f"step {row.step} was two on host {number}"
        assert taken.keys() == examples.keys(), f"host {number} took other steps than all: {sorted(taken)}"
        examples = {step: (*examples[step], *taken[step]) for step in examples}
    return examples


def check_epochs(result: Result, shard_examples: Sequence[int]) -> None:
    """Checks that every example came exactly once an epoch, stream by stream (see `pipeline.order`), shards being few.

    Args:
      shard_examples: of each shard, each of which is a stream.
    """
    streams = len(shard_examples)
    taken = [example for examples in result.examples.values() for example in examples]
    assert sorted(example.place for example in taken) == list(range(len(taken))), "a place was taken twice or never"
    epochs: dict[tuple[int, int], list[int]] = {}
    for place, _, pixels in taken:
        stream, turn = place % streams, place // streams
        epochs.setdefault((stream, turn // shard_examples[stream]), []).append(pixels)
    whole: dict[int, set[int]] = {}
    for (stream, epoch), pixels in sorted(epochs.items()):
        assert len(set(pixels)) == len(pixels), f"stream {stream} gave an example twice in epoch {epoch}"
        if len(pixels) == shard_examples[stream]:
            assert whole.setdefault(stream, set(pixels)) == set(pixels), f"stream {stream} gave others in epoch {epoch}"
    assert len(whole) == streams
    assert len(set().union(*whole.values())) == sum(shard_examples), "two streams share an example"
