"""One image's bytes in, upright RGB JPEG or PNG bytes out, or one reason why not.

Preparation and prediction both come through here, so a photo means the same to the model wherever it comes from.
"""

from __future__ import annotations

import dataclasses
import io
import re
import warnings

from PIL import Image, ImageOps

# A quarter of a gibibyte of RGB, Pillow's own alarm level: beyond any camera in wide use, below what hurts a worker.
MAX_PIXELS = 89_478_485
# Formats whose decoders ship with every Pillow wheel. MPO, a JPEG with further pictures behind the first, is opened by
# the JPEG plugin and cannot be asked for by its own name.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
# Re-encoding happens only where bytes cannot be kept; at 95 with full colour the loss is below what the eye sees.
JPEG_QUALITY = 95

_ORIENTATION = 0x0112
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # stuffed zeros and restarts belong to the pixels
_END_OF_IMAGE = 0xD9
_PNG_DEPTH = 24  # position in the header chunk, which is always first
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_TURNED = range(2, 9)  # 1 is upright; other values are outside EXIF, and viewers leave such images as they are


class ImageError(ValueError):
    """`code` is from the closed list in `REASONS`; the message adds what was found."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.code, self.detail)


REASONS = {
    "empty_file": "The file has no bytes; restore it from its source.",
    "not_an_image": f"No decoder knows these bytes; supported are {', '.join(FORMATS)}.",
    "too_many_pixels": f"The header declares more than {MAX_PIXELS:,} pixels; scale the image down.",
    "unsupported_depth": "Pixels of more than 8 bits have no agreed range; convert the file to 8 bits.",
    "cannot_decode": "The header is sound but the pixels are damaged or cut off; restore the file from its source.",
}


@dataclasses.dataclass(frozen=True)
class StandardImage:
    """An upright 8-bit RGB image as JPEG or PNG bytes."""

    data: bytes  # empty where `standardize` was told not to encode and the source bytes could not be kept
    width: int
    height: int
    kept: bool  # True: `data` are the source bytes, untouched


def standardize(source: bytes, *, encode: bool = True) -> StandardImage:
    """Decodes `source` completely and returns it upright, RGB, 8 bit, as JPEG or PNG.

    JPEG and PNG that already are so, and are complete, are kept byte for byte. Others are turned upright (EXIF
    orientation, CIPA DC-008 section 4.6.4), converted to RGB (an alpha channel is dropped) and encoded again: JPEG
    stays JPEG, everything else becomes PNG, which loses nothing. Of animations the first frame counts. With
    `encode=False` only the facts are wanted and no time is spent encoding.

    Raises:
      ImageError: with a code from `REASONS`.
    """
    if not source:
        raise ImageError("empty_file", "0 bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about odd metadata; only what breaks the pixels matters here
        image = _open(source)
        orientation = _orientation(image)
        try:
            image.load()
            if image.mode.startswith(("I", "F")):  # converting these to RGB clips: a 16-bit photo would turn white
                raise ImageError("unsupported_depth", f"mode {image.mode}")
            if image.format == "PNG":
                if source[_PNG_DEPTH] > 8:  # which Pillow reduces without a word, and TensorFlow would too
                    raise ImageError("unsupported_depth", f"{source[_PNG_DEPTH]} bits per channel")
                Image.open(io.BytesIO(source), formats=("PNG",)).verify()  # the checksums, which decoding skips
            lossy = image.format in ("JPEG", "MPO")
            complete = _jpeg_ends(source) if lossy else image.format == "PNG" and _PNG_END in source
            plain = image.mode == "RGB" and "transparency" not in image.info and orientation not in _TURNED
            if complete and plain:
                return StandardImage(source, image.width, image.height, kept=True)
            upright = (ImageOps.exif_transpose(image) if orientation in _TURNED else image).convert("RGB")
        except ImageError:
            raise
        except Exception as error:  # decoders raise many types on damaged data (OSError, SyntaxError, struct.error …)
            raise ImageError("cannot_decode", f"{type(error).__name__}: {error}") from error
    data = b""
    if encode:
        buffer = io.BytesIO()
        if lossy:
            upright.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        else:
            upright.save(buffer, "PNG")
        data = buffer.getvalue()
    return StandardImage(data, upright.width, upright.height, kept=False)


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation; metadata that cannot be parsed counts as none, as it does in viewers."""
    try:
        orientation: int | None = image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001  # Pillow's parsers raise many types, and none of them concerns the pixels
        return None
    return orientation


def _jpeg_ends(jpeg: bytes) -> bool:
    """Whether the segments lead to the end-of-image marker (ITU-T T.81, annex B).

    Without it Pillow is content, having all pixels; TensorFlow reads on and fails.
    """
    position = 2
    while marker := _MARKER.search(jpeg, position):
        position = marker.end()
        if marker.group()[-1] == _END_OF_IMAGE:
            return True
        position += int.from_bytes(jpeg[position : position + 2], "big")
    return False


def _open(source: bytes) -> Image.Image:
    """Reads the header only, and refuses by its size before any pixel is allocated."""
    try:
        image = Image.open(io.BytesIO(source), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", str(error)) from error
    except Exception as error:
        raise ImageError("not_an_image", f"{len(source):,} bytes beginning {source[:8]!r}") from error
    if image.width * image.height > MAX_PIXELS:
        raise ImageError("too_many_pixels", f"{image.width}x{image.height}")
    return image
