"""A photo to predict is stored in the mind as the dataset's photos were on disk."""

from __future__ import annotations

import io

import numpy as np
import tensorflow as tf
from PIL import Image

from pipeline import decode, images
from trainer import classifier


def photo() -> bytes:
    """800 by 600 pixels of waves, which scaling changes."""
    y, x = np.mgrid[:600, :800]
    waves = 127 + 60 * np.sin(x / 3) + 60 * np.sin(y / 2)
    pixels = np.stack([waves, waves[::-1], waves[:, ::-1]], -1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def test_a_photo_is_stored_as_the_dataset_s_were_before_it_is_cropped() -> None:
    storing = images.Storing(shorter_side=128, jpeg_quality=90, chroma="4:2:0")
    stored = images.standardize(photo(), storing).data
    expected = decode.central_crop(decode.decode(tf.constant(stored)), image_size=96, crop_fraction=0.875)
    given = classifier.prepare(photo(), storing=storing, image_size=96, crop_fraction=0.875)
    np.testing.assert_array_equal(given, expected)
    unstored = classifier.prepare(photo(), storing=images.Storing(), image_size=96, crop_fraction=0.875)
    assert np.any(np.not_equal(unstored, expected))
