"""A shard with its images decoded: the shard's records in, a local file of uint8 pixels that is read in any order out.

The file is a TFRecord file. Its first record is the index, int64 [images, 4] in little-endian order: the byte at which
the image's record begins, its label, height and width, in the order of the shard. Each further record is one image's
pixels, row by row, RGB. TFRecord's checksums tell at every read whether they are still what was written.

Photos of 384x512 (JPEG of 58 KB) take 10 times the space. A random read then costs half the CPU time of decoding the
whole photo and two thirds of decoding a crop; a third of it is the checksum. Writing costs as much as decoding twice.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import IO

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from pipeline import decode, diagnosis, records
from pipeline.manifest import Shard

_FRAME_BYTES = 16  # that TFRecord adds to each record
_COLUMNS = 4
_PARALLEL_IMAGES = 4  # decoded at once; with those waiting to be written they bound the memory that one shard takes

Layout = NDArray[np.int64]


def file_name(shard: Shard) -> str:
    """In the cache: of the shard's content, and of the version of the format described above."""
    return f"{shard.sha256}.pixels-1"


def layout(path: str, shard: Shard) -> Layout:
    """The index of the decoded file of the shard at `path`, from its images' headers.

    Raises:
      InputError: naming the image whose header can't be read.
    """
    rows = []
    with open(path, "rb") as stream:
        for number, serialized in enumerate(records.read_framed(stream)):
            features = records.features(serialized)
            (image,), (label,) = features["image"], features["label"]
            assert isinstance(image, bytes)
            try:
                with Image.open(io.BytesIO(image), formats=("JPEG", "PNG")) as opened:
                    rows.append((0, label, opened.height, opened.width))
            except (Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
                raise diagnosis.broken_image(path, shard, number, "its header can't be read") from error
    index = np.array(rows, np.int64).reshape(-1, _COLUMNS)
    ends = np.cumsum(_FRAME_BYTES + _pixel_bytes(index)) + _FRAME_BYTES + index.nbytes
    index[:, 0] = ends - _pixel_bytes(index) - _FRAME_BYTES
    return index


def size_bytes(index: Layout) -> int:
    return int(index.nbytes + _pixel_bytes(index).sum() + _FRAME_BYTES * (1 + len(index)))


def estimated_bytes(*, examples: int, pixels: int, shards: int) -> int:
    """Bytes of all decoded files of a split, exactly, from what its manifest says of it."""
    return 3 * pixels + examples * (_FRAME_BYTES + 8 * _COLUMNS) + shards * _FRAME_BYTES


def write(path: str, shard: Shard, index: Layout, stream: IO[bytes]) -> None:
    """Decodes the shard at `path` into `stream`, a few images at a time, as `decode.decode` does.

    Raises:
      InputError: naming the image that can't be decoded.
    """
    records.write_framed(stream, index.astype("<i8").tobytes())
    written = 0
    try:
        for image in _images(path):
            if image.shape != (*index[written, 2:], 3):
                raise diagnosis.broken_image(path, shard, written, f"its header says another size than {image.shape}")
            records.write_framed(stream, image.tobytes())
            written += 1
    except tf.errors.InvalidArgumentError as error:
        raise diagnosis.broken_image(path, shard, written, str(error.message).splitlines()[0]) from error


def is_whole(path: str) -> bool:
    """Whether a decoded file has an undamaged index and the size that follows from it."""
    with open(path, "rb") as stream:
        header = stream.read(8)
        stream.seek(0)
        first = stream.read(int.from_bytes(header, "little") + _FRAME_BYTES) if os.path.getsize(path) else b""
    with contextlib.suppress(ValueError):
        index = np.frombuffer(records.unframe(first), "<i8").reshape(-1, _COLUMNS)
        return size_bytes(index) == os.path.getsize(path)
    return False


def index(path: tf.Tensor) -> tf.data.Dataset:
    """What `read` needs of each image of a decoded file, in the order of the shard; pure graph.

    Returns:
      A dataset of {"path": string, "label": int64, "where": int64 [3]}, about 500 bytes each, so that a whole split
      can be shuffled; `where` is the record's first byte, height and width.
    """

    def rows(serialized: tf.Tensor) -> tf.data.Dataset:
        table = tf.reshape(tf.io.decode_raw(serialized, tf.int64, little_endian=True), [-1, _COLUMNS])
        return tf.data.Dataset.from_tensor_slices((table[:, 1], tf.gather(table, [0, 2, 3], axis=1)))

    found = tf.data.TFRecordDataset(path).take(1).flat_map(rows)
    return found.map(lambda label, where: {"path": path, "label": label, "where": where})


def read(element: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Reads one image of `index`: {"image": uint8 [height, width, 3], "label": int64}.

    Raises:
      tf.errors.DataLossError: when it runs, where the record's checksum is wrong.
    """
    offset, height, width = tf.unstack(element["where"])
    # Of TensorFlow's readers this is the cheapest that takes a position: FixedLengthRecordDataset reads all that it
    # skips, and read_file wants a file for each image. Without a buffer nothing behind the record is read.
    found = tf.raw_ops.TFRecordDatasetV2(
        filenames=[element["path"]], compression_type="", buffer_size=0, byte_offsets=[offset]
    )
    signature = {"output_types": [tf.string], "output_shapes": [tf.TensorShape([])]}
    first = tf.raw_ops.TakeDataset(input_dataset=found, count=1, **signature)
    (pixels,) = tf.raw_ops.DatasetToSingleElement(dataset=first, **signature)
    image = tf.reshape(tf.io.decode_raw(pixels, tf.uint8), tf.stack([height, width, 3]))
    image.set_shape([None, None, 3])
    return {"image": image, "label": element["label"]}


def _images(path: str) -> Iterator[NDArray[np.uint8]]:
    return (
        tf.data.TFRecordDataset(path, buffer_size=records.READ_BUFFER_BYTES)
        .map(
            lambda serialized: decode.decode(records.parse(serialized)["image"]),
            num_parallel_calls=_PARALLEL_IMAGES,
            deterministic=True,
        )
        .as_numpy_iterator()
    )


def _pixel_bytes(index: Layout) -> NDArray[np.int64]:
    return 3 * index[:, 2] * index[:, 3]
