"""The order as it is read: one sequence for all workers, seeds and resumes, told from the examples' ids."""

from __future__ import annotations

import collections
import functools
import itertools
import pathlib
import random
from typing import Any

import pytest
import tensorflow as tf

from pipeline import manifest as manifest_lib
from pipeline import order, records, training

CLASSES = ("rare", "usual", "common")
LABELS = (0, 1, 1, 1, 2, 2, 2, 2, 2, 2)  # of ten examples in a row
EXAMPLES = 172  # over 32 shards: 12 of six, 20 of five
MANIFESTS: dict[str, manifest_lib.Manifest] = {}  # by folder
WHOLE, WINDOWS, NARROW = 1000.0, 0.003, 0.001  # MiB: all, about a third and a tenth of the examples


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("dataset")
    numbers = iter(range(EXAMPLES))
    shards = [_write(folder / f"shard-{i}", [next(numbers) for _ in range(6 if i < 12 else 5)]) for i in range(32)]
    by_class = collections.Counter(CLASSES[LABELS[number % 10]] for number in range(EXAMPLES))
    MANIFESTS[str(folder)] = manifest_lib.Manifest(
        name="made",
        version="1.0.0",
        fingerprint="",
        grown_from=None,
        classes=CLASSES,
        splits={"train": manifest_lib.Split(EXAMPLES, tuple(shards))},
        ledger={},
        settings={},
        statistics={"examples_by_class": {"train": by_class}, "pixels": {"train": EXAMPLES}},
    )
    return str(folder)


def _write(path: pathlib.Path, numbers: list[int]) -> manifest_lib.Shard:
    with path.open("wb") as stream:
        for number in numbers:
            label = LABELS[number % 10]
            record = records.Record(image=b"", label=label, id=f"{number:03d}", file="", group="")
            records.write_framed(stream, records.serialize(record))
    return manifest_lib.Shard(path.name, len(numbers), path.stat().st_size, "")


