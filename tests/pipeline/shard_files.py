"""Small datasets as preparation leaves them: real images in framed records, and the manifest that describes them."""

from __future__ import annotations

import hashlib
import io
import json
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipeline import manifest, records

CLASSES = ("ant", "bee", "cat")


def image(number: int, *, png: bool = False) -> bytes:
    """Smooth shapes of a size of their own, no two alike."""
    height, width = 20 + number % 7, 24 + number % 5
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows * 9 + number * 31, columns * 9 + number * 17, rows * columns], axis=-1) % 256
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG" if png else "JPEG")
    return stream.getvalue()


def record(number: int, data: bytes | None = None) -> records.Record:
    data = image(number, png=number % 4 == 3) if data is None else data
    name = CLASSES[number % 3]
    return records.Record(data, number % 3, hashlib.sha256(data).hexdigest(), f"{name}/{number:04d}.jpg", "")


def write(root: pathlib.Path, splits: dict[str, Sequence[Sequence[records.Record]]]) -> manifest.Manifest:
    """Shards and manifest.json in `root`, one shard for each list of records."""
    root.mkdir(parents=True, exist_ok=True)
    described = {}
    for split, lists in splits.items():
        shards = []
        for number, members in enumerate(lists):
            stream = io.BytesIO()
            for member in members:
                records.write_framed(stream, records.serialize(member))
            data = stream.getvalue()
            name = f"tiny-{split}.tfrecord-{number:05d}-of-{len(lists):05d}"
            (root / name).write_bytes(data)
            shards.append(manifest.Shard(name, len(members), len(data), hashlib.sha256(data).hexdigest()))
        described[split] = manifest.Split(sum(shard.examples for shard in shards), tuple(shards))
    of_split = {split: [member for members in lists for member in members] for split, lists in splits.items()}
    made = manifest.Manifest(
        name="tiny",
        version="1.0.0",
        fingerprint=manifest.fingerprint(CLASSES, described),
        grown_from=None,
        classes=CLASSES,
        splits=described,
        ledger={},
        settings={},
        statistics={
            "examples_by_class": {
                split: {name: sum(member.label == label for member in members) for label, name in enumerate(CLASSES)}
                for split, members in of_split.items()
            },
            "pixels": {split: sum(map(_pixels, members)) for split, members in of_split.items()},
        },
    )
    (root / manifest.FILE).write_text(json.dumps(made.to_json()))
    return made


def small(root: pathlib.Path, shards: int = 4, examples: int = 6) -> manifest.Manifest:
    """A split `train` of as many shards, and a split `test` whose shards are of the very same sizes."""
    lists = [[record(shard * examples + number) for number in range(examples)] for shard in range(shards)]
    others = [[_renamed(member) for member in members] for members in lists]
    return write(root, {"train": lists, "test": others})


def _renamed(member: records.Record) -> records.Record:
    other = hashlib.sha256(member.id.encode()).hexdigest()
    return records.Record(member.image, member.label, other, member.file[:-1] + "G", "")


def _pixels(member: records.Record) -> int:
    try:
        with Image.open(io.BytesIO(member.image)) as opened:
            return opened.width * opened.height
    except OSError:  # no image, as some tests want it
        return 0
