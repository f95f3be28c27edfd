"""Single items from many callers in; batches for one function, and to each caller its own results, out."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from trainer.serving import limits

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Runs one batch at a time; what comes meanwhile makes up the next one.

    Args:
      run: as many results as items, in their order.
      max_batch: items of one call.
      max_delay_s: how long the first item of a batch waits for others where nothing runs.
      max_waiting: items beyond those that run; more are refused.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        max_batch: int,
        max_delay_s: float,
        max_waiting: int,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_delay_s = max_delay_s
        self._max_waiting = max_waiting
        self._waiting: collections.deque[tuple[float, Item, asyncio.Future[Result]]] = collections.deque()
        self._full = asyncio.Event()
        self._task: asyncio.Task[None] | None = None  # lives only while there is something to do

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def submit(self, items: Sequence[Item]) -> list[Result]:
        """The items' results; a caller that is cancelled takes back what has not begun.

        Raises:
          Refusal: 503 where the items would not all find a place; none of them is taken then.
          Exception: whatever `run` raised for a batch with one of them.
        """
        if len(self._waiting) + len(items) > self._max_waiting:
            raise limits.overloaded("images")
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Result]] = [loop.create_future() for _ in items]
        now = time.monotonic()
        self._waiting.extend((now, item, future) for item, future in zip(items, futures, strict=True))
        if len(self._waiting) >= self._max_batch:
            self._full.set()
        if self._task is None:
            self._task = loop.create_task(self._work())
        return list(await asyncio.gather(*futures))

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._until_due()
                batch = self._take()
                if batch:
                    await self._answer(batch)
        finally:
            self._task = None

    async def _until_due(self) -> None:
        self._full.clear()
        left_s = self._waiting[0][0] + self._max_delay_s - time.monotonic()
        if left_s > 0 and len(self._waiting) < self._max_batch:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._full.wait(), left_s)

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._max_batch:
            _, item, future = self._waiting.popleft()
            if not future.done():  # its caller gave up
                batch.append((item, future))
        return batch

    async def _answer(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001  # goes to those who wait, and the next batch is not to blame
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
