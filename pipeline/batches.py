"""A dataset and the opener of its shards in; batches out, or an error that names what can't be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from pipeline import diagnosis, shards
from pipeline.errors import InputError


class Batches:
    """A dataset of batches; whether it ends is said by whoever makes it.

    Attributes:
      dataset: the batches; iterating over it instead gives TensorFlow's own errors.
    """

    def __init__(self, dataset: tf.data.Dataset, opener: shards.Opener | None) -> None:
        self.dataset = dataset
        self._opener = opener

    def __iter__(self) -> Iterator[Any]:
        """Batches as tensors.

        Raises:
          InputError: naming the shard or the image that can't be read.
          ConnectionError: naming the shard, where its bucket can't be reached.
        """
        try:
            yield from self.dataset
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            if self._opener is None:
                raise
            raise diagnosis.explain(error, opener=self._opener) from error

    def close(self) -> None:
        """Ends the background work and lets others have what was held in the shard cache."""
        if self._opener is not None:
            self._opener.close()


def path(opener: shards.Opener, number: tf.Tensor, following: tf.Tensor) -> tf.Tensor:
    """The verified local file of a shard, in a graph; `following` (-1 for none) is got ready meanwhile."""

    def opened(number: int, following: int) -> bytes:
        try:
            found = opener.open(number)
        except (InputError, ConnectionError):  # kept by the opener; TensorFlow's own error, of no file, is shorter
            return b""
        if following >= 0:
            opener.expect([following])
        return found.encode()

    return tf.ensure_shape(tf.numpy_function(opened, [number, following], tf.string), [])
