"""A trained Keras model in; the forms of it that exported formats are made of out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from trainer import backbones, batch_norm, dropout


def entry(net: keras.Model) -> keras.Model:
    """uint8 images to what the first convolution takes, before any padding: where scaling, of whatever kind, is done.

    Args:
      net: of `trainer.model.build`, or likewise a chain of layers with one that is called `backbone`.
    """
    backbone = net.get_layer("backbone")
    before = net.layers[net.layers.index(backbone) - 1]
    first = next(layer for layer in backbone.layers if isinstance(layer, _FIRST))
    inside = keras.Model(backbone.input, first.input)
    return keras.Model(net.input, inside(before.output))


def with_embedding(net: keras.Model) -> keras.Model:
    """uint8 images to `logits` and `embedding`, float [n, features], what the head takes."""
    return keras.Model(net.input, {"logits": net.output, "embedding": net.get_layer("pool").output})


def of_floats(net: keras.Model, backbone: str) -> keras.Model:
    """The same model of float32 levels, 0 to 255, with the same variables: integer formats scale an input of floats."""
    levels = keras.Input(net.input_shape[1:], dtype="float32", name="images")
    features = net.get_layer("backbone")(backbones.scale(backbone, levels))
    return keras.Model(levels, net.get_layer("head")(net.get_layer("pool")(features)))


def answers(logits: tf.Tensor, temperature: float) -> dict[str, tf.Tensor]:
    """`logits` in float32, and their `probabilities`; see `predictions.softmax`."""
    logits = tf.cast(logits, tf.float32)
    return {"logits": logits, "probabilities": tf.nn.softmax(logits / temperature)}


@contextlib.contextmanager
def fixed(net: keras.Model) -> Iterator[None]:
    """While the block runs, functions of `net` have the statistics of `keras.layers.Normalization` as constants.

    It holds them as eager tensors, which become inputs of a function, and tf2onnx leaves those open.
    """
    layers = [layer for layer in backbones.leaves(net) if isinstance(layer, keras.layers.Normalization)]
    kept = [(layer.mean, layer.variance) for layer in layers]
    for layer in layers:
        layer.mean, layer.variance = (keras.ops.convert_to_numpy(value) for value in (layer.mean, layer.variance))
    try:
        yield
    finally:
        for layer, (mean, variance) in zip(layers, kept, strict=True):
            layer.mean, layer.variance = mean, variance


@contextlib.contextmanager
def plain(net: keras.Model) -> Iterator[None]:
    """While the block runs, `net` has layers of Keras only, in place of ours that compute the same."""
    placed = [layer for layer in backbones.leaves(net) if type(layer) is dropout.PlacedDropout]
    batch_norm.unfuse(net)
    for layer in placed:
        layer.__class__ = keras.layers.Dropout
    try:
        yield
    finally:
        dropout.place(net)
        batch_norm.fuse(net)


_FIRST = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.ZeroPadding2D)
