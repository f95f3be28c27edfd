"""Heat over an image, pixel by pixel."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from trainer.explanation import overlay

PHOTO = np.random.default_rng(0).integers(0, 256, [4, 4, 3], dtype=np.uint8)
GREY = np.asarray(Image.fromarray(PHOTO).convert("L"), np.float64)
# The last entry of matplotlib's table, https://github.com/matplotlib/matplotlib/blob/main/lib/matplotlib/_cm_listed.py
HOTTEST = 255 * np.array([0.988362, 0.998364, 0.644924])


def test_nothing_leaves_the_image_in_grey() -> None:
    found = overlay.overlay(PHOTO, np.zeros([2, 2], np.float32))
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, np.repeat(GREY[..., np.newaxis], 3, axis=-1), atol=1)


def test_the_hottest_place_is_seen_through_the_colour() -> None:
    found = overlay.overlay(PHOTO, np.ones([2, 2], np.float32))
    np.testing.assert_allclose(found, 0.3 * GREY[..., np.newaxis] + 0.7 * HOTTEST, atol=1.5)


def test_heat_lies_between_the_centres_of_its_places() -> None:
    """Two places over four pixels: 0, a quarter, three quarters, 1; over black that is how opaque the colour is."""
    found = overlay.overlay(np.zeros([4, 4, 3], np.uint8), np.array([[0, 1], [0, 1]], np.float32))
    flat = [overlay.overlay(np.zeros([1, 1, 3], np.uint8), np.full([1, 1], heat))[0, 0] for heat in (0, 0.25, 0.75, 1)]
    np.testing.assert_allclose(found, np.repeat([flat], 4, axis=0), atol=1)


@pytest.mark.parametrize("heat", [-0.1, 1.1, np.nan])
def test_what_is_no_heatmap_is_refused(heat: float) -> None:
    with pytest.raises(ValueError, match=r"expected 0\.\.1"):
        overlay.overlay(PHOTO, np.array([[0.5, heat]], np.float32))


def test_pictures_are_no_larger_than_asked_and_never_enlarged() -> None:
    photo = np.full([60, 40, 3], 200, np.uint8)
    for side_px, size in ((30, (20, 30)), (100, (40, 60))):
        with Image.open(io.BytesIO(overlay.jpeg(photo, side_px=side_px, quality=80))) as opened:
            assert (opened.format, opened.size) == ("JPEG", size)
    with Image.open(io.BytesIO(overlay.png(PHOTO))) as opened:
        np.testing.assert_array_equal(opened, PHOTO)
