"""A file gives in the graph the pixels that preparation and evaluation give, or is refused in words."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline import images
from tests.pipeline import pictures
from tests.trainer.export.test_exif import metadata
from trainer import classifier
from trainer.export import preparation

SIZE, CROP = 40, 0.875
# Mean levels of 255 by which scaling differs from Pillow's, which computes in whole numbers.
CLOSE = 0.05


def prepared(storing: images.Storing) -> Callable[[bytes], np.ndarray]:
    graph = tf.function(
        lambda encoded: preparation.prepare(encoded, storing=storing, image_size=SIZE, crop_fraction=CROP).images,
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )
    return lambda file: graph(file).numpy().astype(np.float32)


def by_trainer(file: bytes, storing: images.Storing) -> np.ndarray:
    pixels = classifier.prepare(file, storing=storing, image_size=SIZE, crop_fraction=CROP)
    return pixels.numpy().astype(np.float32)


@pytest.fixture(scope="module")
def as_they_are() -> Callable[[bytes], np.ndarray]:
    return prepared(images.Storing())


def test_what_is_stored_as_it_came_gives_the_same_pixels(
    as_they_are: Callable[[bytes], np.ndarray],
) -> None:
    kinds = pictures.kinds()
    for name in ("jpeg", "jpeg, progressive", "mpo", "png", "png, gray", "png, palette", "png, 1 bit"):
        np.testing.assert_array_equal(as_they_are(kinds[name]), by_trainer(kinds[name], images.Storing()), name)


def test_what_preparation_turns_or_flattens_gives_the_same_pixels(as_they_are: Callable[[bytes], np.ndarray]) -> None:
    kinds = pictures.kinds()
    for name in (
        *("jpeg, gray", "jpeg, turned", "png, alpha", "png, gray and alpha", "png, 16 bit"),
        *("png, one colour transparent", "png, palette with alpha"),
    ):
        np.testing.assert_array_equal(as_they_are(kinds[name]), by_trainer(kinds[name], images.Storing()), name)


@pytest.mark.parametrize("chroma", ["4:2:0", "4:4:4"])
def test_what_is_larger_than_stored_is_scaled_down_first(chroma: str) -> None:
    storing = images.Storing(shorter_side=96, jpeg_quality=80, chroma=chroma)
    graph, without = prepared(storing), prepared(images.Storing())
    with Image.open(io.BytesIO(pictures.photo())) as photo:
        files = [pictures.photo(), pictures.encode(photo, "PNG")]
        files += [pictures.encode(photo, "JPEG", exif=metadata(orientation, ">"), quality=95) for orientation in (3, 6)]
    for file in files:
        expected = by_trainer(file, storing)
        assert np.abs(graph(file) - expected).mean() < CLOSE
        # Left out, the scaling and compressing of preparation would show.
        assert np.abs(without(file) - expected).mean() > 20 * CLOSE


@pytest.mark.parametrize("times", [2.1, 3.9, 4.1, 8.3, 17.2])
def test_large_photos_are_decoded_to_as_few_pixels_as_preparation_decodes(times: float) -> None:
    """To a half from 4 times the size on, a quarter from 8, an eighth from 16; sides are no multiples of them."""
    storing = images.Storing(shorter_side=96, jpeg_quality=80)
    graph = prepared(storing)
    with Image.open(io.BytesIO(pictures.photo())) as photo:
        enlarged = photo.resize((round(97 * times) * 3 // 2 + 1, round(97 * times) | 1), Image.Resampling.BICUBIC)
    for orientation in (1, 6):
        file = pictures.encode(enlarged, "JPEG", exif=metadata(orientation, ">"), quality=95)
        assert np.abs(graph(file) - by_trainer(file, storing)).mean() < CLOSE


def test_a_png_of_many_times_the_size_comes_close() -> None:
    """Pillow averages it down first, which the graph does not."""
    storing = images.Storing(shorter_side=96)
    with Image.open(io.BytesIO(pictures.photo())) as photo:
        file = pictures.encode(photo.resize((901, 797), Image.Resampling.BICUBIC), "PNG")
    assert np.abs(prepared(storing)(file) - by_trainer(file, storing)).mean() < 2


def test_what_it_cannot_read_is_refused_in_words(as_they_are: Callable[[bytes], np.ndarray]) -> None:
    kinds = pictures.kinds()
    for name in ("nothing", "text", "gif", "bmp", "webp", "tiff", "heic", "avif", "svg"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="image_bytes is no JPEG or PNG"):
            as_they_are(kinds[name])
    for name in ("jpeg", "png"):
        for length in (10, len(kinds[name]) // 2):
            with pytest.raises(tf.errors.InvalidArgumentError):
                as_they_are(kinds[name][:length])
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + kinds["png"][33:]
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="too many pixels"):
        as_they_are(bomb)
