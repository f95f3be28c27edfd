"""One shard's file list in, the whole shard written; what it holds and one ledger row per example out."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping

from pipeline import images, manifest, records, storage
from pipeline.errors import InputError
from preprocess.inspection import Facts
from preprocess.layout import Layout
from preprocess.ledger import Row
from preprocess.settings import Settings
from preprocess.splits import Placed, order_key

_AGAIN = "leave the input alone and run the same command again"


@dataclasses.dataclass(frozen=True)
class Written:
    """A shard that lies complete in the staging folder."""

    split: str
    index: int
    shard: manifest.Shard
    pixels: int  # sum of width times height
    by_class: Mapping[str, int]


def shard_name(settings: Settings, layout: Layout, split: str, index: int) -> str:
    """TFDS's name for it."""
    return f"{settings.name}-{split}.tfrecord-{index:05d}-of-{layout.splits[split].shards:05d}"


def write_shard(
    key: tuple[str, int], placed: Iterable[Placed], settings: Settings, layout: Layout
) -> Iterator[Written | Row]:
    """Reads the shard's files again, one after the other, and writes their records in hash order.

    Raises:
      InputError: where a file changed since it was inspected, or the output cannot be written.
    """
    split, index = key
    name = shard_name(settings, layout, split, index)
    labels = {class_name: label for label, class_name in enumerate(layout.classes)}
    ordered = sorted((one.facts for one in placed), key=lambda facts: order_key(settings.seed, facts.group))
    digest = hashlib.sha256()
    size = 0
    path = storage.join(settings.staging, name)
    try:
        with storage.open_file(path, "wb") as stream:
            for facts in ordered:
                image = _stored_image(storage.join(settings.input, facts.file), facts)
                record = records.Record(image, labels[facts.class_name], facts.sha256, facts.file, facts.group)
                frame = io.BytesIO()
                size += records.write_framed(frame, records.serialize(record))
                digest.update(frame.getbuffer())
                stream.write(frame.getbuffer())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; free space or check permissions") from error
    yield Written(
        split,
        index,
        manifest.Shard(name, len(ordered), size, digest.hexdigest()),
        sum(facts.width * facts.height for facts in ordered),
        dict(collections.Counter(facts.class_name for facts in ordered)),
    )
    for facts in ordered:
        yield facts.row("written", split=split, shard=name, detail="" if facts.kept else "encoded again")


def _stored_image(path: str, facts: Facts) -> bytes:
    try:
        data = storage.read_bytes(path)
    except OSError as error:
        raise InputError(f"{path} could be read and now cannot ({error.strerror or error}): {_AGAIN}") from error
    if hashlib.sha256(data).hexdigest() != facts.sha256:
        raise InputError(f"{path} changed while the dataset was being prepared: {_AGAIN}")
    return data if facts.kept else images.standardize(data).data
