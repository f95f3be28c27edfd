"""Photos in, nothing but decoded pixels out, by libjpeg-turbo in one thread: what no input pipeline can do without."""

from __future__ import annotations

import ctypes
import pathlib
import subprocess
from collections.abc import Iterator

import numpy as np

from tests.bench import data
from tests.bench.input_data import Photos
from tests.bench.input_peers import box
from tests.bench.input_window import BATCH, SIDE

_CROPS = 4096  # distinct boxes; several epochs of trashnet
_SEED = 42


def whole(photos: Photos, workers: int) -> Iterator[np.ndarray]:
    """All of each photo, by the libjpeg-turbo that simplejpeg brings."""
    import simplejpeg

    encoded = _encoded(photos)
    pixels, nothing = bytearray(_most_bytes(encoded)), _nothing()
    while True:
        for first in range(0, len(encoded) - BATCH, BATCH):
            for image in encoded[first : first + BATCH]:
                simplejpeg.decode_jpeg(image, buffer=pixels)
            yield nothing


def crops(photos: Photos, workers: int) -> Iterator[np.ndarray]:
    """The rows and blocks of a random box of each photo, by the system's libjpeg-turbo; needs its headers and cc."""
    import simplejpeg

    decode_box = _compiled(photos.folder.parent / "limit.so").decode_box
    encoded, nothing = _encoded(photos), _nothing()
    pixels = ctypes.create_string_buffer(_most_bytes(encoded))
    rng = np.random.default_rng(_SEED)
    # Drawn beforehand: NumPy takes longer to draw a box than the decoder would notice.
    boxes = []
    for index in range(_CROPS):
        image = encoded[index % len(encoded)]
        height, width = simplejpeg.decode_jpeg_header(image)[:2]
        boxes.append((image, ctypes.c_size_t(len(image)), *box(height, width, rng)))
    while True:
        for first in range(0, _CROPS, BATCH):
            for one in boxes[first : first + BATCH]:
                decode_box(*one, pixels)
            yield nothing


def _encoded(photos: Photos) -> list[bytes]:
    names = data.files(photos.folder)
    np.random.default_rng(_SEED).shuffle(names)
    return [(photos.folder / name).read_bytes() for name in names]


def _most_bytes(encoded: list[bytes]) -> int:
    import simplejpeg

    sizes = (simplejpeg.decode_jpeg_header(image)[:2] for image in encoded)
    return max(3 * height * (width + 32) for height, width in sizes)  # 32: a box is widened to whole blocks


def _nothing() -> np.ndarray:
    return np.zeros([BATCH, SIDE, SIDE, 3], np.float32)


def _compiled(library: pathlib.Path) -> ctypes.CDLL:
    source = pathlib.Path(__file__).with_name("limit.c")
    subprocess.run(["cc", "-O3", "-shared", "-fPIC", str(source), "-o", str(library), "-ljpeg"], check=True)
    return ctypes.CDLL(str(library))
