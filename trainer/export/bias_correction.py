"""A trained Keras model and images in; for a while, the one whose answers survive that weights are rounded to 8 bits.

A depthwise convolution has 9 weights a channel, and many channels only look at differences: theirs add up to nearly 0.
Rounded, they don't, and on smooth images every position of a channel is off by the same amount. The next layers enlarge
that: of 1,000 validation images of CIFAR-10 a MobileNetV2 lost 4.5 points, with activations of 16 bits 3.9. Most of
such errors being their mean, the biases can make up for it, which leaves 0.2 of either.

Data-Free Quantization Through Weight Equalization and Bias Correction: https://arxiv.org/abs/1906.04721, section 4.2;
with images, as here, appendix D.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer import backbones

_IMAGES = 64  # each gives a mean as many values as a layer has positions; they pass at once
_LEVELS = 127  # on either side of 0: https://ai.google.dev/edge/litert/models/quantization_spec


@contextlib.contextmanager
def corrected(net: keras.Model, images: npt.NDArray[np.uint8]) -> Iterator[None]:
    """While the block runs, convolutions' weights in `net` are what 8 bits a channel hold, and biases make up for it.

    Every bias and every batch norm's offset, from the first layer to the last, is moved until the mean of what it is
    added to is, over the images, what it was. Rounding again to 8 bits, as converters do, changes nothing.

    Args:
      net: of float32, from images to logits.
      images: uint8 [n, image_size, image_size, 3], such as it was trained on; up to 64 of them, evenly, are used.
    """
    chosen = tf.constant(images[:: max(1, len(images) // _IMAGES)][:_IMAGES])
    wanted: dict[str, tf.Tensor] = {}

    def remember(layer: keras.layers.Layer, outputs: tf.Tensor) -> tf.Tensor:
        wanted[layer.path] = _mean(outputs)
        return outputs

    def correct(layer: keras.layers.Layer, outputs: tf.Tensor) -> tf.Tensor:
        missing = wanted[layer.path] - _mean(outputs)
        _bias(layer).assign_add(missing)
        return outputs + missing

    kept = net.get_weights()
    try:
        _watch(net, chosen, remember)
        for layer in backbones.leaves(net):
            if isinstance(layer, _CONVOLUTIONS):
                layer.kernel.assign(_rounded(np.asarray(layer.kernel), _axis(layer)))
        _watch(net, chosen, correct)
        yield
    finally:
        net.set_weights(kept)


def _watch(net: keras.Model, images: tf.Tensor, see: Callable[[keras.layers.Layer, tf.Tensor], tf.Tensor]) -> None:
    """Runs `net` on images with `see` between every layer that has a bias and its activation."""
    layers = [layer for layer in backbones.leaves(net) if _bias(layer) is not None]
    for layer in layers:
        layer.call = _seen(layer, layer.call, see)
    try:
        net(images, training=False)
    finally:
        for layer in layers:
            del layer.call  # the class has its own


def _seen(
    layer: keras.layers.Layer, call: Callable[..., tf.Tensor], see: Callable[[keras.layers.Layer, tf.Tensor], tf.Tensor]
) -> Callable[..., tf.Tensor]:
    def call_and_see(*arguments: Any, **keywords: Any) -> tf.Tensor:
        activation = getattr(layer, "activation", None)
        if activation is None:
            return see(layer, call(*arguments, **keywords))
        layer.activation = keras.activations.linear
        try:
            outputs = call(*arguments, **keywords)
        finally:
            layer.activation = activation
        return activation(see(layer, outputs))

    return call_and_see


def _bias(layer: keras.layers.Layer) -> Any:
    """The variable that is added to every position of a channel, None where there is none."""
    return getattr(layer, "beta" if isinstance(layer, keras.layers.BatchNormalization) else "bias", None)


def _mean(outputs: tf.Tensor) -> tf.Tensor:
    """float32 [channels]"""
    return tf.reduce_mean(outputs, range(len(outputs.shape) - 1))


def _axis(layer: keras.layers.Layer) -> int:
    """Where a kernel has its channels."""
    return 2 if isinstance(layer, keras.layers.DepthwiseConv2D) else 3


def _rounded(kernel: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    """To 255 levels, 0 in the middle, as many each channel; the largest stays what it is."""
    others = tuple(index for index in range(kernel.ndim) if index != axis)
    scale = np.abs(kernel).max(axis=others, keepdims=True) / _LEVELS
    return np.asarray(np.round(kernel / np.where(scale > 0, scale, 1)) * scale, np.float32)


_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
