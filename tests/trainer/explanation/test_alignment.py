"""Where a layer's places lie, against the middle of the pixels that they depend on."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import backbones
from trainer.explanation import alignment, grad_cam

# At 64 pixels. MobileNetV2 and the EfficientNets pad strides at the end alone, five times: 1 + 2 + 4 + 8 + 16. ResNet50
# pads its first two at both ends and puts kernels of 1 at every second place: 0. VGG16 pools four times by 2x2: half a
# pixel of 1 + 2 + 4 + 8.
LAST = {"mobilenetv2": (31, 32), "efficientnet_b0": (31, 32), "efficientnetv2_b0": (31, 32), "resnet50": (0, 32)}


def test_places_lie_in_the_middle_of_what_they_depend_on() -> None:
    """Kernels, strides, dilation and paddings of all kinds; with equal weights the gradient says how much it sees."""
    images = keras.Input([201, 200, 1])
    ones = {"kernel_initializer": "ones", "use_bias": False}
    layers = [
        keras.layers.Conv2D(1, 3, strides=2, padding="same", **ones),
        keras.layers.ZeroPadding2D(((0, 1), (2, 1))),
        keras.layers.Conv2D(1, (3, 5), strides=(2, 1), **ones),
        keras.layers.AveragePooling2D(2),
        keras.layers.Conv2D(1, 3, dilation_rate=2, padding="same", **ones),
        keras.layers.Conv2D(1, 4, padding="same", **ones),
    ]
    x = images
    for layer in layers:
        x = layer(x)
    net = keras.Model(images, x)
    row, column = 12, 24
    pixels = tf.ones([1, 201, 200, 1])
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        place = net(pixels)[0, row, column, 0]
    share = tape.gradient(place, pixels)[0, :, :, 0].numpy()
    seen = np.indices(share.shape).reshape(2, -1) @ (share / share.sum()).ravel()
    rows, columns = alignment.axes(layers[-1])
    np.testing.assert_allclose([rows.first_px + row * rows.step_px, columns.first_px + column * columns.step_px], seen)


@pytest.mark.parametrize("backbone", ["mobilenetv2", *(pytest.param(n, marks=pytest.mark.soak) for n in LAST)])
def test_places_of_the_backbones(backbone: str) -> None:
    width = 0.35 if backbone == "mobilenetv2" else None
    features = backbones.build(backbone, image_size=64, width=width)
    assert alignment.axes(grad_cam.find_layer(features, None)) == (LAST[backbone],) * 2


def test_places_of_vgg16() -> None:
    features = backbones.build("vgg16", image_size=64, width=None)
    assert alignment.axes(features.get_layer("block5_conv3")) == ((7.5, 16),) * 2


def test_a_map_is_laid_where_its_places_lie() -> None:
    """By hand: places at 1 and 3 of 4 pixels; parts at 0, 1, 2, 3, before the first of which it goes on."""
    images = keras.Input([4, 4, 1])
    layer = keras.layers.Conv2D(1, 3, strides=2, padding="same")
    layer(images)
    laid = alignment.over_image(tf.constant([[[1.0, 2.0], [3.0, 4.0]]]), layer, image_size=4)
    np.testing.assert_allclose(laid[0], [[1, 1, 1.5, 2], [1, 1, 1.5, 2], [2, 2, 2.5, 3], [3, 3, 3.5, 4]])
