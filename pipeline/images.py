"""One image's bytes in; out come the bytes to store, or the facts about it with a small preview, or one reason why not.

Preparation and prediction both come through here, so a photo means the same to the model wherever it comes from.
`formats` reads files, `colors` reads pixels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline import colors, formats
from pipeline.errors import InputError
from pipeline.formats import MAX_PIXELS, REASONS, ImageError

__all__ = [
    "DECODING_GAP", "JPEG_QUALITY", "MAX_PIXELS", "PREVIEW_SIDE", "REASONS", "ImageError", "Inspected", "StandardImage",
    "Storing", "inspect", "standardize", "thumbnail",
]  # fmt: skip

# Re-encoding happens only where bytes cannot be kept; at 95 with full colour the loss is below what the eye sees.
JPEG_QUALITY = 95
# Twice the 32 pixels that perceptual hashes start from, and enough for colour statistics.
PREVIEW_SIDE = 64

_PREVIEW_LENGTH = 8192  # of the longer side: a strip 64 high and a million long would need as much as a large photo
_THUMBNAIL_QUALITY = 80
_JPEG_LENGTH = 65_500  # libjpeg's limit for a side
_SUBSAMPLING = {"4:4:4": 0, "4:2:0": 2}
# On trashnet (512x384 to 256) the whole of reading, scaling and encoding took 3.4 ms of CPU with bilinear, 4.3 with
# bicubic and 5.8 with Lanczos, whose extra sharpness comes with ringing. All three average over what they shrink.
_FILTER = Image.Resampling.BICUBIC
# JPEG is decoded to at least twice the size. Against scaling a full decode, two photos at five sizes then came out with
# 45 dB and more, with once the size 33.5; 12 million pixels to 256 took 28 ms, with once the size 20, with thrice 51.
DECODING_GAP = 2
# Other formats are averaged down to 3 times the size by whole boxes first: 53 dB, where twice gives 46.
_REDUCING_GAP = 3.0
# What undoes each EXIF orientation: CIPA DC-008 section 4.6.4.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True)
class Storing:
    """How images are stored.

    Raises:
      InputError: where a value is outside its range.
    """

    shorter_side: int = 0  # pixels; what is larger is scaled down so that its shorter side is this, 0: never
    jpeg_quality: int = JPEG_QUALITY
    chroma: str = "4:4:4"  # or "4:2:0", which halves the colour's resolution
    lossless: bool = False  # what came lossless and is scaled down becomes PNG, not JPEG

    def __post_init__(self) -> None:
        if self.shorter_side < 0:
            raise InputError(f"shorter_side is {self.shorter_side}: expected pixels, or 0 to leave sizes as they are")
        if not 1 <= self.jpeg_quality <= 100:
            raise InputError(f"jpeg_quality is {self.jpeg_quality}: expected 1 to 100 ({JPEG_QUALITY} loses little)")
        if self.chroma not in _SUBSAMPLING:
            raise InputError(f"chroma is {self.chroma!r}: expected {' or '.join(_SUBSAMPLING)}")

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height of what is stored of an image of this `size`."""
        shorter = min(size)
        if not self.shorter_side or shorter <= self.shorter_side:
            return size
        width, height = ((side * self.shorter_side + shorter // 2) // shorter for side in size)
        return width, height


@dataclasses.dataclass(frozen=True)
class StandardImage:
    """An upright 8-bit sRGB image as JPEG or PNG bytes."""

    data: bytes
    width: int
    height: int
    kept: bool  # True: `data` are the source bytes, untouched


@dataclasses.dataclass(frozen=True, eq=False)
class Inspected:
    """What is known of a file that decodes completely."""

    width: int  # of the upright source
    height: int
    kept: bool  # whether `standardize` would keep its bytes
    # Upright sRGB, uint8 [h, w, 3]; its shorter side has 64 to 127 pixels where the source has that many.
    preview: npt.NDArray[np.uint8]


def standardize(source: bytes, storing: Storing = Storing()) -> StandardImage:
    """Decodes `source` completely and returns it upright, sRGB, 8 bit, as JPEG or PNG.

    Complete JPEG and PNG files that already are so, and no larger than asked, are kept byte for byte. Others are turned
    upright (EXIF orientation), laid on white where they are transparent, scaled down where asked, converted to sRGB by
    their ICC profile, and encoded again: JPEG where the source was lossy or is scaled down, else PNG. Of animations and
    multi-page files the first image counts. Grayscale becomes RGB: TensorFlow would read it either way, but TFDS's
    readers without TensorFlow give one channel where the dataset's features promise three.

    Raises:
      ImageError: with a code from `REASONS`.
    """
    with _as_image_errors():
        decoded = _decode(source, storing, preview=False)
        if decoded.kept:
            return StandardImage(source, *decoded.size, kept=True)
        size = storing.size_of(decoded.size)
        scaled = size != decoded.size
        image = decoded.upright(lambda flat: _scale(flat, decoded, size) if scaled else flat)
    png = not decoded.opened.lossy and (storing.lossless or not scaled)
    return StandardImage(_encode(image, storing, png=png), image.width, image.height, kept=False)


def inspect(source: bytes, storing: Storing = Storing()) -> Inspected:
    """Decodes `source` completely, so that damage is found, but no larger than a preview needs where the format can.

    What it says is what `standardize` does: the same `kept`, the same errors.

    Raises:
      ImageError: with a code from `REASONS`.
    """
    with _as_image_errors():
        decoded = _decode(source, storing, preview=True)
        return Inspected(*decoded.upright_size, decoded.kept, np.asarray(decoded.upright(_reduce)))


def thumbnail(source: bytes, side: int) -> bytes | None:
    """A JPEG of at most `side` pixels on its longer side, also of a file that is damaged or cut off.

    Returns None where not a single pixel can be shown, or the image is too large to be decoded.
    """
    try:
        # What LOAD_TRUNCATED_IMAGES, one switch for all threads, would add: libjpeg then fills up what is missing.
        opened = formats.open_image(source + b"\xff\xd9" if source[:2] == b"\xff\xd8" else source)
        opened.load(side, partly=True)
        image = _Decoded(opened, opened.image.size, opened.orientation(), None, kept=False).upright(lambda flat: flat)
        image.thumbnail((side, side), _FILTER)
    except Exception:  # noqa: BLE001  # decoders raise many types on damaged data; a report does without this picture
        return None
    return _encode(image, Storing(jpeg_quality=_THUMBNAIL_QUALITY, chroma="4:2:0"), png=False)


@dataclasses.dataclass
class _Decoded:
    opened: formats.Opened  # loaded, perhaps at a smaller scale
    size: tuple[int, int]  # in pixels of the source, as it is stored
    orientation: int
    box: formats.Box | None  # of the loaded image, that the source covers; None: all
    kept: bool

    @property
    def upright_size(self) -> tuple[int, int]:
        width, height = self.size
        return (height, width) if self.orientation >= 5 else (width, height)  # from 5 on the sides are exchanged

    def upright(self, scale: Callable[[Image.Image], Image.Image]) -> Image.Image:
        """In sRGB, once; `scale` comes early, so that the other steps have less to do."""
        opened = self.opened
        profile = _profile(opened)
        image: Image.Image = opened.image
        for step in (
            lambda image: colors.flatten(image, opened.full_scale, white_is_zero=opened.white_is_zero),
            scale,
            lambda image: colors.to_srgb(image, profile),
            lambda image: image.transpose(_TURNS[self.orientation]) if self.orientation in _TURNS else image,
        ):
            result = step(image)
            if result is not image:
                image.close()  # else a large image would be held once per step
            image = result
        return image


def _decode(source: bytes, storing: Storing, *, preview: bool) -> _Decoded:
    """Both public functions decide here, and both decode all data, if not at the same scale."""
    opened = formats.open_image(source)
    box = None
    if not opened.scalable:  # a PNG's metadata may follow its pixels
        opened.load()
    image, orientation, size = opened.image, opened.orientation(), opened.image.size
    kept = (
        opened.complete
        and image.mode == "RGB"
        and "transparency" not in image.info
        and orientation == 1
        and storing.size_of(size) == size
        and colors.is_srgb(_profile(opened))
    )
    if opened.scalable:
        box = opened.load(PREVIEW_SIDE if preview or kept else DECODING_GAP * storing.shorter_side)
    return _Decoded(opened, size, orientation, box, kept)


def _profile(opened: formats.Opened) -> bytes | None:
    profile = opened.image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) else None


def _scale(image: Image.Image, decoded: _Decoded, size: tuple[int, int]) -> Image.Image:
    return image.resize(size, _FILTER, box=decoded.box, reducing_gap=_REDUCING_GAP)


def _reduce(image: Image.Image) -> Image.Image:
    factor = max(min(image.size) // PREVIEW_SIDE, -(-max(image.size) // _PREVIEW_LENGTH))
    return image.reduce(factor) if factor > 1 else image


def _encode(image: Image.Image, storing: Storing, *, png: bool) -> bytes:
    image.info = {}  # the PNG plugin would write a colour profile it finds there, and the JPEG plugin a comment
    buffer = io.BytesIO()
    if png or max(image.size) > _JPEG_LENGTH:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=storing.jpeg_quality, subsampling=_SUBSAMPLING[storing.chroma])
    return buffer.getvalue()


@contextlib.contextmanager
def _as_image_errors() -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:  # a GIF's frame may be larger than its header says
        raise ImageError("too_many_pixels", str(error)) from error
    except Exception as error:  # decoders raise many types on damaged data (OSError, SyntaxError, struct.error, ...)
        raise ImageError("cannot_decode", f"{type(error).__name__}: {error}") from error