@functools.cache
def _part(folder: str, global_batch: int, shuffle_mib: float, sampling: str, worker: int, num_workers: int) -> Any:
    """(seed, first step) to a worker's ids; building a graph takes longer than reading all of these shards."""
    manifest = MANIFESTS[folder]

    @tf.function
    def variant(seed: tf.Tensor, start_step: tf.Tensor) -> tf.Tensor:
        dataset = training.sample_ids(
            folder,
            manifest,
            split="train",
            seed=seed,
            global_batch=global_batch,
            shuffle_mib=shuffle_mib,
            sampling=sampling,
            start_step=start_step,
            worker=worker,
            num_workers=num_workers,
        )
        return tf.data.experimental.to_variant(dataset)

    spec = tf.TensorSpec([global_batch // num_workers], tf.string)
    return lambda seed, step: tf.data.experimental.from_variant(variant(_int64(seed), _int64(step)), spec)


def _ids(
    folder: str,
    first_step: int,
    last_step: int,
    *,
    seed: int = 7,
    global_batch: int = 16,
    shuffle_mib: float = WINDOWS,
    sampling: str = "none",
    num_workers: int = 1,
) -> list[list[str]]:
    """Of each global batch from `first_step` to before `last_step`, the parts of all workers one after the other."""
    parts = [
        _part(folder, global_batch, shuffle_mib, sampling, worker, num_workers)(seed, first_step)
        for worker in range(num_workers)
    ]
    together = tf.data.Dataset.zip(*parts).take(last_step - first_step)
    return [[example.decode() for part in step for example in part.numpy()] for step in map(tf.nest.flatten, together)]


def _int64(value: Any) -> tf.Tensor:
    return tf.constant(value, tf.int64)


def _by_hand(dataset: str, steps: int, *, seed: int, shuffle_mib: float) -> list[list[str]]:
    """The same order from its description, shard by shard and list by list; only the random draws are TensorFlow's."""
    plan = order.plan(MANIFESTS[dataset].split("train"), global_batch=4, shuffle_mib=shuffle_mib)

    def shard_ids(shard: manifest_lib.Shard) -> list[str]:
        with open(f"{dataset}/{shard.file}", "rb") as stream:
            return [records.features(example)["id"][0].decode() for example in records.read_framed(stream)]

    def shuffled(values: list[str], key: tf.Tensor) -> list[str]:
        draw = tf.random.stateless_uniform([], key, minval=None, maxval=None, dtype=tf.int64)
        tf.random.set_seed(1)
        places = tf.data.Dataset.range(len(values)).shuffle(plan.window, seed=draw, reshuffle_each_iteration=False)
        return [values[place] for place in places.as_numpy_iterator()]

    def stream_ids(stream: order.Stream) -> list[str]:
        ids: list[str] = []
        epoch = 0
        while len(ids) < steps * plan.block:
            key = tf.random.fold_in(tf.random.fold_in(_int64([seed, 0]), _int64(stream.index)), _int64(epoch))
            places = tf.random.experimental.stateless_shuffle(tf.range(len(stream.shards)), seed=key).numpy()
            left = [example for place in places for example in shard_ids(stream.shards[place])]
            draw = tf.random.stateless_uniform([], tf.random.fold_in(key, -1), 1, plan.window + 1, tf.int64)
            size, number = (plan.window if len(left) <= plan.window else int(draw)), 0
            while left:
                ids += shuffled(left[:size], tf.random.fold_in(key, _int64(number)))
                left, size, number = left[size:], plan.window, number + 1
            epoch += 1
        return ids

    of_streams = [stream_ids(stream) for stream in plan.streams]
    blocks = [slice(step * plan.block, (step + 1) * plan.block) for step in range(steps)]
    return [[example for ids in of_streams for example in ids[block]] for block in blocks]


@pytest.mark.parametrize("shuffle_mib", [WHOLE, WINDOWS, NARROW])
def test_the_order_is_what_is_written_about_it(dataset: str, shuffle_mib: float) -> None:
    # Four streams of 43 examples: 50 steps reach into the second epoch.
    found = _ids(dataset, 0, 50, global_batch=4, shuffle_mib=shuffle_mib)
    assert found == _by_hand(dataset, 50, seed=7, shuffle_mib=shuffle_mib)


def test_the_order_stays_between_releases(dataset: str) -> None:
    """Else a run that is resumed with the next release would see some examples twice and others never."""
    assert " ".join(_ids(dataset, 20, 21)[0]) == ("095 010 017 022 029 034 039 131 052 058 146 150 073 157 162 167")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (1, 7, 42, 2**32 - 1))])
def test_workers_together_read_one_sequence_and_resume_in_it(dataset: str, seed: int) -> None:
    ids = functools.partial(_ids, dataset, seed=seed)
    alone = ids(0, 40)
    for num_workers in (2, 4, 8):
        assert ids(0, 40, num_workers=num_workers) == alone
    draw = random.Random(seed)
    for _ in range(4):  # with five seeds, 20
        step, num_workers = draw.randrange(1, 36), draw.choice([1, 2, 4, 8])
        assert ids(step, step + 4, num_workers=num_workers) == alone[step : step + 4]


@pytest.mark.parametrize(("global_batch", "num_workers"), [(24, 3), (9, 3)], ids=["8 streams", "1 stream"])
def test_workers_that_share_a_stream_read_the_same_sequence(dataset: str, global_batch: int, num_workers: int) -> None:
    alone = _ids(dataset, 0, 30, global_batch=global_batch)
    assert _ids(dataset, 0, 30, global_batch=global_batch, num_workers=num_workers) == alone
    assert _ids(dataset, 7, 12, global_batch=global_batch, num_workers=num_workers) == alone[7:12]


@pytest.mark.parametrize("shuffle_mib", [pytest.param(WHOLE, marks=pytest.mark.soak), WINDOWS])
def test_forty_resumes_in_an_epoch_lose_and_double_nothing(dataset: str, shuffle_mib: float) -> None:
    draw = random.Random(3)
    ids = functools.partial(_ids, dataset, global_batch=2, shuffle_mib=shuffle_mib)  # two streams of 86 examples
    seen: list[str] = []
    stops = [0, *sorted(draw.sample(range(1, 86), 40)), 86]
    for step, stop in itertools.pairwise(stops):
        for batch in ids(step, stop, num_workers=draw.choice([1, 2])):
            seen += batch
    assert sorted(seen) == [f"{number:03d}" for number in range(EXAMPLES)]


