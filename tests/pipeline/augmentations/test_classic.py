"""The classic set against Keras' ImageDataGenerator, eagerly and inside `Dataset.map`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from pipeline.augmentations import classic

SIZE = 64


def _smooth() -> np.ndarray:
    y, x = np.mgrid[0:SIZE, 0:SIZE] / (SIZE - 1)
    channels = [20 + 200 * y, 20 + 200 * x, 120 + 100 * np.sin(5 * (x + y))]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


IMAGE = _smooth()


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"theta": 20.0},
        {"tx": 5.0, "ty": -3.0},
        {"shear": 5.7},
        {"zx": 0.9, "zy": 1.1},
        {"theta": -13.0, "tx": -6.0, "ty": 4.0, "shear": -4.0, "zx": 1.07, "zy": 0.93},
    ],
)
def test_geometry_is_image_data_generators(parameters: dict[str, float]) -> None:
    reference = ImageDataGenerator(interpolation_order=0, data_format="channels_last", fill_mode="nearest")
    expected = reference.apply_transform(IMAGE.astype(np.float32), parameters)

    def transform(image: tf.Tensor) -> tf.Tensor:
        matrix = classic.matrix(
            theta=math.radians(parameters.get("theta", 0)),
            shift=tf.constant([parameters.get("tx", 0.0), parameters.get("ty", 0.0)]),
            shear=math.radians(parameters.get("shear", 0)),
            zoom=tf.constant([parameters.get("zx", 1.0), parameters.get("zy", 1.0)]),
            size=SIZE,
        )
        return classic.warp(image, matrix)

    found = transform(tf.constant(IMAGE)).numpy()
    # Half-way between two pixels either is nearest, and a pixel is 6 levels from the next.
    differs = np.abs(found - expected)
    assert differs.max() <= 7
    assert (differs > 0).mean() < 0.01
    np.testing.assert_array_equal(next(iter(tf.data.Dataset.from_tensors(IMAGE).map(transform))), found)


@pytest.mark.parametrize("channel_shift", [-25.0, 0.0, 20.0])
@pytest.mark.parametrize("brightness", [0.8, 1.0, 1.2])
def test_light_is_image_data_generators(channel_shift: float, brightness: float) -> None:
    reference = ImageDataGenerator(brightness_range=(0.8, 1.2), channel_shift_range=25.0, data_format="channels_last")
    expected = reference.apply_transform(
        IMAGE.astype(np.float32), {"channel_shift_intensity": channel_shift, "brightness": brightness}
    )

    def relight(image: tf.Tensor) -> tf.Tensor:
        return classic.relight(image, channel_shift=tf.constant(channel_shift), brightness=tf.constant(brightness))

    found = relight(tf.constant(IMAGE)).numpy()
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1  # Pillow's brightness cuts off, ours rounds
    np.testing.assert_array_equal(next(iter(tf.data.Dataset.from_tensors(IMAGE).map(relight))), found)


def _drawn(monkeypatch: pytest.MonkeyPatch, count: int) -> dict[str, np.ndarray]:
    """What `classic` gives to its two parts, for `count` seeds."""
    seen: dict[str, list[np.ndarray]] = {}
    matrix, relight = classic.matrix, classic.relight

    def keep(values: dict[str, tf.Tensor]) -> None:
        for name in values.keys() - {"size"}:
            seen.setdefault(name, []).append(np.asarray(values[name]))

    monkeypatch.setattr(classic, "matrix", lambda **values: (keep(values), matrix(**values))[1])
    monkeypatch.setattr(classic, "relight", lambda image, **values: (keep(values), relight(image, **values))[1])
    for index in range(count):
        classic.classic(tf.constant(IMAGE), tf.constant([5, index], tf.int64))
    return {name: np.array(values) for name, values in seen.items()}


def test_settings_are_uniform_in_the_issues_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = _drawn(monkeypatch, 400)
    ranges = {
        "theta": (-math.radians(20), math.radians(20)),
        "shift": (-0.1 * SIZE, 0.1 * SIZE),
        "shear": (-0.1, 0.1),
        "zoom": (0.9, 1.1),
        "channel_shift": (-25.5, 25.5),
        "brightness": (0.8, 1.2),
    }
    assert drawn.keys() == ranges.keys()
    assert drawn["shift"].shape == drawn["zoom"].shape == (400, 2)
    for name, (low, high) in ranges.items():
        values, width = drawn[name], high - low
        assert low <= values.min() < low + 0.05 * width, name
        assert high - 0.05 * width < values.max() <= high, name
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.08 * width), name
    columns = np.column_stack(list(drawn.values()))
    apart = np.corrcoef(columns, rowvar=False) - np.eye(columns.shape[1])
    assert np.abs(apart).max() < 0.25  # each is drawn by itself; 5 standard deviations


def test_an_image_has_an_up_and_seeds_repeat() -> None:
    """Red rises downwards: it would fall in an image that was turned over."""
    dataset = tf.data.Dataset.range(50).map(lambda index: classic.classic(tf.constant(IMAGE), tf.stack([9, index])))
    images = np.stack(list(dataset.as_numpy_iterator())).astype(int)
    assert images.shape == (50, SIZE, SIZE, 3)
    assert (images[:, -1, SIZE // 2, 0] > images[:, 0, SIZE // 2, 0] + 50).all()
    assert len({image.tobytes() for image in images}) == 50
    again = classic.classic(tf.constant(IMAGE), tf.constant([9, 3], tf.int64))
    np.testing.assert_array_equal(again, images[3])
