"""Image files in, what the newest export says of them out; a newer one takes over between two requests."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import gc
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from trainer.export import publish
from trainer.serving import batcher, exports, limits, measures, model, monitor, preparing


class Served(NamedTuple):
    """One export with its own queue, so that every request ends with the one that it began with."""

    model: model.Model
    batcher: batcher.Batcher[preparing.Prepared, model.Row]
    monitor: monitor.Monitor | None


class Service:
    def __init__(self, workdir: str, *, limits: limits.Limits, measures: measures.Measures) -> None:
        self.limits = limits
        self._workdir = workdir
        self._measures = measures
        self._preparer = preparing.Preparer(max_pixels=limits.max_pixels, max_waiting=limits.max_waiting)
        # One of each: the model takes all cores by itself, and the next export loads while this one answers.
        self._inference = concurrent.futures.ThreadPoolExecutor(1, "predict")
        self._loading = concurrent.futures.ThreadPoolExecutor(1, "load")
        self._aside = concurrent.futures.ThreadPoolExecutor(1, "watch")
        self._served: Served | None = None
        self._replaced = False  # since memory was last given back
        self.damaged: dict[int, str] = {}  # version -> why it was left out

    @property
    def ready(self) -> bool:
        return self._served is not None

    @property
    def served(self) -> Served:
        """Raises Refusal: 503 while the first export is being loaded."""
        if self._served is None:
            raise limits.Refusal(503, "not_ready", "the model is still being loaded: try again", retry_after_s=5)
        return self._served

    async def prepare(self, served: Served, sources: Sequence[bytes]) -> list[preparing.Prepared]:
        """Raises Refusal."""
        start = time.monotonic()
        prepared = await self._preparer.prepare(sources, served.model.card)
        self._measures.took("prepare", time.monotonic() - start)
        return prepared

    async def predict(self, served: Served, prepared: Sequence[preparing.Prepared]) -> list[model.Row]:
        """Raises Refusal."""
        start = time.monotonic()
        rows = await served.batcher.submit(prepared)
        self._measures.took("predict", time.monotonic() - start)
        return rows

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a function of the model between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._inference, function, *arguments)

    async def refresh(self) -> None:
        """Loads the newest sound export that is newer than what is served; those that are not are named in the log.

        Raises:
          InputError: where there is none to begin with.
          OSError: of the disk or the bucket, which may be well again the next time.
        """
        loop = asyncio.get_running_loop()
        current = self._served.model.card.version if self._served else -1
        found = await loop.run_in_executor(self._loading, publish.complete, self._workdir)
        newer = [version for version in found if version > current and version not in self.damaged]
        if self._replaced and not newer:  # by now the requests that the old one had have ended
            self._replaced = False
            await loop.run_in_executor(self._loading, _give_back_memory)
        for version in reversed(newer):
            try:
                loaded = await loop.run_in_executor(self._loading, self._load, version)
            except InputError as error:
                self.damaged[version] = str(error)
                self._measures.skipped()
                logging.warning("export %d is left out: %s", version, error)
                continue
            if self._served is None:
                await loop.run_in_executor(self._loading, self._rehearse, version)
            self._replaced = self._served is not None
            self._served = self._serve(loaded)
            self._measures.loaded(version)
            logging.info("serving %s version %d, of step %d", loaded.card.name, version, loaded.card.step)
            return
        if self._served is None:
            why = "; ".join(self.damaged.values()) or "there are none"
            raise InputError(
                f"{self._workdir}/{publish.FOLDER} has no sound export ({why}): run `python -m trainer export`"
            )

    def close(self) -> None:
        gc.unfreeze()
        self._preparer.close()
        for pool in (self._inference, self._loading, self._aside):
            pool.shutdown(wait=False, cancel_futures=True)

    def observe(self) -> None:
        """Writes down how much waits where."""
        self._measures.waits("prepare", self._preparer.waiting)
        self._measures.waits("predict", self._served.batcher.waiting if self._served else 0)

    def _load(self, version: int) -> model.Model:
        card = exports.read_card(self._workdir, version)
        if self._served and card.classes != self._served.model.card.classes:
            raise InputError(
                f"{card.path} has the classes {', '.join(card.classes)}, served are "
                f"{', '.join(self._served.model.card.classes)}: start the server again to change them"
            )
        return model.load(card, max_batch=self.limits.max_batch)

    def _rehearse(self, version: int) -> None:
        """Loads an export beside the one that is there and lets go of it, as the first newer one will make it do.

        A machine without the memory for two then fails while it starts, and not the night a newer one comes; and half
        of what a process grows by at its first swap is taken before anybody counts on less.
        """
        self._load(version)
        _give_back_memory()

    def _serve(self, loaded: model.Model) -> Served:
        watching = monitor.Monitor(loaded.card.reference, loaded.card.classes) if loaded.card.reference else None

        def watch(
            images: npt.NDArray[np.uint8], rows: Sequence[model.Row], sizes: Sequence[tuple[int, int] | None]
        ) -> None:
            if watching and (findings := watching.add(images, rows, sizes)):
                self._measures.looked(findings)

        async def run(items: Sequence[preparing.Prepared]) -> list[model.Row]:
            images = np.stack([item.pixels for item in items])
            rows: list[model.Row] = await self.call(loaded.rows, images)
            self._measures.ran(len(items))
            self._aside.submit(watch, images, rows, [item.size for item in items])  # nobody waits for it
            return rows

        queue = batcher.Batcher(
            run,
            max_batch=self.limits.max_batch,
            max_delay_s=self.limits.max_delay_s,
            max_waiting=self.limits.max_waiting,
        )
        return Served(loaded, queue, watching)


def _give_back_memory() -> None:
    """A model is a web of cycles, which Python frees late; and glibc keeps what it and loading another one took.

    What is left stays until the next time, so that the collector need not look at it: walking TensorFlow's objects for
    each million of numbers in a request stopped everybody for 3 s.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def status(served: Served, damaged: Mapping[int, str]) -> list[dict[str, Any]]:
    """TensorFlow Serving's `model_version_status`, the newest first."""

    def entry(version: int, state: str, code: str, message: str) -> dict[str, Any]:
        return {
            "version": str(version),
            "state": state,
            "status": {"error_code": code, "error_message": message},
        }

    entries = {version: entry(version, "END", "DATA_LOSS", why) for version, why in damaged.items()}
    version = served.model.card.version
    entries[version] = entry(version, "AVAILABLE", "OK", "")
    return [entries[version] for version in sorted(entries, reverse=True)]
