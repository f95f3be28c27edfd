"""An image and a heatmap in; the image with the heatmap over it, and both as files, out."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image

# Perceptually uniform: equal steps of the map look equally large, and grow in lightness alone for who sees no colours.
_COLOURS = "inferno"
_OPACITY = 0.7  # of the hottest place, through which the object can still be made out
_GREY = np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601, as JPEG has it


def overlay(image: npt.NDArray[np.uint8], heatmap: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Lays colour over the image in grey, so that no colour of the object passes for heat.

    Colour is as opaque as its place is hot: where nothing speaks for the class the image shows through as it is.

    Args:
      image: uint8 [height, width, 3].
      heatmap: floating [h, w] in 0..1, of any size; scaled bilinearly between the centres of its places.

    Returns:
      uint8 [height, width, 3].

    Raises:
      ValueError: where the heatmap is not within 0..1, NaN included.
    """
    if not (np.min(heatmap) >= 0 and np.max(heatmap) <= 1):
        raise ValueError(f"heatmap from {np.min(heatmap)} to {np.max(heatmap)}, expected 0..1")
    height, width, _ = image.shape
    small = Image.fromarray(np.asarray(heatmap, np.float32))
    heat = np.clip(np.asarray(small.resize((width, height), Image.Resampling.BILINEAR)), 0, 1)
    colours = 255 * matplotlib.colormaps[_COLOURS](heat)[..., :3]
    opacity = _OPACITY * heat[..., np.newaxis]
    blended = (1 - opacity) * (image @ _GREY)[..., np.newaxis] + opacity * colours
    return np.rint(blended).astype(np.uint8)


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """Without loss."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(image: npt.NDArray[np.uint8], *, side_px: int, quality: int) -> bytes:
    """At most `side_px` wide and high, and never enlarged; with colour at half the resolution."""
    picture = Image.fromarray(image)
    picture.thumbnail((side_px, side_px), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling="4:2:0", optimize=True)
    return buffer.getvalue()
