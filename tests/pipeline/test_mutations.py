"""200 random ways to spoil a dataset, each caught before or at the moment the shard is read, and the shard named."""

from __future__ import annotations

import collections
import os
import pathlib
import random
import shutil
from collections.abc import Callable

import pytest
import tensorflow as tf

from pipeline import manifest, records, shards, training
from pipeline.errors import InputError
from tests.pipeline import shard_files

SEED = 4
SHARDS = 4
Mutation = Callable[[random.Random, pathlib.Path, pathlib.Path], None]


def cut(chance: random.Random, path: pathlib.Path, other: pathlib.Path) -> None:
    os.truncate(path, chance.randrange(1, path.stat().st_size))


def cut_on_a_record_boundary(chance: random.Random, path: pathlib.Path, other: pathlib.Path) -> None:
    with path.open("rb") as stream:
        starts = [start for start, _, _ in records.scan_framed(stream)]
    os.truncate(path, chance.choice(starts[1:]))


def flip(chance: random.Random, path: pathlib.Path, other: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def swap(chance: random.Random, path: pathlib.Path, other: pathlib.Path) -> None:
    between = path.with_name("between")
    path.rename(between)
    other.rename(path)
    between.rename(other)


def replace_by_one_of_another_split(chance: random.Random, path: pathlib.Path, other: pathlib.Path) -> None:
    source = path.with_name(path.name.replace("train", "test"))
    assert source.stat().st_size == path.stat().st_size
    shutil.copy(source, path)


def delete(chance: random.Random, path: pathlib.Path, other: pathlib.Path) -> None:
    path.unlink()


def append(chance: random.Random, path: pathlib.Path, other: pathlib.Path) -> None:
    with path.open("ab") as stream:
        stream.write(chance.randbytes(chance.randrange(1, 100)))


def append_a_record(chance: random.Random, path: pathlib.Path, other: pathlib.Path) -> None:
    with path.open("ab") as stream:
        records.write_framed(stream, records.serialize(shard_files.record(chance.randrange(100))))


def zero_a_block(chance: random.Random, path: pathlib.Path, other: pathlib.Path) -> None:
    start, length = chance.randrange(path.stat().st_size - 64), 64
    with path.open("r+b") as stream:
        stream.seek(start)
        stream.write(bytes(length))


def empty(chance: random.Random, path: pathlib.Path, other: pathlib.Path) -> None:
    os.truncate(path, 0)


MUTATIONS: tuple[Mutation, ...] = (
    cut,
    cut_on_a_record_boundary,
    flip,
    swap,
    replace_by_one_of_another_split,
    delete,
    append,
    append_a_record,
    zero_a_block,
    empty,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, manifest.Manifest]:
    root = tmp_path_factory.mktemp("whole") / "data"
    return root, shard_files.small(root, shards=SHARDS)


def opener(root: pathlib.Path, made: manifest.Manifest) -> shards.Opener:
    return shards.Opener(str(root), made.split("train").shards, cache_dir=None, cache_bytes=None)


class Reader:
    """A graph that opens, reads and counts records as training does; built once, for whatever `opening` is."""

    def __init__(self) -> None:
        self.opening: shards.Opener | None = None
        self.epoch = tf.data.Dataset.range(SHARDS).flat_map(self._records)

    def _records(self, index: tf.Tensor) -> tf.data.Dataset:
        path = tf.numpy_function(self._open, [index], tf.string)
        return tf.data.TFRecordDataset(tf.ensure_shape(path, []))

    def _open(self, index: int) -> bytes:
        assert self.opening
        return self.opening.open(index).encode()

    def read(self, opening: shards.Opener) -> int:
        self.opening = opening
        return sum(1 for _ in self.epoch)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


def mutated(
    whole: tuple[pathlib.Path, manifest.Manifest], folder: pathlib.Path, number: int
) -> tuple[pathlib.Path, set[str]]:
    """A copy of the dataset with mutation `number`, and the names of the shards that are no longer what they were."""
    root, made = whole
    copy = folder / str(number)
    shutil.copytree(root, copy)
    chance = random.Random(1000 * SEED + number)
    path, other = (copy / shard.file for shard in chance.sample(made.split("train").shards, 2))
    MUTATIONS[number % len(MUTATIONS)](chance, path, other)
    changed = set()
    for shard in made.split("train").shards:
        now = (copy / shard.file).read_bytes() if (copy / shard.file).exists() else None
        if now != (root / shard.file).read_bytes():
            changed.add(shard.file)
    assert changed <= {path.name, other.name}
    return copy, changed


def assert_named(error: InputError | None, changed: set[str]) -> None:
    assert error is not None
    assert any(f"/{name} " in str(error) for name in changed), (error, changed)


def check(whole: tuple[pathlib.Path, manifest.Manifest], folder: pathlib.Path, numbers: range) -> None:
    kinds: collections.Counter[str] = collections.Counter()
    for number in numbers:
        copy, changed = mutated(whole, folder, number)
        opening, train = opener(copy, whole[1]), whole[1].split("train").shards
        if not changed:  # a block of zeros over zeros
            continue
        kinds[MUTATIONS[number % len(MUTATIONS)].__name__] += 1
        if number % 2:
            opening.expect(range(len(train)))
        for index, shard in enumerate(train):
            if shard.file in changed:
                with pytest.raises(InputError) as caught:
                    opening.open(index)
                assert_named(caught.value, {shard.file})
            else:
                opening.open(index)  # and no other is blamed
        opening.close()
        shutil.rmtree(copy)
    assert len(kinds) == len(MUTATIONS)
    assert sum(kinds.values()) >= 0.98 * len(numbers)


def test_200_mutations_are_caught_and_named(
    whole: tuple[pathlib.Path, manifest.Manifest], tmp_path: pathlib.Path
) -> None:
    check(whole, tmp_path, range(200))


@pytest.mark.soak
def test_10000_mutations_are_caught_and_named(
    whole: tuple[pathlib.Path, manifest.Manifest], tmp_path: pathlib.Path
) -> None:
    check(whole, tmp_path, range(200, 10_200))


def test_nothing_is_caught_on_a_whole_dataset(whole: tuple[pathlib.Path, manifest.Manifest], reader: Reader) -> None:
    root, made = whole
    for split in ("train", "test"):
        opening = shards.Opener(str(root), made.split(split).shards, cache_dir=None, cache_bytes=None)
        for _ in range(3):
            assert reader.read(opening) == made.split(split).examples
        assert opening.failure is None


def test_30_mutations_before_a_graph_reads(
    whole: tuple[pathlib.Path, manifest.Manifest], reader: Reader, tmp_path: pathlib.Path
) -> None:
    for number in range(200, 230):
        copy, changed = mutated(whole, tmp_path, number)
        opening = opener(copy, whole[1])
        with pytest.raises(tf.errors.OpError):
            reader.read(opening)
        assert_named(opening.failure, changed)


def test_30_mutations_between_two_epochs(
    whole: tuple[pathlib.Path, manifest.Manifest], reader: Reader, tmp_path: pathlib.Path
) -> None:
    root, made = whole
    for number in range(300, 330):
        spoiled, changed = mutated(whole, tmp_path / "spoiled", number)
        copy = tmp_path / str(number)
        shutil.copytree(root, copy)
        opening = opener(copy, made)
        assert reader.read(opening) == made.split("train").examples
        for name in changed:
            (copy / name).unlink()
            if (spoiled / name).exists():
                shutil.copy(spoiled / name, copy / name)
        with pytest.raises(tf.errors.OpError):
            reader.read(opening)
        assert_named(opening.failure, changed)


@pytest.mark.parametrize("number", range(400, 400 + len(MUTATIONS)))
def test_training_names_what_is_wrong_instead_of_a_short_epoch(
    whole: tuple[pathlib.Path, manifest.Manifest], tmp_path: pathlib.Path, number: int
) -> None:
    copy, changed = mutated(whole, tmp_path, number)
    batches = training.batches(
        str(copy),
        whole[1],
        split="train",
        seed=1,
        global_batch=4,
        image_size=32,
        crop_area=(0.5, 1.0),
        flip=False,
        cache="none",
        shuffle_mib=1,
    )
    with pytest.raises(InputError) as caught:
        for _ in zip(range(whole[1].split("train").examples), batches, strict=False):
            pass
    assert_named(caught.value, changed)
