"""Decoded pixels of any kind in, what a viewer would show of them as 8-bit sRGB out."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms

from pipeline.formats import ImageError

_BAND_PIXELS = 2**20  # at a time, where a conversion takes more than one further copy of the image
_ALPHA = ("LA", "PA", "RGBA", "La", "RGBa")
_OPAQUE = ("L", "RGB", "CMYK")
# Printers' profiles, the largest, have 0.5 to 3 MB; what is kept of the last 16 stays below 64 MiB.
_MAX_PROFILE_BYTES = 4 * 2**20
# Levels of 255. Profiles named sRGB differ by rounding; those of other colour spaces by tens, a plain gamma 2.2 by 7.
_SRGB_TOLERANCE = 3
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
_SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}


def flatten(image: Image.Image, full_scale: int = 65535, *, white_is_zero: bool = False) -> Image.Image:
    """Brings a loaded image into mode L, RGB or CMYK, its transparent parts laid on white as viewers do.

    Args:
      image: in any of Pillow's modes.
      full_scale: white, where a channel has more than 8 bits.
      white_is_zero: whether such a channel is inverted.

    Raises:
      ImageError: `unsupported_depth` for pixels that have no agreed range.
    """
    if image.mode.startswith("I;16"):
        transparent = image.info.get("transparency")
        image = _by_bands(image, "L", lambda band: _eight_bits(band, full_scale, white_is_zero))
        if isinstance(transparent, int):
            image.info["transparency"] = transparent * 255 // full_scale
    if image.mode in ("I", "F", "LAB"):
        raise ImageError("unsupported_depth", f"pixels of mode {image.mode}")
    if image.mode in _ALPHA or "transparency" in image.info:
        return _by_bands(image, "L" if image.mode in ("1", "L", "LA", "La") else "RGB", _on_white)
    if image.mode in _OPAQUE:
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Turns a flat image into mode RGB, by its ICC profile where it has one that fits; others count as sRGB."""
    if profile:
        if image.mode == "L" and _transform(profile, "L") is None:
            image = image.convert("RGB")  # a gray image in a coloured space
        if transform := _transform(profile, image.mode):
            return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def is_srgb(profile: bytes | None) -> bool:
    """Whether pixels of mode RGB with this ICC profile are stored as they are: it is sRGB, by whatever name."""
    return not profile or _transform(profile, "RGB") is None


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From `profile` to sRGB; None where it is broken, is of another kind than `mode`, or is sRGB itself.

    Relative to the media's white and with black point compensation, as photo editors convert unless told otherwise:
    paper white becomes white and the deepest ink black. https://www.color.org/ICC.1-2022-05.pdf
    """
    if len(profile) > _MAX_PROFILE_BYTES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != _SPACES[mode]:
            return None
        transform = ImageCms.ImageCmsTransform(
            source,
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            # For gray lcms would fit 33 points to the curve, 7 levels off where a linear one is dark.
            flags=_FLAGS | ImageCms.Flags.NOOPTIMIZE if mode == "L" else _FLAGS,
        )
        if mode == "RGB":
            levels = np.linspace(0, 255, 9).astype(np.uint8)
            colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
            shown = np.asarray(transform.apply(Image.fromarray(colors)))
            if np.abs(shown.astype(int) - colors).max() <= _SRGB_TOLERANCE:
                return None
    except Exception:  # noqa: BLE001  # lcms raises many types on a broken profile, and viewers then ignore it
        return None
    return transform


def _by_bands(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """`convert` gives bands of `mode`; what it needs beside them then stays small, however large the image."""
    result = Image.new(mode, image.size)
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        result.paste(convert(image.crop((0, top, image.width, min(top + rows, image.height)))), (0, top))
    return result


def _on_white(image: Image.Image) -> Image.Image:
    gray = image.mode in ("1", "L", "LA", "La")
    image = image.convert("LA" if gray else "RGBA")
    white = Image.new("L" if gray else "RGB", image.size, "white")
    white.paste(image.getchannel(0) if gray else image.convert("RGB"), mask=image.getchannel("A"))
    return white


def _eight_bits(image: Image.Image, full_scale: int, white_is_zero: bool) -> Image.Image:
    """16-bit gray to mode L: 65535 becomes 255, so a level is 257 and not 256."""
    values = np.minimum(np.asarray(image).astype(np.uint32), full_scale)
    levels = (values * 255 + full_scale // 2) // full_scale
    return Image.fromarray((255 - levels if white_is_zero else levels).astype(np.uint8))
