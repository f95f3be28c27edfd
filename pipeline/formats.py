"""One image file's bytes in, its pixels as the format stores them out; what is too large is refused by its header.

No decoder sees bytes whose signature is not its own, and none of them is registered for the rest of the process.
"""

from __future__ import annotations

import dataclasses
import io
import warnings
from typing import Any

import pillow_heif
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from pipeline import headers

# The decoders and what they hand over may take this much: beside Beam's own 200 MiB a worker stays below 1 GiB.
MAX_DECODING_BYTES = 600 * 2**20
# Measured at the peak, per pixel, with 25 million of them, and rounded up. Four bytes are the decoded image (Pillow
# stores RGB in four), four a copy that is turned, flattened or converted. A progressive JPEG (10.1; CMYK 12.1) is held
# as coefficients first; of HEIC (7.4; full colour 9.4), AVIF (9.4; 11.1) and WebP (16.2) the codec, the binding and
# Pillow each hold one. 52 million pixels of HEIC are more than the 48 that telephones take.
_PEAK_BYTES = {"PROGRESSIVE": 12, "HEIF": 12, "AVIF": 12, "WEBP": 16}
_PEAK_BYTES_OTHERS = 8
MAX_PIXELS = MAX_DECODING_BYTES // _PEAK_BYTES_OTHERS
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WebP", "TIFF", "HEIC", "AVIF")
REASONS = {
    "empty_file": "The file has no bytes; restore it from its source.",
    "not_an_image": f"The first bytes are of no format that is read here ({', '.join(FORMATS)}); convert the file.",
    "too_many_pixels": (
        f"Decoding would take more than {MAX_DECODING_BYTES >> 20} MiB "
        f"({MAX_PIXELS / 1e6:.0f} million pixels in most formats); scale the image down."
    ),
    "unsupported_depth": "Floats, 32-bit integers and Lab have no agreed range on a screen; convert the file to RGB.",
    "cannot_decode": "The file is damaged, cut off or of a rare variant; restore it from its source, or convert it.",
}

# Pillow's plugins, called directly: Image.open would try others, and costs a tenth of a small image's decoding.
_DECODERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,  # of an MPO, a JPEG with further pictures behind it, it reads the first
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "HEIF": pillow_heif.HeifImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
# Only the main picture is wanted. A worker process has one core to itself, and threads take memory.
pillow_heif.options.THUMBNAILS = pillow_heif.options.DEPTH_IMAGES = pillow_heif.options.AUX_IMAGES = False
pillow_heif.options.DECODE_THREADS = 1
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# Pillow warns about odd metadata; only what breaks the pixels matters here. Set once, since warnings.catch_warnings is
# not for threads, which is how Beam runs workers. `_check_size` stands in for the alarm about bombs.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_ORIENTATION = 0x0112
_TURNED = range(2, 9)  # 1 is upright; other values are outside EXIF, and viewers leave such images as they are
_ORIENTATION_KEYS = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _TILE_WIDTH, _TILE_LENGTH = 258, 262, 322, 323
_JPEG_COMMON_FRAMES = range(0xC0, 0xC3)  # Huffman: baseline, extended, progressive; few decoders know any other

Box = tuple[float, float, float, float]


