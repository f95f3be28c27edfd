"""The record, written and read side by side: one `Record` becomes one `tf.train.Example` in a TFRecord shard.

Writing needs no TensorFlow, so preparation workers stay small; reading is a TensorFlow graph.
"""

from __future__ import annotations

import dataclasses
import io
import struct
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

import google_crc32c

if TYPE_CHECKING:
    import tensorflow as tf

READ_BUFFER_BYTES = 8 << 20  # of a shard at once: few large requests hide a bucket's latency, and disks don't mind

_MAX_BYTES = 2**31  # of one protobuf message; a length beyond it is damage, and asking for so much memory would hurt


@dataclasses.dataclass(frozen=True)
class Record:
    """One example as it is stored."""

    image: bytes  # JPEG or PNG, upright, RGB, 8 bit
    label: int  # index into the manifest's classes
    id: str  # SHA-256 of the source file's bytes, hex
    file: str  # path relative to the input root
    group: str  # examples of one group never stand in two splits


def parse(serialized: tf.Tensor, names: Sequence[str] | None = None) -> dict[str, tf.Tensor]:
    """Reads one serialized example (or a vector of them) into tensors named as `Record`'s fields, or those of `names`.

    `image`, `id`, `file` and `group` are strings, `label` is int64.
    """
    import tensorflow as tf

    features = {name: tf.io.FixedLenFeature([], tf.int64 if name == "label" else tf.string) for name in names or _NAMES}
    if serialized.shape.rank:
        return tf.io.parse_example(serialized, features)
    return tf.io.parse_single_example(serialized, features)


def serialize(record: Record) -> bytes:
    """Writes `tf.train.Example` wire bytes with the features in sorted order.

    Protobuf leaves the order of map entries open, so its own encoder may write equal records as different bytes;
    shards are compared by hash, so ours may not. Field numbers: tensorflow/core/example/{example,feature}.proto.
    """
    entries = bytearray()
    for name in _NAMES:
        value = getattr(record, name)
        if isinstance(value, int):
            feature = _field(3, _field(1, _varint(value)))  # Feature.int64_list, Int64List.value (packed)
        else:
            # File names need not be UTF-8 on disk; surrogateescape gives back the very bytes they have.
            data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
            feature = _field(1, _field(1, data))  # Feature.bytes_list, BytesList.value
        entries += _field(1, _KEYS[name] + _field(2, feature))  # Features.feature: map key, map value
    return _field(1, bytes(entries))  # Example.features


def deserialize(serialized: bytes) -> Record:
    """What `serialize` wrote.

    Raises:
      ValueError: where the bytes are no such record.
    """
    found = features(serialized)
    values: dict[str, Any] = {}
    for name in _NAMES:
        if not (stored := found.get(name)):
            raise ValueError(f"no record of ours: it has no {name!r}")
        value = stored[0]
        is_text = isinstance(value, bytes) and name != "image"
        values[name] = bytes(value).decode("utf-8", "surrogateescape") if is_text else value
    return Record(**values)


def write_framed(stream: IO[bytes], serialized: bytes) -> int:
    """Appends one TFRecord frame (length, its checksum, data, its checksum) and returns the bytes written.

    https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
    """
    length = struct.pack("<Q", len(serialized))
    frame = b"".join((length, _masked_crc32c(length), serialized, _masked_crc32c(serialized)))
    stream.write(frame)
    return len(frame)


def read_framed(stream: IO[bytes]) -> Iterator[bytes]:
    """Yields the serialized examples of one shard, checking both checksums of each; for verification and audits.

    Raises:
      ValueError: at the first frame that is cut off or whose checksum is wrong.
    """
    position = 0
    header = stream.read(12)
    while header:
        length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else 0
        if len(header) < 12 or _masked_crc32c(header[:8]) != header[8:]:
            raise ValueError(f"damaged TFRecord header at byte {position:,}")
        body = stream.read(length)
        tail = stream.read(4 + 12)  # with the next header: two reads per frame, and the body is never copied
        if len(body) < length or _masked_crc32c(body) != tail[:4]:
            raise ValueError(f"damaged TFRecord body at byte {position + 12:,}")
        yield body
        header = tail[4:]
        position += 16 + length


