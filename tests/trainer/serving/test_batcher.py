"""Callers get their own results, batches are as large as they may be, and what finds no place is refused at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from trainer.serving import batcher, limits


class Squares:
    """Squares numbers, once `go` is set, and remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        await self.go.wait()
        if 13 in items:
            raise ValueError("13")
        return [item**2 for item in items]


def queue(run: Squares, *, max_batch: int = 4, max_delay_s: float = 0.0, waiting: int = 8) -> batcher.Batcher[int, int]:
    return batcher.Batcher(run, max_batch=max_batch, max_delay_s=max_delay_s, max_waiting=waiting)


def test_what_comes_while_a_batch_runs_makes_up_the_next() -> None:
    async def play() -> None:
        run = Squares()
        run.go.clear()
        batches = queue(run)
        callers = [asyncio.create_task(batches.submit([number])) for number in range(6)]
        await asyncio.sleep(0.01)
        assert run.batches == [[0, 1, 2, 3]]
        assert batches.waiting == 2
        run.go.set()
        assert await asyncio.gather(*callers) == [[0], [1], [4], [9], [16], [25]]
        assert run.batches == [[0, 1, 2, 3], [4, 5]]
        assert await batches.submit([7, 8]) == [49, 64]

    asyncio.run(play())


def test_a_batch_waits_for_others_until_it_is_full_and_no_longer() -> None:
    async def play() -> None:
        run = Squares()
        batches = queue(run, max_batch=2, max_delay_s=5.0)
        first = asyncio.create_task(batches.submit([1]))
        await asyncio.sleep(0.05)
        assert run.batches == []
        start = time.monotonic()
        assert await batches.submit([2]) == [4]
        assert await first == [1]
        assert run.batches == [[1, 2]]
        assert time.monotonic() - start < 2

    asyncio.run(play())


def test_a_full_queue_takes_none_of_a_request() -> None:
    async def play() -> None:
        run = Squares()
        run.go.clear()
        batches = queue(run, max_batch=1, waiting=3)
        callers = [asyncio.create_task(batches.submit([number])) for number in (1, 2)]
        await asyncio.sleep(0.01)
        with pytest.raises(limits.Refusal) as refused:
            await batches.submit([3, 4, 5])
        assert (refused.value.status, refused.value.retry_after_s) == (503, 1)
        assert batches.waiting == 1
        run.go.set()
        assert await asyncio.gather(*callers, batches.submit([3, 4])) == [[1], [4], [9, 16]]

    asyncio.run(play())


def test_a_failure_reaches_those_of_its_batch_only() -> None:
    async def play() -> None:
        run = Squares()
        batches = queue(run, max_batch=2)
        found = await asyncio.gather(*(batches.submit([number]) for number in (12, 13, 14, 15)), return_exceptions=True)
        assert [str(result) for result in found] == ["13", "13", "[196]", "[225]"]

    asyncio.run(play())


def test_what_its_caller_gave_up_is_not_run() -> None:
    async def play() -> None:
        run = Squares()
        run.go.clear()
        batches = queue(run, max_batch=1)
        first, second, third = (asyncio.create_task(batches.submit([number])) for number in (1, 2, 3))
        await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.sleep(0)
        run.go.set()
        assert (await first, await third) == ([1], [9])
        assert run.batches == [[1], [3]]

    asyncio.run(play())
