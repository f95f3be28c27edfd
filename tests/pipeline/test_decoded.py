"""Decoded shards on disk: the same pixels as the direct path, read in any order, and damage that is noticed."""

from __future__ import annotations

import hashlib
import os
import pathlib
import uuid

import numpy as np
import pytest
import tensorflow as tf

from pipeline import decode, decoded, manifest, records, shards, storage
from pipeline.errors import InputError
from tests.pipeline import shard_files

CACHE_BYTES = 10 << 20


@pytest.fixture
def dataset(tmp_path: pathlib.Path) -> tuple[pathlib.Path, manifest.Manifest]:
    root = tmp_path / "data"
    return root, shard_files.small(root, shards=2)


def opener(address: object, made: manifest.Manifest, cache: pathlib.Path) -> shards.Opener:
    return shards.Opener(
        str(address), made.split("train").shards, cache_dir=str(cache), cache_bytes=CACHE_BYTES, decoded=True
    )


def direct(root: pathlib.Path, made: manifest.Manifest) -> list[tuple[bytes, tuple[int, ...], int]]:
    """(pixels, shape, label) of the whole split, without any of the code under test."""
    found = []
    for shard in made.split("train").shards:
        for serialized in tf.data.TFRecordDataset(str(root / shard.file)):
            example = records.parse(serialized)
            image = decode.decode(example["image"]).numpy()
            found.append((image.tobytes(), image.shape, int(example["label"])))
    return found


def seen(examples: tf.data.Dataset) -> list[tuple[bytes, tuple[int, ...], int]]:
    return [
        (example["image"].tobytes(), example["image"].shape, int(example["label"]))
        for example in examples.as_numpy_iterator()
    ]


def test_the_pixels_are_those_of_the_direct_path_in_a_graph_and_eagerly(
    dataset: tuple[pathlib.Path, manifest.Manifest], tmp_path: pathlib.Path
) -> None:
    root, made = dataset
    opening = opener(root, made, tmp_path / "cache")
    opening.expect(range(2))
    expected = direct(root, made)

    def index(number: tf.Tensor) -> tf.data.Dataset:
        path = tf.numpy_function(lambda i: opening.open(i).encode(), [number], tf.string)
        return decoded.index(tf.ensure_shape(path, []))

    elements = tf.data.Dataset.range(2).flat_map(index)
    read = elements.map(decoded.read, num_parallel_calls=2)
    assert read.element_spec["image"].shape.as_list() == [None, None, 3]
    assert seen(read) == expected
    assert [decoded.read(element)["image"].numpy().tobytes() for element in elements] == [
        image for image, *_ in expected
    ]
    shuffled = seen(elements.shuffle(100, seed=1).map(decoded.read))
    assert shuffled != expected
    assert sorted(shuffled) == sorted(expected)
    opening.close()


def test_the_file_is_as_described(dataset: tuple[pathlib.Path, manifest.Manifest], tmp_path: pathlib.Path) -> None:
    root, made = dataset
    opening = opener(root, made, tmp_path / "cache")
    paths = [opening.open(number) for number in range(2)]
    expected = direct(root, made)
    for number, path in enumerate(paths):
        head, *images = (bytes(frame.numpy()) for frame in tf.data.TFRecordDataset(path))
        index = np.frombuffer(head, "<i8").reshape(-1, 4)
        data = pathlib.Path(path).read_bytes()
        for (pixels, shape, label), image, row in zip(
            expected[6 * number : 6 * number + 6], images, index, strict=True
        ):
            assert image == pixels
            assert (*row[2:], 3) == shape
            assert row[1] == label
            assert data[row[0] + 12 : row[0] + 12 + len(pixels)] == pixels  # behind the length and its checksum
    total = sum(os.path.getsize(path) for path in paths)
    pixels = made.statistics["pixels"]["train"]
    assert total == decoded.estimated_bytes(examples=12, pixels=pixels, shards=2)
    opening.close()


def test_once_decoded_the_shards_are_not_needed_again(
    dataset: tuple[pathlib.Path, manifest.Manifest], tmp_path: pathlib.Path
) -> None:
    root, made = dataset
    address = f"memory://{uuid.uuid4().hex}"
    for shard in made.split("train").shards:
        storage.copy(str(root / shard.file), f"{address}/{shard.file}")
    first = opener(address, made, tmp_path / "cache")
    paths = [first.open(number) for number in range(2)]
    first.close()
    storage.remove_tree(address)
    second = opener(address, made, tmp_path / "cache")
    assert [second.open(number) for number in range(2)] == paths
    assert seen(tf.data.Dataset.from_tensor_slices(paths).flat_map(decoded.index).map(decoded.read)) == direct(
        root, made
    )
    second.close()


def test_a_flipped_bit_is_noticed_when_it_is_read(
    dataset: tuple[pathlib.Path, manifest.Manifest], tmp_path: pathlib.Path
) -> None:
    root, made = dataset
    opening = opener(root, made, tmp_path / "cache")
    path = pathlib.Path(opening.open(0))
    elements = list(decoded.index(tf.constant(str(path))))
    data = bytearray(path.read_bytes())
    data[int(elements[2]["where"][0]) + 100] ^= 4
    path.write_bytes(data)
    decoded.read(elements[1])
    with pytest.raises(tf.errors.DataLossError):
        decoded.read(elements[2])
    opening.close()


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-1], lambda data: data[:20] + b"?" + data[21:]]
)
def test_a_damaged_file_is_decoded_again(
    dataset: tuple[pathlib.Path, manifest.Manifest], tmp_path: pathlib.Path, damage: object
) -> None:
    root, made = dataset
    first = opener(root, made, tmp_path / "cache")
    path = pathlib.Path(first.open(0))
    first.close()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))  # type: ignore[operator]
    second = opener(root, made, tmp_path / "cache")
    assert pathlib.Path(second.open(0)).read_bytes() == whole
    second.close()


def test_an_empty_shard_has_an_empty_index(tmp_path: pathlib.Path) -> None:
    made = shard_files.write(tmp_path / "data", {"train": [[shard_files.record(0)], []]})
    opening = opener(tmp_path / "data", made, tmp_path / "cache")
    assert list(decoded.index(tf.constant(opening.open(1)))) == []
    opening.close()


@pytest.mark.parametrize(
    "data", [shard_files.image(5)[:-60], shard_files.image(5)[:10], b""], ids=["body", "header", "nothing"]
)
def test_an_image_that_cannot_be_decoded_is_named(tmp_path: pathlib.Path, data: bytes) -> None:
    members = [shard_files.record(0), shard_files.record(5, data), shard_files.record(6)]
    made = shard_files.write(tmp_path / "data", {"train": [members]})
    opening = opener(tmp_path / "data", made, tmp_path / "cache")
    image_id = hashlib.sha256(data).hexdigest()
    expected = (
        rf"image cat/0005\.jpg \(id {image_id}\) in shard .*tiny-train\.tfrecord-00000-of-00001.* can't be decoded"
    )
    with pytest.raises(InputError, match=expected):
        opening.open(0)
    assert os.listdir(tmp_path / "cache") == [".lock"]
    opening.close()
