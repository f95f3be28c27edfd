"""A Keras model in; its dropout then draws for each example by its place, whoever computes it and however often."""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator, Mapping, Sequence

import keras
import tensorflow as tf

from pipeline.augmentations import draws
from trainer import backbones

_PART = 5 << 32  # apart from what `pipeline.augmentations.augment` draws with the same run's seed
_LEVELS = 1 << 16  # what a rate is rounded to; half a word for each unit, since words are what costs

_drawn: contextvars.ContextVar[Mapping[int, tf.Tensor] | None] = contextvars.ContextVar("drawn", default=None)


class PlacedDropout(keras.layers.Dropout):  # type: ignore[misc]  # Keras has no types
    """`keras.layers.Dropout`, which inside of `drawn_by_place` draws from seeds of the examples.

    Keras draws from a state that every replica and every worker begins with and moves on alike. So all of them drop the
    same units, and a run on two workers drops others than a run on one.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        drawn = _drawn.get()
        if drawn is None or not training or not self.rate:
            return super().call(inputs, training=training)
        dropped = round(self.rate * _LEVELS)
        noise = tf.reshape(drawn[id(self)], [-1, *self._noise_shape(inputs)])
        return tf.where(noise >= dropped, inputs * (_LEVELS / (_LEVELS - dropped)), tf.zeros([], inputs.dtype))

    def _noise_shape(self, inputs: tf.Tensor) -> Sequence[int]:
        """Of one example."""
        shape = inputs.shape if self.noise_shape is None else self.noise_shape
        return [own if own is not None else inputs.shape[axis] for axis, own in enumerate(shape)][1:]

    def units(self) -> int:
        """What it draws for one example."""
        return math.prod(self._noise_shape(self.input))


def place(model: keras.Model) -> None:
    """Makes every `keras.layers.Dropout` in `model`, and in models inside it, a `PlacedDropout`, in place."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            place(layer)
        elif type(layer) is keras.layers.Dropout:
            layer.__class__ = PlacedDropout


@contextlib.contextmanager
def drawn_by_place(model: keras.Model, places: tf.Tensor, *, seed: int) -> Iterator[None]:
    """While the block runs, in this thread, `model` called with a batch drops for each example what its place says.

    Args:
      places: int64 [b], each example's place in the sequence of all.
      seed: the run's, below 2**32.
    """
    layers = [layer for layer in backbones.leaves(model) if isinstance(layer, PlacedDropout) and layer.rate]
    if not layers:
        yield
        return
    # All layers at once: the generator is a hundred operations, however many numbers it gives.
    counts = [layer.units() for layer in layers]
    words = draws.bits(draws.seeds(seed + _PART, places), -(-sum(counts) // 2))
    halves = tf.reshape(tf.bitcast(tf.cast(words, tf.uint32), tf.uint16), [places.shape[0], -1])
    parts = tf.split(tf.cast(halves[:, : sum(counts)], tf.int32), counts, axis=1)
    token = _drawn.set({id(layer): part for layer, part in zip(layers, parts, strict=True)})
    try:
        yield
    finally:
        _drawn.reset(token)
