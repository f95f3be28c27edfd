"""An error that came out of a tf.data iterator in, the one a person can act on out: which shard, which image."""

from __future__ import annotations

import itertools
from typing import Protocol

import tensorflow as tf

from pipeline import decode, records
from pipeline.errors import InputError
from pipeline.manifest import Shard

# Decoding takes about a millisecond an image: some seconds are well spent at the end of a training, minutes are not.
MAX_IMAGES = 10_000
_AGAIN = "prepare the dataset again with --overwrite"


class Opener(Protocol):
    """As much of `shards.Opener` as is asked here."""

    failure: InputError | ConnectionError | None
    decoded: bool

    def recent(self) -> list[tuple[str, Shard]]: ...


def explain(error: Exception, *, opener: Opener) -> Exception:
    """Why reading failed: what `opener` has found wrong, or else what is wrong with the shards it opened last.

    `error` is a tf.errors.OpError, or the UnicodeDecodeError that comes where TensorFlow quotes damaged bytes.

    Looks at the frames of each, and at no more than `MAX_IMAGES` images of all. TensorFlow's errors for a damaged
    record, for an image it can't decode and for anything in between do not say which it was.

    Returns:
      An InputError that names shard and byte, or shard, file and id; `error` itself where nothing is found.
    """
    if opener.failure is not None:
        return opener.failure
    left = MAX_IMAGES
    for path, shard in opener.recent():
        found, looked_at = _look(path, shard, pixels=opener.decoded, limit=left)
        if found is not None:
            return found
        left -= looked_at
    return error


def broken_image(path: str, shard: Shard, number: int, reason: str) -> InputError:
    """The error for image `number` (from 0) of the shard at `path`."""
    with open(path, "rb") as stream:
        ((start, _, serialized),) = itertools.islice(records.scan_framed(stream), number, number + 1)
    return _broken_image(path, shard, start, serialized or b"", reason)


def _look(path: str, shard: Shard, *, pixels: bool, limit: int) -> tuple[InputError | None, int]:
    """What is wrong with the file at `path`, and how many images were decoded to see it."""
    frames = decoded = 0
    try:
        with open(path, "rb") as stream:
            for start, _, serialized in records.scan_framed(stream):
                if serialized is None:
                    return _damaged(path, shard, start, pixels=pixels), decoded
                frames += 1
                if not pixels and decoded < limit:
                    decoded += 1
                    if reason := _why_not(serialized):
                        return _broken_image(path, shard, start, serialized, reason), decoded
    except OSError as error:
        return InputError(f"shard {_name(path, shard)} can't be read any more ({error}): copy it again"), decoded
    expected = shard.examples + pixels  # the index is a record too
    if frames != expected:
        return InputError(
            f"shard {_name(path, shard)} holds {frames:,} records, expected {expected:,}: copy it again, or {_AGAIN}"
        ), decoded
    return None, decoded


def _why_not(serialized: bytes) -> str:
    try:
        decode.decode(records.parse(tf.constant(serialized))["image"])
    except tf.errors.OpError as error:
        return str(error.message).splitlines()[0]
    except UnicodeDecodeError:  # TensorFlow quotes the bytes that it can't parse
        return "it is no tf.train.Example"
    return ""


def _damaged(path: str, shard: Shard, start: int, *, pixels: bool) -> InputError:
    what_to_do = f"delete {path}, it is made again" if pixels else f"copy it again from its source, or {_AGAIN}"
    return InputError(
        f"shard {_name(path, shard)} is damaged: the checksum of the record at byte {start:,} is wrong, or the file "
        f"ends within it: {what_to_do}"
    )


def _broken_image(path: str, shard: Shard, start: int, serialized: bytes, reason: str) -> InputError:
    try:
        features = records.features(serialized)
    except ValueError:
        features = {}
    file, image_id = (_text(features.get(name, [])) for name in ("file", "id"))
    return InputError(
        f"image {file} (id {image_id}) in shard {_name(path, shard)}, record at byte {start:,}, can't be decoded "
        f"({reason}): remove it from the images and {_AGAIN}"
    )


def _text(values: list[bytes] | list[int]) -> str:
    return values[0].decode("utf-8", "replace") if values and isinstance(values[0], bytes) else "unknown"


def _name(path: str, shard: Shard) -> str:
    """As the dataset calls it, and where it was read where that is another name."""
    return path if path.endswith(f"/{shard.file}") else f"{shard.file} ({path})"