def scan_framed(stream: IO[bytes]) -> Iterator[tuple[int, int, bytes | None]]:
    """Yields (first byte, bytes of the whole frame, serialized example) of each frame of one shard.

    Of a frame with a wrong checksum over its data there is None in its place, and the next one follows. Where a length
    is damaged or the file ends within a frame, nobody knows where the next begins: one last None with what is left.
    """
    position = 0
    while header := stream.read(12):
        length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else 0
        if len(header) < 12 or _masked_crc32c(header[:8]) != header[8:] or length > _MAX_BYTES:
            yield position, len(header), None
            return
        body = stream.read(length + 4)
        if len(body) < length + 4:
            yield position, 12 + len(body), None
            return
        serialized = body[:length]
        yield position, 16 + length, serialized if _masked_crc32c(serialized) == body[length:] else None
        position += 16 + length


def unframe(frame: bytes) -> bytes:
    """The serialized example in one whole frame.

    Raises:
      ValueError: where it is cut off or a checksum is wrong.
    """
    ((_, size, serialized),) = list(scan_framed(io.BytesIO(frame)))[:1] or [(0, 0, None)]
    if serialized is None or size != len(frame):
        raise ValueError(f"damaged TFRecord frame of {len(frame):,} bytes")
    return serialized


def features(serialized: bytes) -> dict[str, list[bytes] | list[int]]:
    """Reads `tf.train.Example` wire bytes of any writer; float lists are left out. Field numbers as in `serialize`.

    Raises:
      ValueError: where the bytes are no such message.
    """
    found: dict[str, list[bytes] | list[int]] = {}
    try:
        for entry in _submessages(memoryview(serialized), 1, 1):  # Example.features, Features.feature
            fields = dict(_fields(entry))
            name = bytes(fields.get(1, b"")).decode()
            for kind, values in _fields(fields.get(2, memoryview(b""))):  # Feature: 1 bytes, 2 floats, 3 integers
                if kind == 1:
                    found[name] = [bytes(value) for number, value in _fields(values) if number == 1]
                elif kind == 3:
                    found[name] = [
                        integer for number, value in _fields(values) if number == 1 for integer in _integers(value)
                    ]
    except (IndexError, TypeError) as error:
        raise ValueError("no tf.train.Example") from error
    return found


def _submessages(message: memoryview, *path: int) -> Iterator[memoryview]:
    number, *below = path
    for found, value in _fields(message):
        if found == number:
            if below:
                yield from _submessages(value, *below)
            else:
                yield value


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, value) of each field: varints and fixed sizes as their bytes, the others without their length."""
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        wire = tag & 7
        if wire == 0:
            _, end = _read_varint(message, position)
        elif wire == 2:
            length, position = _read_varint(message, position)
            end = position + length
        elif wire in (1, 5):
            end = position + (8 if wire == 1 else 4)
        else:
            raise ValueError(f"wire type {wire}")
        if end > len(message):
            raise ValueError("a field ends behind its message")
        yield tag >> 3, message[position:end]
        position = end


def _integers(packed: memoryview) -> Iterator[int]:
    """One varint, or several that are packed, as int64."""
    position = 0
    while position < len(packed):
        value, position = _read_varint(packed, position)
        yield value - (1 << 64) if value >> 63 else value


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
        if shift > 63:
            raise ValueError("a varint of more than ten bytes")


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field: https://protobuf.dev/programming-guides/encoding/#length-types"""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    if 0 <= value < 0x80:  # nearly all of them
        return _ONE_BYTE[value]
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


_ONE_BYTE = tuple(bytes([value]) for value in range(0x80))
_NAMES = tuple(sorted(field.name for field in dataclasses.fields(Record)))
_KEYS = {name: _field(1, name.encode()) for name in _NAMES}
