"""A classifier and the names of images in, class names with confidences out, in order and as they come.

What can't be read or decoded is named with its reason, and the rest goes on.
"""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import images, parallel, storage
from pipeline.errors import InputError
from trainer import classifier, predictions
from trainer.image_sources import Source
from trainer.prediction_output import Prediction

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_READERS = 32  # a bucket takes 50 ms for each
_READ_BATCHES = 2  # ahead of the model, beside the one that it works on


def predict(model: classifier.Classifier, sources: Iterable[Source], *, top: int, batch: int) -> Iterator[Prediction]:
    """One result per source, in the order given; probabilities are those that `evaluate` reports.

    Files are read and decoded in threads while the model computes, `_READ_BATCHES` batches ahead and no further.

    Args:
      top: how many of the likeliest classes a result names; at most all.
      batch: images that the model takes at once. More of them only need more memory, the results are the same.

    Raises:
      ConnectionError: where a bucket can't be reached, and so nothing that would follow.
    """
    # Half of the time that the same takes without (MobileNetV2, two cores).
    graph = tf.function(lambda pixels: model.net(pixels, training=False), autograph=False)
    filled = False  # to the size of a batch: one graph for all costs less than one more for the rest
    names = model.run.classes
    decoders = threading.Semaphore(parallel.cores())  # each may take `formats.MAX_DECODING_BYTES`

    def prepare(source: Source) -> npt.NDArray[np.uint8] | str:
        data = _read(source)
        if isinstance(data, str):
            return data
        with decoders:
            return _prepare(model, data)

    ahead = _ahead(prepare, sources, threads=_READERS, limit=(1 + _READ_BATCHES) * batch)
    while group := list(itertools.islice(ahead, batch)):
        filled = filled or len(group) == batch
        sound = [prepared for _, prepared in group if not isinstance(prepared, str)]
        logits = _logits(graph, sound, size=batch if filled else len(sound))
        rows = iter(predictions.softmax(logits, model.temperature))
        for source, prepared in group:
            if isinstance(prepared, str):
                yield Prediction(source.name, (), prepared)
            else:
                yield Prediction(source.name, _top(next(rows), names, top), None)


def _read(source: Source) -> bytes | str:
    """The file's content, or why there is none."""
    if source.error is not None:
        return source.error
    if source.data is not None:
        return source.data
    try:
        return storage.read_bytes(source.name)
    except storage.NoDriverError as error:
        return f"unreadable: {error}"
    except (ConnectionError, InputError):  # of the bucket, and so of all that would follow
        raise
    except (OSError, ValueError) as error:  # a name with a zero in it is the latter
        return f"unreadable: {error}"


def _prepare(model: classifier.Classifier, data: bytes) -> npt.NDArray[np.uint8] | str:
    try:
        return np.asarray(model.prepare(data))
    except images.ImageError as error:
        return f"{error}. {images.REASONS[error.code]}"
    except tf.errors.InvalidArgumentError as error:
        return f"cannot_decode: {error.message}. {images.REASONS['cannot_decode']}"


def _logits(
    compute: Callable[[tf.Tensor], tf.Tensor], pixels: Sequence[npt.NDArray[np.uint8]], *, size: int
) -> npt.NDArray[np.float32]:
    """[n, classes] of n images, which are filled up to `size`."""
    if not pixels:
        return np.zeros([0, 1], np.float32)
    filled = np.zeros((size, *pixels[0].shape), np.uint8)
    filled[: len(pixels)] = pixels
    return np.asarray(compute(tf.constant(filled)), np.float32)[: len(pixels)]


def _top(probabilities: npt.NDArray[np.float64], names: Sequence[str], top: int) -> tuple[tuple[str, float], ...]:
    best = np.argsort(-probabilities, kind="stable")[:top]  # of equal ones, the first class
    return tuple((names[index], float(probabilities[index])) for index in best)


def _ahead(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, threads: int, limit: int
) -> Iterator[tuple[_Item, _Result]]:
    """(item, its result) in order, with at most `limit` items begun and not yet asked for."""
    pool = concurrent.futures.ThreadPoolExecutor(min(threads, limit))
    waiting: collections.deque[tuple[_Item, concurrent.futures.Future[_Result]]] = collections.deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) == limit:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
