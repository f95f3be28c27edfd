"""An uploaded file's bytes in; pixels as the model wants them out, by a bounded number of threads.

Threads and not processes: Pillow and TensorFlow leave the interpreter's lock while they decode and scale. On two cores
a photo of 224 pixels took 0.78 ms by two threads and 0.81 by two processes, one of 512x384 1.9 and 2.7; and each
process would hold a TensorFlow of its own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import formats, images, parallel
from trainer import classifier
from trainer.serving import exports, limits


class Prepared(NamedTuple):
    pixels: npt.NDArray[np.uint8]  # [image_size, image_size, 3]
    size: tuple[int, int] | None  # width and height of the source as it is stored, where there is one


class Preparer:
    """Args: max_waiting: images that are prepared or wait to be; more are refused."""

    def __init__(self, *, max_pixels: int, max_waiting: int) -> None:
        self._max_pixels = max_pixels
        self._max_waiting = max_waiting
        self._pool = concurrent.futures.ThreadPoolExecutor(parallel.cores(), "prepare")
        self.waiting = 0

    async def prepare(self, sources: Sequence[bytes], card: exports.Card) -> list[Prepared]:
        """All of them, or the refusal of the first that is none.

        Raises:
          Refusal: 400 or 413, naming the reason; 503 where there are too many.
        """
        if self.waiting + len(sources) > self._max_waiting:
            raise limits.overloaded("images")
        loop = asyncio.get_running_loop()
        jobs = [self._pool.submit(prepare, source, card, self._max_pixels) for source in sources]
        self.waiting += len(jobs)
        for job in jobs:  # what has begun goes on when its caller gives up, and counts until it ends
            job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._one_less))
        done = await asyncio.gather(*map(asyncio.wrap_future, jobs), return_exceptions=True)
        for number, result in enumerate(done):
            if isinstance(result, images.ImageError):
                raise refusal(result, number if len(sources) > 1 else None)
            if isinstance(result, BaseException):
                raise result
        return [result for result in done if isinstance(result, Prepared)]

    def _one_less(self) -> None:
        self.waiting -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def prepare(source: bytes, card: exports.Card, max_pixels: int) -> Prepared:
    """Raises ImageError: by what the header says, before anything is decoded, where there are too many pixels."""
    size = _size(source)
    if size[0] * size[1] > max_pixels:
        raise images.ImageError("too_many_pixels", f"{size[0]}x{size[1]}, more than {max_pixels / 1e6:g} million")
    try:
        pixels = classifier.prepare(
            source, storing=card.storing, image_size=card.image_size, crop_fraction=card.crop_fraction
        )
    except tf.errors.InvalidArgumentError as error:
        raise images.ImageError("cannot_decode", "TensorFlow can't read it") from error
    return Prepared(np.asarray(pixels), size)


def _size(source: bytes) -> tuple[int, int]:
    try:
        image = formats.open_image(source).image
    except images.ImageError:
        raise
    except Exception as error:  # decoders raise many types on damaged data
        raise images.ImageError("cannot_decode", f"{type(error).__name__}: {error}") from error
    return image.width, image.height


def refusal(error: images.ImageError, number: int | None) -> limits.Refusal:
    """What is answered to an image that can't be used: the `number`th of several."""
    which = "" if number is None else f"instance {number}: "
    status = 413 if error.code == "too_many_pixels" else 400
    detail = f"{error}".replace("\n", " ")
    return limits.Refusal(status, error.code, f"{which}{detail}. {images.REASONS[error.code]}")
