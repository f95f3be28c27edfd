"""Occlusion against arithmetic over single pixels' weights, and with objects at known places."""

from __future__ import annotations

import keras
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tests.trainer.explanation import objects
from tests.trainer.explanation.objects import BLUE, RED
from trainer.explanation.occlusion import occlusion


def test_a_linear_model_loses_what_its_weights_saw() -> None:
    """Places of 2x2 pixels, squares of 3x3 places: each place has the mean over one to nine squares."""
    generator = np.random.default_rng(0)
    images = keras.Input([20, 20, 3], dtype="uint8")
    dense = keras.layers.Dense(2)
    net = keras.Model(images, dense(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))))
    dense.set_weights([generator.normal(size=[1200, 2]), np.array([3.0, -1.0])])
    image = generator.integers(0, 256, [20, 20, 3], dtype=np.uint8)
    weights = dense.get_weights()[0][:, 1].reshape(20, 20, 3)
    by_pixel = (weights * (image - np.rint(image.mean(axis=(0, 1)))) / 255).sum(axis=-1)
    by_place = by_pixel.reshape(10, 2, 10, 2).sum(axis=(1, 3))
    by_square = sliding_window_view(by_place, (3, 3)).sum(axis=(2, 3))
    over_place = sliding_window_view(np.pad(by_square, 2, constant_values=np.nan), (3, 3))
    around = np.nanmean(over_place, axis=(2, 3))
    expected = np.maximum(around, 0) / around.max()
    found = occlusion(net, image[np.newaxis], [1])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


def test_the_map_moves_with_the_object_of_its_class() -> None:
    net = objects.net()
    for row, column in ((0, 0), (12, 20), (24, 4)):
        pixels = objects.image((RED, row, column), (BLUE, 24 - row, 24 - column))
        red, blue = occlusion(net, [pixels, pixels], [RED, BLUE])
        for found, (top, left) in ((red, (row, column)), (blue, (24 - row, 24 - column))):
            place = np.array(np.unravel_index(found.argmax(), found.shape)) + 0.5
            np.testing.assert_allclose(place * objects.SIZE / len(found), [top + 4, left + 4], atol=4)


def test_an_image_of_one_colour_loses_nothing() -> None:
    assert not occlusion(objects.net(), objects.image()[np.newaxis], [RED]).any()
