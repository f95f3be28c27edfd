"""The record, written and read side by side: one `Record` becomes one `tf.train.Example` in a TFRecord shard.

Writing needs no TensorFlow, so preparation workers stay small; reading is a TensorFlow graph.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

import google_crc32c

if TYPE_CHECKING:
    import tensorflow as tf

READ_BUFFER_BYTES = 8 << 20  # of a shard at once: few large requests hide a bucket's latency, and disks don't mind


@dataclasses.dataclass(frozen=True)
class Record:
    """One example as it is stored."""

    image: bytes  # JPEG or PNG, upright, RGB, 8 bit
    label: int  # index into the manifest's classes
    id: str  # SHA-256 of the source file's bytes, hex
    file: str  # path relative to the input root
    group: str  # examples of one group never stand in two splits


def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Reads one serialized example (or a vector of them) into tensors named as `Record`'s fields.

    `image`, `id`, `file` and `group` are strings, `label` is int64.
    """
    import tensorflow as tf

    features = {
        field.name: tf.io.FixedLenFeature([], tf.int64 if field.name == "label" else tf.string)
        for field in dataclasses.fields(Record)
    }
    if serialized.shape.rank:
        return tf.io.parse_example(serialized, features)
    return tf.io.parse_single_example(serialized, features)


def serialize(record: Record) -> bytes:
    """Writes `tf.train.Example` wire bytes with the features in sorted order.

    Protobuf leaves the order of map entries open, so its own encoder may write equal records as different bytes;
    shards are compared by hash, so ours may not. Field numbers: tensorflow/core/example/{example,feature}.proto.
    """
    entries = bytearray()
    for name, value in sorted(dataclasses.asdict(record).items()):
        if isinstance(value, int):
            feature = _field(3, _field(1, _varint(value)))  # Feature.int64_list, Int64List.value (packed)
        else:
            # File names need not be UTF-8 on disk; surrogateescape gives back the very bytes they have.
            data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
            feature = _field(1, _field(1, data))  # Feature.bytes_list, BytesList.value
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))  # Features.feature: map key, map value
    return _field(1, bytes(entries))  # Example.features


def write_framed(stream: IO[bytes], serialized: bytes) -> int:
    """Appends one TFRecord frame (length, its checksum, data, its checksum) and returns the bytes written.

    https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
    """
    length = struct.pack("<Q", len(serialized))
    frame = b"".join((length, _masked_crc32c(length), serialized, _masked_crc32c(serialized)))
    stream.write(frame)
    return len(frame)


def read_framed(stream: IO[bytes]) -> Iterator[bytes]:
    """Yields the serialized examples of one shard, checking both checksums of each; for audits and tests.

    Raises:
      ValueError: at the first frame that is cut off or whose checksum is wrong.
    """
    position = 0
    while header := stream.read(12):
        length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else 0
        if len(header) < 12 or _masked_crc32c(header[:8]) != header[8:]:
            raise ValueError(f"damaged TFRecord header at byte {position:,}")
        body = stream.read(length + 4)
        if len(body) < length + 4 or _masked_crc32c(body[:length]) != body[length:]:
            raise ValueError(f"damaged TFRecord body at byte {position + 12:,}")
        yield body[:length]
        position += 16 + length


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field: https://protobuf.dev/programming-guides/encoding/#length-types"""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF  # negative int64 are written as their two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _masked_crc32c(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
