"""Crops and resizes against Pillow and against arithmetic, eagerly and inside `Dataset.map`."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline import decode

RNG = np.random.default_rng(0)


def _smooth(height: int, width: int) -> np.ndarray:
    """Two gradients and a wave: resampling differences stay small, misplacement shows."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [255 * y / (height - 1), 255 * x / (width - 1), 127.5 + 127.5 * np.sin((x + y) / 20)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _mapped(function, image: np.ndarray) -> np.ndarray:
    """`function` of one image, traced inside Dataset.map with unknown height and width."""
    dataset = tf.data.Dataset.from_generator(
        lambda: iter([image]), output_signature=tf.TensorSpec([None, None, 3], tf.uint8)
    )
    return next(iter(dataset.map(function))).numpy()


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_decode_gives_pillows_pixels_in_three_channels(file_format: str, mode: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(_smooth(40, 60)).convert(mode).save(buffer, file_format)
    expected = np.asarray(Image.open(buffer).convert("RGB"), int)
    found = decode.decode(tf.constant(buffer.getvalue())).numpy()
    assert found.shape == (40, 60, 3)
    # JPEG decoders may round differently; PNG has nothing to round.
    assert np.abs(found - expected).max() <= (0 if file_format == "PNG" else 3)


@pytest.mark.parametrize(("height", "width"), [(300, 200), (200, 300), (100, 100), (41, 97)])
def test_central_crop_is_pillows_antialiased_resize(height: int, width: int) -> None:
    image, size, fraction = _smooth(height, width), 80, 0.875
    shorter = size / fraction
    scaled = [round(side * shorter / min(height, width)) for side in (height, width)]
    resized = Image.fromarray(image).resize(scaled[::-1], Image.Resampling.BILINEAR)
    top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    expected = np.asarray(resized.crop((left, top, left + size, top + size)), int)

    def crop(pixels: tf.Tensor) -> tf.Tensor:
        return decode.central_crop(pixels, image_size=size, crop_fraction=fraction)

    found = crop(tf.constant(image)).numpy()
    assert np.abs(found - expected).max() <= 2
    np.testing.assert_array_equal(_mapped(crop, image), found)


@pytest.mark.parametrize("shape", [(100_000, 1), (1, 100_000), (3000, 40)])
def test_a_thin_image_takes_no_more_memory_than_its_middle(shape: tuple[int, int]) -> None:
    """Enlarged whole, the first would be 18 million pixels high and 183 wide: more than 30 GB."""
    image = np.zeros([*shape, 3], np.uint8)
    middle = [slice(max(0, side // 2 - 60), side // 2 + 60) for side in shape]
    image[middle[0], middle[1]] = 200
    found = decode.central_crop(tf.constant(image), image_size=32, crop_fraction=0.875).numpy()
    assert (found == 200).all()


def test_antialiasing_averages_what_plain_sampling_would_miss() -> None:
    noise = RNG.integers(0, 256, [512, 512, 3], dtype=np.uint8)
    found = decode.central_crop(tf.constant(noise), image_size=32, crop_fraction=1.0).numpy()
    assert found.std() < 15  # of 74 in the noise itself


def test_random_crop_of_everything_is_a_plain_resize() -> None:
    image = _smooth(64, 64)
    found = decode.random_resized_crop(
        tf.constant(image), image_size=32, area=(1.0, 1.0), seed=tf.constant([1, 2], tf.int64), flip=False
    ).numpy()
    expected = tf.image.resize(image, [32, 32]).numpy()
    assert np.abs(found - expected).max() <= 0.5


def test_random_crop_repeats_with_its_seed_and_varies_without() -> None:
    image = tf.constant(_smooth(90, 120))

    def crop(index: int) -> np.ndarray:
        seed = tf.constant([3, index], tf.int64)
        return decode.random_resized_crop(image, image_size=32, area=(0.1, 0.5), seed=seed, flip=True).numpy()

    crops = [crop(index) for index in range(64)]
    for index in (0, 5):
        np.testing.assert_array_equal(crop(index), crops[index])
        in_map = _mapped(
            lambda pixels, index=index: decode.random_resized_crop(
                pixels, image_size=32, area=(0.1, 0.5), seed=tf.constant([3, index], tf.int64), flip=True
            ),
            image.numpy(),
        )
        np.testing.assert_array_equal(in_map, crops[index])
    assert len({crop.tobytes() for crop in crops}) == 64
    # Red is a ramp down the image, green one to the right: their spans are the box's height and width.
    heights = np.array([np.ptp(crop[..., 0].astype(int)) / 255 for crop in crops])
    widths = np.array([np.ptp(crop[..., 1].astype(int)) / 255 for crop in crops])
    areas = heights * widths
    assert 0.05 < areas.min() < 0.2
    assert 0.4 < areas.max() < 0.55
    mirrored = [crop[0, 0, 1] > crop[0, -1, 1] for crop in crops]
    assert 18 <= sum(mirrored) <= 46  # 64 fair coins stay inside with probability 0.9998


def test_no_flip_means_none() -> None:
    image = tf.constant(_smooth(90, 120))
    for index in range(32):
        crop = decode.random_resized_crop(
            image, image_size=32, area=(0.1, 1.0), seed=tf.constant([0, index], tf.int64), flip=False
        ).numpy()
        assert crop[0, 0, 1] < crop[0, -1, 1]