class ImageError(ValueError):
    """`code` is from the closed list in `REASONS`; the message adds what was found."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.code, self.detail)


@dataclasses.dataclass
class Opened:
    """A file whose header has been read and found to be of a size that can be decoded."""

    source: bytes
    image: ImageFile.ImageFile
    format: str  # a key of `_DECODERS`
    lossy: bool
    complete: bool = False  # a JPEG or 8-bit PNG that other decoders can read to its end; of a PNG `load` knows it
    scalable: bool = False  # can be decoded at 1/2, 1/4 and 1/8 of its size
    full_scale: int = 65535  # of a channel, where it has more than 8 bits
    white_is_zero: bool = False  # in images of more than 8 bits; Pillow inverts the others itself

    def load(self, shorter_side: int = 0, *, partly: bool = False) -> Box | None:
        """Decodes all data, to at least `shorter_side` pixels where the format can scale, 0 for full size.

        With `partly` what could be decoded of damaged data stays, and the rest is black or gray.

        Returns:
          The box of `image` that the original covers, where a size that the scale does not divide leaves a fraction
          over; None where it covers all.
        """
        draft = self.image.draft(None, (shorter_side, shorter_side)) if self.scalable and shorter_side else None
        try:
            if self.format == "PNG" and not partly:
                self.complete = headers.walk_png(self.source) and headers.png_depth(self.source) == 8
            self.image.load()
        except Exception:
            if not partly:
                raise
            self.image.tile = []  # nothing more to decode
        return draft[1] if draft else None

    def orientation(self) -> int:
        """EXIF orientation, 1 to 8, still to be applied; metadata that cannot be parsed counts as upright.

        The plugins for TIFF and HEIC turn the image themselves.
        """
        info = self.image.info
        if self.format in ("TIFF", "HEIF") or not any(key in info for key in _ORIENTATION_KEYS):
            return 1
        try:
            orientation: Any = self.image.getexif().get(_ORIENTATION)
        except Exception:  # noqa: BLE001  # Pillow's parsers raise many types, and none of them concerns the pixels
            return 1
        return int(orientation) if orientation in _TURNED else 1


def open_image(source: bytes) -> Opened:
    """Reads the header, and refuses by what it says before any pixel is allocated.

    Raises:
      ImageError: with a code from `REASONS`.
      Exception: decoders raise many types on damaged data (OSError, SyntaxError, struct.error, ...).
    """
    if not source:
        raise ImageError("empty_file", "0 bytes")
    kind = headers.format_of(source)
    if kind is None:
        raise ImageError("not_an_image", f"{len(source):,} bytes beginning {source[:8]!r}")
    lossy = kind in ("JPEG", "HEIF", "AVIF")
    if kind == "WEBP":  # its plugin allocates the whole canvas when it opens
        width, height, lossy = headers.webp(source)
        _check_size(width, height, kind)
    elif kind in ("HEIF", "AVIF"):
        # What a file shows may be a small part of what has to be decoded. libheif holds a picture to its declared size,
        # libavif only to 16,384 squared: an AVIF made to deceive can take 3.4 bytes for each of those pixels.
        for width, height in headers.extents(source):
            _check_size(width, height, kind)
    image = _DECODERS[kind](io.BytesIO(source))
    _check_size(image.width, image.height, "PROGRESSIVE" if "progressive" in image.info else kind)
    opened = Opened(source, image, kind, lossy)
    if kind == "JPEG":
        frame, ended = headers.walk_jpeg(source)
        opened.scalable = frame in _JPEG_COMMON_FRAMES
        opened.complete = opened.scalable and ended
    elif kind == "PNG":
        if headers.png_depth(source) == 16 and isinstance(color := image.info.get("transparency"), tuple):
            image.info["transparency"] = tuple(value >> 8 for value in color)  # as Pillow reduces the pixels
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(opened, image.tag_v2)
    return opened


def _check_size(width: int, height: int, kind: str) -> None:
    if width * height * _PEAK_BYTES.get(kind, _PEAK_BYTES_OTHERS) > MAX_DECODING_BYTES:
        raise ImageError("too_many_pixels", f"{width}x{height} {kind.lower()}")


def _check_tiff(opened: Opened, tags: Any) -> None:
    # A tile is decoded whole, however little of it lies inside the image.
    _check_size(tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0), "TIFF tile")
    opened.lossy = opened.image.info.get("compression") in ("jpeg", "tiff_jpeg")
    if opened.image.mode.startswith("I;16"):
        opened.full_scale = (1 << tags[_BITS_PER_SAMPLE][0]) - 1
        opened.white_is_zero = tags[_PHOTOMETRIC] == 0
