"""A dataset in; records of it that stand for all classes, and files as people upload them, made of records, out."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from pipeline import decode, images, records, shards, storage
from pipeline.errors import InputError
from pipeline.manifest import Manifest, Shard

# Of the largest datasets not all is read: this many times what is asked for has some of all but the rarest classes.
_READ = 50
# Times `shorter_side`, one after the other: enough to be scaled down; and to be decoded to fewer pixels before.
_ENLARGED = (1.5, 1.5, 2.25 * images.DECODING_GAP)
_ORIENTATION = 0x0112
_UNDO = {  # what brings an upright image into the state that each EXIF orientation undoes; CIPA DC-008 section 4.6.4
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def sample(data: str, manifest: Manifest, *, split: str, count: int, by_class: bool, seed: int) -> list[records.Record]:
    """Chooses records by hash, so that the same ones come again.

    Args:
      by_class: of each class as many as there are, up to its share of `count`; else all are equally likely.

    Returns:
      At most `count` records.

    Raises:
      InputError: where the split is missing or empty, or naming the shard that can't be read.
    """
    stored = sorted(manifest.split(split).shards, key=lambda shard: _hash(seed, shard.file))
    if not manifest.split(split).examples:
        raise InputError(f"split {split!r} has no examples to compare an export by: prepare the dataset with more")
    found: dict[int, list[tuple[bytes, records.Record]]] = {}
    share = -(-count // len(manifest.classes)) if by_class else count
    for number, record in enumerate(_read(data, stored)):
        kept = found.setdefault(record.label if by_class else 0, [])
        kept.append((_hash(seed, record.id), record))
        if len(kept) > 2 * share:  # sorting now and then costs less than at every record
            kept[:] = sorted(kept, key=lambda pair: pair[0])[:share]
        if number >= _READ * count:
            break
    ranked = [
        (rank, key, record)
        for kept in found.values()
        for rank, (key, record) in enumerate(sorted(kept, key=lambda pair: pair[0])[:share])
    ]
    return [record for _, _, record in sorted(ranked, key=lambda item: item[:2])[:count]]


def pixels(chosen: Sequence[records.Record], *, image_size: int, crop_fraction: float) -> npt.NDArray[np.uint8]:
    """uint8 [n, image_size, image_size, 3], as training and evaluation see the records."""
    return np.stack(
        [
            decode.central_crop_encoded(record.image, image_size=image_size, crop_fraction=crop_fraction).numpy()
            for record in chosen
        ]
    )


def files(chosen: Sequence[records.Record], storing: images.Storing) -> list[bytes]:
    """JPEG files of the records' pictures as cameras write them: turned in all ways, half of them enlarged."""
    made = []
    for number, record in enumerate(chosen):
        with Image.open(io.BytesIO(record.image)) as opened:
            image = opened.convert("RGB")
        if storing.shorter_side and number % 2:
            factor = _ENLARGED[number // 2 % len(_ENLARGED)] * storing.shorter_side / min(image.size)
            image = image.resize([round(side * factor) for side in image.size], Image.Resampling.BICUBIC)
        orientation = number % len(_UNDO) + 1
        turn = _UNDO[orientation]
        exif = Image.Exif()
        exif.endian = "<" if number % 4 < 2 else ">"
        exif[_ORIENTATION] = orientation
        stream = io.BytesIO()
        (image.transpose(turn) if turn is not None else image).save(stream, "JPEG", quality=95, exif=exif)
        made.append(stream.getvalue())
    return made


def read_by_pillow(file: bytes) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """A file's pixels as they lie in it, and upright: uint8 [height, width, 3] each."""
    with Image.open(io.BytesIO(file)) as opened:
        return np.asarray(opened.convert("RGB")), np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))


def _read(data: str, stored: Sequence[Shard]) -> Iterator[records.Record]:
    opener = shards.Opener(data, stored, cache_dir=None, cache_bytes=None, open_at_once=1)
    try:
        for number, shard in enumerate(stored):
            with open(opener.open(number), "rb") as stream:
                try:
                    for serialized in records.read_framed(stream):
                        yield _record(serialized)
                except (KeyError, ValueError) as error:
                    raise InputError(f"{storage.join(data, shard.file)}: {error}; copy it again") from error
    finally:
        opener.close()


def _record(serialized: bytes) -> records.Record:
    features = records.features(serialized)
    (image,), (label,) = features["image"], features["label"]
    (identity,), (file,), (group,) = (features[name] for name in ("id", "file", "group"))
    texts = (bytes(text).decode("utf-8", "surrogateescape") for text in (identity, file, group))
    return records.Record(bytes(image), int(label), *texts)


def _hash(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}:{text}".encode("utf-8", "surrogateescape")).digest()
