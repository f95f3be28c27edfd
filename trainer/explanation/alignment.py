"""A layer of a network in; where in the image the places of its feature map lie, and maps laid over the image, out.

Computing Receptive Fields of Convolutional Neural Networks (https://distill.pub/2019/computing-receptive-fields).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

_FINER = 2  # keeps a place that lies between two others as sharp as one that doesn't; more only adds numbers


class Axis(NamedTuple):
    """Place i of a layer sees most of the image around pixel first_px + i * step_px; pixel 0's centre is 0."""

    first_px: float
    step_px: int


def axes(layer: keras.layers.Layer) -> tuple[Axis, Axis]:
    """Of the rows and the columns of a layer's feature map, counted from the input of the model it is in.

    Follows each layer's first input: connections around others, and the gates of squeeze-and-excitation, begin and end
    where these do. Layers without kernel and padding have their input's places.
    """
    chain: list[tuple[keras.layers.Layer, tuple[int, ...]]] = []  # the last first, with the shapes of their inputs
    while not isinstance(layer, keras.layers.InputLayer):
        before = layer.input[0] if isinstance(layer.input, list | tuple) else layer.input
        chain.append((layer, before.shape))
        layer = before._keras_history.operation
    rows = columns = Axis(0.0, 1)
    for behind, shape in reversed(chain):
        rows, columns = _behind(behind, shape[1], rows, 0), _behind(behind, shape[2], columns, 1)
    return rows, columns


def _behind(layer: keras.layers.Layer, size: int, axis: Axis, which: int) -> Axis:
    """Where the places of a layer lie, from where those of its input do, `size` of them."""
    if isinstance(layer, keras.layers.ZeroPadding2D):
        return Axis(axis.first_px - layer.padding[which][0] * axis.step_px, axis.step_px)
    kernel: Any = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None)
    if kernel is None:
        return axis
    stride = layer.strides[which]
    reach = getattr(layer, "dilation_rate", (1, 1))[which] * (kernel[which] - 1)
    # TensorFlow's SAME puts the odd one of what it pads at the end:
    # https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2
    padded = max((-(-size // stride) - 1) * stride + reach + 1 - size, 0) // 2 if layer.padding == "same" else 0
    return Axis(axis.first_px + axis.step_px * (reach / 2 - padded), axis.step_px * stride)


def over_image(maps: tf.Tensor, layer: keras.layers.Layer, *, image_size: int) -> tf.Tensor:
    """Lays a layer's maps over the image by where their places lie, bilinearly, and twice as fine.

    A layer's first place does not lie in the middle of the first of so many equal parts of the image, where enlarging
    its map would show it. Where a stride pads at one end alone, as in MobileNetV2 and the EfficientNets, all lie half a
    part further down and to the right (15.5 pixels at the last layer), in ResNet50 as far up and to the left, and in
    VGG16 in the middle.

    Measured by gradients, that holds within 4 pixels for MobileNetV2 and ResNet50 with random weights. Training makes
    up for some of it: heat of a photo and of its mirror images was off by 11 pixels across and 8 down on banana leaves
    at 160, which this makes 4 and 0, and by 5 and 9 on CIFAR-10 at 192, which it makes 8 and 4 to the other side. How
    much of the heat lies on the right one of four photos stayed the same.

    Args:
      maps: float32 [n, h, w] of `layer`.
      image_size: pixels of a side.

    Returns:
      float32 [n, 2 h, 2 w], or [n, image_size, image_size] where that is less: the values at the centres of so many
      equal parts of the image. Beyond the first and the last place theirs go on.
    """
    rows, columns = axes(layer)
    down = _between(maps.shape[1], rows, image_size)
    across = _between(maps.shape[2], columns, image_size)
    return tf.einsum("yh,nhw,xw->nyx", down, maps, across)


def _between(count: int, axis: Axis, image_size: int) -> npt.NDArray[np.float32]:
    """[parts, count]: how much of each place goes into each part."""
    parts = min(_FINER * count, image_size)
    centres_px = (np.arange(parts) + 0.5) * image_size / parts - 0.5
    places = np.clip((centres_px - axis.first_px) / axis.step_px, 0, count - 1)
    return np.maximum(1 - np.abs(places[:, np.newaxis] - np.arange(count)), 0).astype(np.float32)
