"""Pictures that several tests read, in many formats: drawn here, or scikit-learn's two photos."""

from __future__ import annotations

import functools
import io
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pillow_heif
import sklearn.datasets
from PIL import Image

Pixels = npt.NDArray[np.uint8]
# Smooth enough for JPEG to keep, different in every corner.
RED, BLUE = np.meshgrid(np.linspace(0, 255, 48), np.linspace(0, 255, 32))
UPRIGHT = np.stack([RED, np.full_like(RED, 60), BLUE], axis=-1).astype(np.uint8)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    if format == "HEIF":  # from_pillow, since nothing of ours registers pillow-heif with Pillow
        buffer = io.BytesIO()
        pillow_heif.from_pillow(image).save(buffer, **options)
        return buffer.getvalue()
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> Pixels:
    """What the decoder of training sees."""
    import tensorflow as tf

    decoded: Pixels = tf.io.decode_image(data, channels=3, expand_animations=False).numpy()
    return decoded


@functools.cache
def photo(name: str = "china") -> bytes:
    """A real JPEG of 640x427."""
    return (pathlib.Path(sklearn.datasets.__file__).parent / f"images/{name}.jpg").read_bytes()


@functools.cache
def kinds() -> dict[str, bytes]:
    """One small file of every kind."""
    image = Image.fromarray(UPRIGHT)
    alpha = image.copy()
    alpha.putalpha(Image.fromarray(UPRIGHT[..., 2]))
    gray16 = Image.fromarray(UPRIGHT[..., 0].astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "jpeg": encode(image, "JPEG", quality=95),
        "jpeg, progressive": encode(image, "JPEG", progressive=True),
        "jpeg, gray": encode(image.convert("L"), "JPEG"),
        "jpeg, CMYK": encode(image.convert("CMYK"), "JPEG"),
        "jpeg, turned": encode(image, "JPEG", exif=turned),
        "mpo": encode(image, "MPO", save_all=True, append_images=[image]),
        "png": encode(image, "PNG"),
        "png, gray": encode(image.convert("L"), "PNG"),
        "png, gray and alpha": encode(alpha.convert("LA"), "PNG"),
        "png, 1 bit": encode(image.convert("1"), "PNG"),
        "png, palette": encode(image.convert("P"), "PNG"),
        "png, palette with alpha": encode(image.convert("P"), "PNG", transparency=bytes(range(256))),
        "png, one colour transparent": encode(image, "PNG", transparency=(0, 60, 0)),
        "png, alpha": encode(alpha, "PNG"),
        "png, 16 bit": encode(gray16, "PNG"),
        "png, turned": encode(image, "PNG", exif=turned),
        "gif": encode(image.convert("P"), "GIF"),
        "gif, animated": encode(image, "GIF", save_all=True, append_images=[image.rotate(180)]),
        "bmp": encode(image, "BMP"),
        "webp": encode(image, "WEBP"),
        "webp, lossless with alpha": encode(alpha, "WEBP", lossless=True),
        "webp, animated": encode(image, "WEBP", save_all=True, append_images=[image.rotate(180)]),
        "tiff": encode(image, "TIFF"),
        "tiff, 16 bit": encode(gray16, "TIFF"),
        "tiff, deflate": encode(image, "TIFF", compression="tiff_adobe_deflate"),
        "tiff, lzw, alpha": encode(alpha, "TIFF", compression="tiff_lzw"),
        "tiff, jpeg": encode(image, "TIFF", compression="jpeg", quality=95),
        "tiff, fax": encode(image.convert("1"), "TIFF", compression="group4"),
        "tiff, CMYK": encode(image.convert("CMYK"), "TIFF"),
        "tiff, turned": encode(image, "TIFF", exif=turned),
        "tiff, float": encode(Image.fromarray(UPRIGHT[..., 0].astype(np.float32)), "TIFF"),
        "heic": encode(image, "HEIF", quality=90),
        "heic, alpha": encode(alpha, "HEIF", quality=90),
        "avif": encode(image, "AVIF", quality=90),
        "avif, alpha": encode(alpha, "AVIF", quality=90),
        "text": b"this is a text file named .jpg",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "nothing": b"",
    }