@pytest.mark.parametrize("shuffle_mib", [WHOLE, WINDOWS, NARROW])
def test_every_example_once_an_epoch_in_another_order_each(dataset: str, shuffle_mib: float) -> None:
    steps = _ids(dataset, 0, 3 * EXAMPLES, global_batch=1, shuffle_mib=shuffle_mib)  # one stream
    flat = [example for step in steps for example in step]
    epochs = [flat[EXAMPLES * i : EXAMPLES * (i + 1)] for i in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == [f"{number:03d}" for number in range(EXAMPLES)]
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_windows_mix_and_shards_change_places(dataset: str) -> None:
    stored = [f"{number:03d}" for number in range(EXAMPLES)]
    for shuffle_mib, least in ((WHOLE, 40), (NARROW, 30)):
        ids = [example for [example] in _ids(dataset, 0, EXAMPLES, global_batch=1, shuffle_mib=shuffle_mib)]
        moved = [abs(place - stored.index(example)) for place, example in enumerate(ids)]
        assert sum(moved) / EXAMPLES > least  # uniform permutations move by a third of 172 on average


def test_resuming_reads_little_again(dataset: str, monkeypatch: Any) -> None:
    """What stands before the window is skipped with its shards: at most a shard's and a window's examples a stream."""
    from pipeline import reading

    read: list[int] = []
    make = reading.make

    def counting(*arguments: Any) -> reading.Reader:
        reader = make(*arguments)

        def count(serialized: tf.Tensor) -> tf.Tensor:
            tf.py_function(lambda: read.append(1), [], [])
            return serialized

        return reader._replace(shard=lambda *numbers: reader.shard(*numbers).map(count))

    monkeypatch.setattr(reading, "make", counting)
    plan = order.plan(MANIFESTS[dataset].split("train"), global_batch=2, shuffle_mib=NARROW)
    bound = len(plan.streams) * (6 + plan.window)
    _part.cache_clear()
    for step in (1, 40, 83):
        read.clear()
        _ids(dataset, step, step + 1, global_batch=2, shuffle_mib=NARROW)
        assert 0 < len(read) <= bound + 2 * plan.window
    _part.cache_clear()


def test_the_seed_decides_and_nothing_else(dataset: str) -> None:
    tf.random.set_seed(1)
    first = _ids(dataset, 0, 5)
    tf.random.set_seed(2)
    assert _ids(dataset, 0, 5) == first
    assert _ids(dataset, 0, 5, seed=8) != first


@pytest.mark.parametrize(("sampling", "shares"), [("uniform", [1, 1, 1]), ("sqrt", [18**0.5, 51**0.5, 103**0.5])])
def test_balanced_sampling_gives_each_class_its_share(dataset: str, sampling: str, shares: list[float]) -> None:
    steps = _ids(dataset, 0, 10 * EXAMPLES, global_batch=1, sampling=sampling, shuffle_mib=WHOLE)
    labels = collections.Counter(LABELS[int(example) % 10] for [example] in steps)
    for label, share in enumerate(shares):
        assert labels[label] / (10 * EXAMPLES) == pytest.approx(share / sum(shares), abs=0.01)
    # Nothing is left out for good, and which examples come more often changes.
    assert len({example for [example] in steps}) == EXAMPLES


def test_balanced_sampling_is_a_pure_order_too(dataset: str) -> None:
    ids = functools.partial(_ids, dataset, sampling="sqrt", shuffle_mib=WHOLE)
    alone = ids(0, 20)
    assert ids(0, 20, num_workers=4) == alone
    assert ids(13, 20, num_workers=2) == alone[13:]
    assert alone != _ids(dataset, 0, 20, shuffle_mib=WHOLE)
