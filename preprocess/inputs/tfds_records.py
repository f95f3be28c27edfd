"""A TFDS dataset on disk or in a bucket: its folder in, its records out, without TensorFlow.

A record is named SHARDFILE@FIRSTBYTE+BYTES, so each can be read again alone and nothing here is a read-once source.
Datasets written by this program are TFDS datasets, too. Format: https://www.tensorflow.org/datasets/external_tfrecord
"""

from __future__ import annotations

import dataclasses
import errno
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pipeline import records, storage
from pipeline.errors import InputError
from preprocess.inputs import reading, tfds_metadata
from preprocess.inputs.source import Classes, Hidden, Rejected, Source, group_of, in_usual_order, one_name_each

_FILE = re.compile(r"(.+)@(\d+)\+(\d+)", re.DOTALL)
# What datasets call the text that holds an image's own file name, most telling first.
_FILE_NAMES = ("file", "file_name", "filename", "image/file", "image/file_name", "image/filename")
# Neighbours are read by one request up to this size; `reading.REQUESTS` of them are under way in a bucket.
_RUN_BYTES = 2 << 20


@dataclasses.dataclass(frozen=True)
class Keys:
    """Names of features in the records; "" where there is none."""

    image: str
    label: str
    file: str = ""  # what `group_by` is searched in
    group: str = ""


@dataclasses.dataclass(frozen=True)
class TfdsRecords:
    index: int
    address: str
    group_by: str
    splits: tuple[str, ...]
    keys: Keys
    class_names: tuple[str, ...]  # by label
    shards: tuple[tuple[str, str, int], ...]  # file, split as we call it or "", examples

    def pieces(self) -> list[str]:
        return [file for file, _, _ in self.shards]

    def classes(self) -> Classes:
        return Classes(tuple(sorted(self.class_names)), ())

    def sources(self, piece: str) -> Iterator[Source | Rejected | Hidden]:
        split, expected = next((split, examples) for file, split, examples in self.shards if file == piece)
        end = count = 0
        with storage.open_file(storage.join(self.address, piece)) as stream:
            for start, size, serialized in records.scan_framed(stream):
                end, count = start + size, count + 1
                yield self._source(f"{piece}@{start}+{size}", split, serialized)
        if count < expected:  # a file that was cut between two records reads short without an error
            detail = f"the shard ends after {count:,} records, {tfds_metadata.INFO} says {expected:,}"
            yield Rejected(Source(self.index, f"{piece}@{end}+0", "", split), "bad_record", detail)

    def _source(self, file: str, split: str, serialized: bytes | None) -> Source | Rejected:
        def rejected(detail: str) -> Rejected:
            return Rejected(Source(self.index, file, "", split), "bad_record", detail)

        if serialized is None:
            return rejected("damaged, or cut off")
        try:
            found = records.features(serialized)
        except ValueError as error:
            return rejected(str(error))
        labels = found.get(self.keys.label) or [-1]
        label = labels[0]
        if not isinstance(label, int) or not 0 <= label < len(self.class_names):
            return rejected(f"its label {label!r} names no class")
        if len(found.get(self.keys.image, [])) != 1:
            return Rejected(Source(self.index, file, self.class_names[label], split), "bad_record", "it has no image")
        group = _text(found, self.keys.group) or group_of(self.group_by, _text(found, self.keys.file))
        return Source(self.index, file, self.class_names[label], split, group)

    def read(self, file: str, limit_bytes: int) -> bytes:
        (data,) = self.read_many([file], limit_bytes)
        if isinstance(data, OSError):
            raise data
        return data

    def read_many(self, files: Iterable[str], limit_bytes: int) -> Iterator[bytes | OSError]:
        runs = _runs(files)
        if storage.is_local(self.address):
            parts: Iterable[list[bytes | OSError]] = map(self._read_run, runs)
        else:
            parts = reading.in_order(self._read_run, runs)
        for images in parts:
            for image in images:
                yield image if isinstance(image, OSError) else image[:limit_bytes]

    def _read_run(self, run: Sequence[tuple[str, int, int]]) -> list[bytes | OSError]:
        (shard, first, _), (_, last, last_size) = run[0], run[-1]
        data = reading.read_part(storage.join(self.address, shard), first, last + last_size - first)
        if isinstance(data, OSError):
            return [data] * len(run)
        return [self._image(data[start - first : start - first + size]) for _, start, size in run]

    def _image(self, frame: bytes) -> bytes | OSError:
        try:
            (image,) = records.features(records.unframe(frame))[self.keys.image]
        except (KeyError, ValueError) as error:
            return OSError(errno.EIO, f"the record is damaged ({error})")
        return image if isinstance(image, bytes) else OSError(errno.EIO, "the record has no image")


def open_tfds(address: str, index: int, *, keep_splits: bool, group_by: str) -> TfdsRecords:
    """Reads the dataset's metadata and checks that every shard is there.

    Raises:
      InputError: for a format other than TFRecord, features that leave open which is the image, or missing shards.
    """
    info, features = tfds_metadata.read(address)
    tops = tfds_metadata.supervised(info)
    leaves = dict(tfds_metadata.leaves(features))
    image = tfds_metadata.choose(address, "Image", leaves, tops)
    label = tfds_metadata.choose(address, "ClassLabel", leaves, tops)
    dtype = leaves[image]["image"].get("dtype", "uint8")
    if dtype not in ("uint8", "uint16"):
        raise InputError(f"--input={address}: the feature {image!r} holds {dtype} and no image with 8 or 16 bits")
    texts = [name for name, node in leaves.items() if tfds_metadata.type_of(node) == "Text"]
    own_file = next((name for name in _FILE_NAMES if name in texts), "")
    if group_by and not own_file:
        raise InputError(
            f"--input={address}: --group_by={group_by} has nothing to look into, since no text feature of these "
            f"records is called {', '.join(_FILE_NAMES[:3])}: leave it away, or give the files themselves"
        )
    splits = [str(split["name"]) for split in info.get("splits", [])]
    ours = one_name_each(splits, address) if keep_splits else ("",) * len(splits)
    return TfdsRecords(
        index,
        address,
        group_by,
        in_usual_order(ours) if keep_splits else (),
        Keys(image, label, own_file if group_by else "", "" if group_by or "group" not in texts else "group"),
        tfds_metadata.class_names(address, label, leaves[label]),
        tfds_metadata.shards(address, info, ours),
    )


def _text(found: Mapping[str, list[bytes] | list[int]], key: str) -> str:
    values = found.get(key) if key else None
    return values[0].decode("utf-8", "surrogateescape") if values and isinstance(values[0], bytes) else ""


def _runs(files: Iterable[str]) -> Iterator[list[tuple[str, int, int]]]:
    """(shard, first byte, bytes) of each file, in order; neighbours in one shard together."""
    run: list[tuple[str, int, int]] = []
    for file in files:
        found = _FILE.fullmatch(file)
        if not found:
            raise ValueError(f"{file!r} is not written SHARDFILE@FIRSTBYTE+BYTES")
        shard, start, size = found[1], int(found[2]), int(found[3])
        if run and (run[-1][0] != shard or sum(run[-1][1:]) != start or start + size - run[0][1] > _RUN_BYTES):
            yield run
            run = []
        run.append((shard, start, size))
    if run:
        yield run
