"""Class folders in, shards out, the way people write them without us: what the job is compared with.

Run as a command, so that each writer pays for its own imports and ends with its own peak of memory:

    python -m tests.bench.baselines WRITER MODE INPUT OUTPUT

prints the CPU seconds of listing and writing, after its imports. Modes: `copy` keeps the files' bytes; `hash` is copy
with a SHA-256 of every source and of every shard; `check` is hash after each file was decoded, to see that it is whole;
`resize` decodes, scales the shorter side to `SIDE` where it is larger, and encodes.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import pathlib
import random
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from PIL import Image

from pipeline import records
from tests.bench import data

SIDE, QUALITY, CHROMA = 256, 90, "4:2:0"
SHARDS = 8
PROCESSES = 2
MODES = ("copy", "hash", "check", "resize")
_SEED = 42


def prepared(source: bytes, mode: str) -> bytes:
    """The bytes that are stored for one file."""
    if mode in ("copy", "hash"):
        return source
    image = Image.open(io.BytesIO(source))
    if mode == "check":
        image.load()
        return source
    scale = min(1.0, SIDE / min(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image.draft("RGB", size)  # lets the JPEG decoder skip what is scaled away
    resized = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    resized.save(buffer, "JPEG", quality=QUALITY, subsampling=CHROMA)
    return buffer.getvalue()


def plain(root: str, output: str, mode: str) -> None:
    for task in _tasks(root, output, mode):
        _write_shard(task)


def pool(root: str, output: str, mode: str) -> None:
    """Whole shards, each written by one of two processes from its list of paths."""
    with multiprocessing.get_context("fork").Pool(PROCESSES) as workers:
        workers.map(_write_shard, _tasks(root, output, mode), chunksize=1)
        workers.close()
        workers.join()


def webdataset(root: str, output: str, mode: str) -> None:
    import webdataset as wds

    classes, names = _listed(root)
    per_shard = -(-len(names) // SHARDS)
    with wds.ShardWriter(f"{output}/photos-%05d.tar", maxcount=per_shard, verbose=0) as sink:
        for index, (name, source) in enumerate(_read(root, names)):
            image = prepared(source, mode)
            identity = "" if mode in ("copy", "resize") else hashlib.sha256(source).hexdigest()
            label = classes.index(name.partition("/")[0])
            sink.write({"__key__": f"{index:08d}", "jpg": image, "cls": label, "json": {"file": name, "id": identity}})
    if mode in ("hash", "check"):
        for shard in pathlib.Path(output).iterdir():
            hashlib.sha256(shard.read_bytes()).hexdigest()


def tfds(root: str, output: str, mode: str) -> None:
    """`tfds.ImageFolder` read by tf.data, stored with `store_as_tfds_dataset`; resizing is TensorFlow's."""
    import tensorflow as tf
    import tensorflow_datasets as tfds_lib

    split = pathlib.Path(output) / "folder"
    split.mkdir()
    (split / "train").symlink_to(root, target_is_directory=True)
    builder = tfds_lib.ImageFolder(str(split))
    images = builder.as_dataset(split="train", decoders={"image": tfds_lib.decode.SkipDecoding()})

    def resize(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image = tf.io.decode_image(example["image"], channels=3, expand_animations=False)
        image.set_shape([None, None, 3])
        shape = tf.cast(tf.shape(image)[:2], tf.float32)
        size = tf.cast(tf.round(shape * tf.minimum(1.0, SIDE / tf.reduce_min(shape))), tf.int32)
        pixels = tf.cast(tf.clip_by_value(tf.round(tf.image.resize(image, size, antialias=True)), 0, 255), tf.uint8)
        return {**example, "image": tf.io.encode_jpeg(pixels, quality=QUALITY, chroma_downsampling=CHROMA == "4:2:0")}

    def check(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image = tf.io.decode_image(example["image"], channels=3, expand_animations=False)
        with tf.control_dependencies([image]):
            return {name: tf.identity(value) for name, value in example.items()}

    if mode in ("check", "resize"):
        images = images.map(check if mode == "check" else resize, num_parallel_calls=tf.data.AUTOTUNE)
    features = tfds_lib.features.FeaturesDict(
        {
            "image": tfds_lib.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds_lib.features.ClassLabel(names=builder.info.features["label"].names),
            "image/filename": tfds_lib.features.Text(),
        }
    )
    tfds_lib.dataset_builders.store_as_tfds_dataset(
        name="photos", version="1.0.0", features=features, split_datasets={"train": images}, data_dir=output
    )


WRITERS: dict[str, Callable[[str, str, str], None]] = {
    "plain": plain,
    "pool": pool,
    "webdataset": webdataset,
    "tfds": tfds,
}


def _listed(root: str) -> tuple[list[str], list[str]]:
    """Classes, and files as CLASS/FILE in the shuffled order they are written in."""
    names = data.files(pathlib.Path(root))
    random.Random(_SEED).shuffle(names)
    return sorted({name.partition("/")[0] for name in names}), names


def _read(root: str, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        with open(os.path.join(root, name), "rb") as stream:
            yield name, stream.read()


def _tasks(root: str, output: str, mode: str) -> list[tuple[str, str, str, Sequence[str], Sequence[str]]]:
    classes, names = _listed(root)
    return [
        (root, f"{output}/photos-{shard:05d}", mode, classes, names[shard::SHARDS])
        for shard in range(min(SHARDS, len(names)))
    ]


def _write_shard(task: tuple[str, str, str, Sequence[str], Sequence[str]]) -> None:
    root, path, mode, classes, names = task
    digest = hashlib.sha256()
    with open(path, "wb") as stream:
        for name, source in _read(root, names):
            image = prepared(source, mode)
            identity = "" if mode in ("copy", "resize") else hashlib.sha256(source).hexdigest()
            record = records.Record(image, classes.index(name.partition("/")[0]), identity, name, identity)
            if mode in ("copy", "resize"):
                records.write_framed(stream, records.serialize(record))
            else:
                frame = io.BytesIO()
                records.write_framed(frame, records.serialize(record))
                digest.update(frame.getbuffer())
                stream.write(frame.getbuffer())


def cpu_s() -> float:
    """Of this process and its children that ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both)


if __name__ == "__main__":
    writer, mode, root, output = sys.argv[1:]
    pathlib.Path(output).mkdir(parents=True, exist_ok=True)
    before = cpu_s()
    WRITERS[writer](os.path.abspath(root), os.path.abspath(output), mode)
    print(json.dumps({"cpu_s": cpu_s() - before}))
