"""The examination of the input: arithmetic on made measurements, stages on real records, and the real command."""

from __future__ import annotations

import base64
import collections
import dataclasses
import hashlib
import io
import itertools
import json
import math
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from configs import loading, schema
from pipeline import decode, manifest, records, sheet, storage, training
from pipeline.augmentations.augment import Augment
from pipeline.doctor import advice, alternatives, clock, costs, examine, stages, wording
from pipeline.doctor.findings import EndToEnd, Findings, Shuffle
from pipeline.doctor.subject import Subject
from pipeline.errors import InputError

REPOSITORY = pathlib.Path(__file__).parents[2]
CONFIG = "--config=configs/digits_mobilenetv2.py"


def spent(*cpu_s_per_1000: float) -> list[clock.Spent]:
    """Passes over 2,000 images in 4 seconds each: 500 images/s."""
    return [clock.Spent(2000, 2 * each, 4.0) for each in cpu_s_per_1000]


def test_a_stage_costs_what_it_adds_repeat_by_repeat() -> None:
    # In the second repeat the machine was slower, for both stages alike.
    found = {"read": spent(0.1, 0.5, 0.1), "decode": spent(0.4, 0.8, 0.4), "batch": spent(0.41, 0.79, 0.4)}
    read, decoded, batch = costs.of_stages(["read", "decode", "batch"], found)
    assert (read.own_cpu_s, read.cpu_s, read.images_per_s) == (0.1, 0.1, 500)
    assert decoded.own_cpu_s == pytest.approx(0.3)
    assert decoded.cpu_s == 0.4
    assert not decoded.noise
    assert batch.noise  # it added 0.01, -0.01 and nothing


TABLE = [("read", 0.05), ("parse", 0.05), ("decode", 0.6), ("augment", 0.2), ("batch", 0.1)]


def table(**changed: float) -> list[costs.Cost]:
    total, result = 0.0, []
    for name, own in TABLE:
        total += changed.get(name, own)
        result.append(costs.Cost(name, changed.get(name, own), total, 100.0, noise=False))
    return result


@pytest.mark.parametrize(
    ("changed", "storage_images_per_s", "name", "share"),
    [
        ({}, None, "decode", 0.6),
        ({"augment": 1.2}, None, "augment", 0.6),
        ({"read": 1.8, "decode": 0.3}, None, "read", 0.7347),
        ({}, 3999, "storage", 1.0),  # four cores at 1 CPU-s per 1,000 make 4,000 images/s
        ({}, 4001, "decode", 0.6),
    ],
)
def test_the_bottleneck_is_named(
    changed: dict[str, float], storage_images_per_s: float | None, name: str, share: float
) -> None:
    found = costs.bottleneck(table(**changed), cores=4, storage_images_per_s=storage_images_per_s)
    assert found.name == name
    assert found.share == pytest.approx(share, abs=1e-4)


def test_a_stage_takes_no_more_than_everything() -> None:
    # Medians of differences: what crop adds repeat by repeat is more than what all of it takes in the middle.
    noisy = [
        costs.Cost("read", 0.2, 0.2, 100.0, noise=False),
        costs.Cost("crop", 0.9, 0.9, 100.0, noise=False),
        costs.Cost("batch", -0.1, 0.8, 100.0, noise=True),
    ]
    found = costs.bottleneck(noisy, cores=4, storage_images_per_s=None)
    assert found.name == "crop"
    assert found.share == pytest.approx(0.9 / 1.1)


def test_a_rate_grows_with_cores_up_to_what_one_thread_does() -> None:
    assert costs.rate(0.5, 8) == 16_000
    assert costs.rate(0.5, 96, 0.01) == 100_000
    assert costs.rate(0.5, 8, 0.01) == 16_000


CACHE = advice.Alternative("cache=decoded", 0.8, "fits", "nothing")
SMALLER = advice.Alternative("shorter_side=256", 0.4, "prepare again", "pixels")
REDUCED = advice.Alternative("image_size=160", 0.2, "train again", "model")


@pytest.mark.parametrize(
    ("bottleneck", "alternatives", "accelerator_rate", "setting"),
    [
        ("decode", [SMALLER, CACHE], None, "cache=decoded"),  # the smaller gain, for nothing lost
        ("decode", [SMALLER, REDUCED], None, "shorter_side=256"),
        ("decode", [dataclasses.replace(SMALLER, cpu_s=0.8)], None, None),  # not worth preparing again
        ("decode", [REDUCED], None, None),  # nobody said that the input is too slow
        ("decode", [dataclasses.replace(CACHE, cpu_s=0.95)], None, None),  # 5 % is not worth it
        ("decode", [CACHE, SMALLER, REDUCED], 3000, None),  # fast enough
        ("decode", [CACHE, SMALLER, REDUCED], 3900, "cache=decoded"),  # only just
        ("decode", [CACHE, SMALLER, REDUCED], 5500, "shorter_side=256"),  # 5,000 and 10,000 images/s
        ("decode", [], 3900, None),  # only just, and nothing to change
        ("decode", [CACHE, SMALLER, REDUCED], 12000, "image_size=160"),
        ("decode", [CACHE, SMALLER, REDUCED], 30000, "--input_service"),
        ("decode", [], 30000, "--input_service"),
        ("storage", [CACHE], None, "a faster place for --data"),
    ],
)
def test_the_advice_is_the_least_change_that_is_enough(
    bottleneck: str,
    alternatives: list[advice.Alternative],
    accelerator_rate: float | None,
    setting: str | None,
) -> None:
    given = advice.advise(
        1.0,
        costs.Bottleneck(bottleneck, 0.6),
        alternatives,
        host=advice.Host(cores=4, overhead=1.0, serial_cpu_s=0.0),  # 4,000 images/s as configured
        accelerator_rate=accelerator_rate,
    )
    assert given.setting == setting
    if setting == "--input_service":
        assert "takes 30 cores" in given.reason
        assert ("6 with image_size=160" in given.reason) == bool(alternatives)


@pytest.mark.parametrize(
    ("host", "accelerator_rate", "setting", "reason"),
    [
        (advice.Host(4, 1.25, 0.0), 4500, "shorter_side=256", "prepare again"),  # the cache gives 4,000
        (
            advice.Host(4, 1.25, 0.0),
            20_000,
            "--input_service",
            "takes 25 cores like these as it is configured, 10 with",
        ),
        (advice.Host(64, 1.25, 0.1), 9000, None, "9,000 images/s are met with room to spare by 64 cores"),
        (advice.Host(64, 1.25, 0.1), 9500, None, "only just met by 64 cores"),  # no setting gives more
        (advice.Host(64, 1.25, 0.1), 11_000, "--input_service", "puts the batches together, 10,000 images/s at most"),
    ],
)
def test_the_advice_counts_what_training_takes_beside_its_stages(
    host: advice.Host, accelerator_rate: float, setting: str | None, reason: str
) -> None:
    given = advice.advise(
        1.0, costs.Bottleneck("decode", 0.6), [CACHE, SMALLER], host=host, accelerator_rate=accelerator_rate
    )
    assert given.setting == setting
    assert reason in given.reason


def test_works_are_repeated_in_turn_after_a_run_of_no_rounds() -> None:
    calls: list[tuple[str, int]] = []

    def work(name: str, least: int) -> clock.Work:
        return clock.Work(lambda rounds: calls.append((name, rounds)), lambda rounds: 10 * rounds, least)

    found, first = clock.interleaved({"a": work("a", 1), "b": work("b", 3)}, seconds=1e-3, tick=lambda name: None)
    assert first["b"].images == 30
    repeats = len(found["a"])
    assert 3 <= repeats == len(found["b"])
    measured = calls[-4 * repeats :]
    assert [name for name, _ in measured] == ["a", "a", "b", "b"] * repeats
    assert all(rounds == 0 for _, rounds in measured[::2])
    assert all(rounds > 0 for _, rounds in measured[1::2])
    assert all(rounds % 3 == 0 for _, rounds in measured[3::4])


def test_every_element_is_made_when_it_is_consumed() -> None:
    made: list[int] = []

    def make(value: tf.Tensor) -> tf.Tensor:
        made.append(int(value))
        return value

    dataset = tf.data.Dataset.range(1000).map(lambda value: tf.py_function(make, [value], tf.int64))
    assert int(stages.consume(dataset)) == math.ceil(1000 / 64)
    assert made == list(range(1000))


def dataset(
    root: pathlib.Path, stored: Sequence[Sequence[records.Record]], *, classes: tuple[str, ...], pixels: int
) -> str:
    """A dataset with these records of each shard, equally many of each class."""
    shards = []
    for number, part in enumerate(stored):
        name = f"photos-train.tfrecord-{number:05d}-of-{len(stored):05d}"
        with (root / name).open("wb") as stream:
            for record in part:
                records.write_framed(stream, records.serialize(record))
        data = (root / name).read_bytes()
        shards.append(manifest.Shard(name, len(part), len(data), hashlib.sha256(data).hexdigest()))
    examples = sum(shard.examples for shard in shards)
    storing = {"shorter_side": 512, "jpeg_quality": 90, "chroma": "4:2:0", "lossless": False}
    by_class = dict.fromkeys(classes, examples // len(classes))
    statistics = {"pixels": {"train": pixels}, "examples_by_class": {"train": by_class}}
    found = manifest.Manifest(
        "photos", "1.0.0", "f", None, classes, {"train": manifest.Split(examples, tuple(shards))}, {},
        {"storing": storing}, statistics,
    )  # fmt: skip
    storage.write_json(str(root / manifest.FILE), found.to_json())
    return str(root)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset of 24 JPEGs of 240x320 pixels with two classes in two shards."""
    random = np.random.default_rng(0)
    stored: list[list[records.Record]] = [[], []]
    for number, index in itertools.product(range(2), range(12)):
        buffer = io.BytesIO()
        coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        record = records.Record(buffer.getvalue(), index % 2, f"{number}{index}", f"{index}.jpg", f"{index}")
        stored[number].append(record)
    root = tmp_path_factory.mktemp("photos")
    return dataset(root, stored, classes=("left", "<right>"), pixels=24 * 240 * 320)


@pytest.mark.parametrize("kind", ["photos", "digits"])
def test_stages_end_in_every_example_once_and_in_the_same_pixels(kind: str, request: pytest.FixtureRequest) -> None:
    data = request.getfixturevalue(kind)
    found = manifest.load(data)
    files = [storage.join(data, shard.file) for shard in found.split("train").shards]
    examples = found.split("train").examples
    settings = dataclasses.asdict(schema.Input(image_size=32, crop_area=(0.5, 1.0)))
    subject = Subject(data, found, "train", 7, 4, settings, Augment())
    results = {}
    for cache in ("none", "encoded", "decoded"):
        built = stages.build(
            subject.reader(subject.part, cache), subject.way, shards=len(files), examples=examples, cache=cache,
            options=tf.data.Options(),
        )  # fmt: skip
        assert [stage.name for stage in built][-3:] == [
            stages.CROP if cache == "decoded" else stages.DECODE, stages.AUGMENT, stages.BATCH
        ]  # fmt: skip
        assert sum(1 for _ in built[-1].build(tf.constant(1, tf.int64))) == examples // 4
        batches = list(built[-1].build(tf.constant(4, tf.int64)).as_numpy_iterator())
        results[cache] = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        for stage in built[:-1]:
            assert sum(1 for _ in stage.build(tf.constant(2, tf.int64))) == 2 * examples
    images, labels = results["none"][:2]
    assert collections.Counter(labels.tolist()) == {
        label: 4 * count for label, count in enumerate(found.class_counts("train"))
    }
    for other in results.values():
        np.testing.assert_array_equal(images, other[0])

    first = next(iter(tf.data.TFRecordDataset(files[0])))
    expected = decode.random_resized_crop(
        decode.decode(records.parse(first)["image"]),
        image_size=32,
        area=(0.5, 1.0),
        seed=tf.constant([7, 0], tf.int64),
        flip=True,
    )
    np.testing.assert_array_equal(images[0], expected)


def subject_of(data: str, *, global_batch: int = 8, **changed: Any) -> Subject:
    settings = dataclasses.asdict(schema.Input(**{"image_size": 64, **changed}))
    return Subject(data, manifest.load(data), "train", 1, global_batch, settings, Augment())


def examined(data: str, **changed: Any) -> Findings:
    subject = subject_of(data, global_batch=changed.pop("global_batch", 8), **changed.pop("input", {}))
    return examine.examine(subject, seconds=0.2, show_progress=False, **changed)


def test_photos_are_examined_with_a_batch_larger_than_the_split(photos: str) -> None:
    found = examined(photos, global_batch=64, input={"cache": "none"}, cores=8)
    assert (found.examples, found.sample, found.shards, found.cache) == (24, 24, 2, "none")
    assert found.first_epoch == found.later_epochs
    assert [cost.name for cost in found.first_epoch] == [
        stages.READ, stages.PARSE, stages.DECODE, stages.AUGMENT, stages.BATCH
    ]  # fmt: skip
    # 64 / 0.875 rounded up to a multiple of 32; three quarters of 64, rounded down.
    tried = [alternative.setting for alternative in found.alternatives]
    assert tried == [
        "--config.input.cache=decoded", "--config.input.cache=encoded", "--shorter_side=96",
        "--config.input.image_size=32",
    ]  # fmt: skip
    assert all(math.isfinite(alternative.cpu_s) for alternative in found.alternatives)
    text = wording.as_text(found)
    assert "24 images of 76,800 pixels" in text
    assert "A host of 8 cores feeds" in text
    assert text.count("<- bottleneck") == 1


@pytest.mark.parametrize(
    ("cores", "accelerator_rate", "advised"),
    [
        (None, 5000, "Change one thing: --input_service. No single setting feeds 5,000 images/s from 2 cores"),
        (4, 5000, "from 4 cores: that takes 7 cores like these"),
        (16, 5000, "Change nothing. The accelerator's 5,000 images/s are met with room to spare by 16 cores."),
        (64, 100_000, "No number of cores feeds 100,000 images/s from one host"),
    ],
)
def test_the_advice_is_for_the_host_that_was_asked_about(
    cores: int | None, accelerator_rate: float, advised: str, photos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_costs, whole = tuple(table()), EndToEnd(1.25, 1600.0, 2.0, 0.0)  # 800 images/s a core, 10,000 at most
    measured = examine._Measured(stage_costs, stage_costs, (), None, whole)
    monkeypatch.setattr(examine, "_measure", lambda *_, **__: measured)
    monkeypatch.setattr(clock, "cores", lambda: 2.0)
    found = examined(photos, input={"cache": "none"}, cores=cores, accelerator_rate=accelerator_rate)
    assert advised in flat(wording.as_text(found))


def test_the_storage_is_waited_for_by_as_many_cores_as_were_asked_about(
    photos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_costs = tuple(table())
    measured = examine._Measured(stage_costs, stage_costs, (), 5000.0, EndToEnd(1.0, 2000.0, 2.0, 0.0))
    monkeypatch.setattr(examine, "_measure", lambda *_, **__: measured)
    monkeypatch.setattr(clock, "cores", lambda: 2.0)
    found = examined(photos, input={"cache": "none"}, cores=8)
    assert found.bottleneck.name == "decode"  # of these two cores
    assert "With 8 cores the CPUs wait for the storage" in found.advice.reason


@pytest.mark.parametrize(
    ("configured", "cleared"),
    [
        ({}, ""),
        ({"cache_dir": "CACHE"}, " --config.input.cache_dir=None"),
        ({"cache_dir": "CACHE", "cache_gib": 0.5}, " --config.input.cache_dir=None --config.input.cache_gib=None"),
    ],
)
def test_another_cache_is_proposed_with_flags_that_training_takes(
    configured: dict[str, Any], cleared: str, photos: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    configured = {"cache": "disk", **configured}
    if "cache_dir" in configured:
        configured["cache_dir"] = str(tmp_path / "cache")
    subject = subject_of(photos, **configured)
    tried = alternatives.trials(subject, subject.part, cache="disk", available_bytes=2**40, folder=str(tmp_path))
    proposed = [trial.alternative.setting for trial in itertools.islice(tried, 2)]
    assert proposed == [f"--config.input.cache={cache}{cleared}" for cache in ("decoded", "encoded")]

    typed = [f"--config.input.{name}={value}" for name, value in configured.items()]
    for setting in proposed:
        config = loading.read(CONFIG.removeprefix("--config="), [*typed, *setting.split()])
        taken = dataclasses.asdict(config.input)
        del taken["crop_fraction"]
        training.batches(photos, subject.manifest, split="train", seed=1, global_batch=8, **taken).close()


def damaged(photos: str, root: pathlib.Path) -> tuple[str, pathlib.Path]:
    """A copy of the dataset with one bit changed in its second shard, and that shard."""
    data = shutil.copytree(photos, root / "photos")
    path = data / manifest.load(photos).split("train").shards[1].file
    stored = bytearray(path.read_bytes())
    stored[len(stored) // 2] ^= 1
    path.write_bytes(stored)
    return str(data), path


def test_a_damaged_shard_is_answered_in_one_line(photos: str, tmp_path: pathlib.Path) -> None:
    data, path = damaged(photos, tmp_path)
    result = run(f"--data={data}", CONFIG)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert re.fullmatch(rf"pipeline: {path}: damaged TFRecord body at byte [\d,]+; copy it again", line)


@pytest.mark.parametrize("cache", ["none", "encoded", "disk"])
def test_a_damaged_shard_is_named_when_it_is_measured(
    cache: str, photos: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alternatives, "_SCALED_DOWN", 12)  # the first shard's
    data, path = damaged(photos, tmp_path)
    given = {"cache": cache, "cache_dir": str(tmp_path / "cache") if cache == "disk" else None}
    with pytest.raises(InputError, match=rf"^shard {path} has changed: its SHA-256 is .*: copy it again"):
        examined(data, input=given)


@pytest.mark.parametrize("cache", ["none", "decoded"])
def test_an_image_that_cannot_be_decoded_is_named(cache: str, tmp_path: pathlib.Path) -> None:
    broken = records.Record(b"\xff\xd8\xff no JPEG", 0, "id", "cat/broken.jpg", "group")
    data = dataset(tmp_path, [[broken]], classes=("cat",), pixels=100)
    with pytest.raises(InputError, match=r"^image cat/broken\.jpg \(id id\) in shard .* can't be decoded"):
        examined(data, input={"cache": cache}, global_batch=1)


def test_augmentation_is_a_stage_and_tried_in_the_step(photos: str, tmp_path: pathlib.Path) -> None:
    augment = Augment(policy="randaugment", mixup=0.2)
    settings = dataclasses.asdict(schema.Input(image_size=64))
    subject = Subject(photos, manifest.load(photos), "train", 1, 8, settings, augment)
    built = stages.build(
        subject.reader(subject.part, "none"),
        subject.way,
        shards=2,
        examples=24,
        cache="none",
        options=tf.data.Options(),
    )
    assert [stage.name for stage in built][-3:] == [stages.AUGMENT, stages.BATCH, stages.MIX]
    trials = list(alternatives.trials(subject, subject.part, cache="none", available_bytes=0, folder=str(tmp_path)))
    assert [trial.alternative.setting for trial in trials] == [
        "--config.augment.where=step", "--shorter_side=96", "--config.input.image_size=32"
    ]  # fmt: skip
    assert trials[0].way.augment.in_step
    assert not trials[1].way.augment.in_step


def test_what_is_stored_smaller_is_what_preparation_would_store(photos: str, tmp_path: pathlib.Path) -> None:
    found = manifest.load(photos)
    files = [storage.join(photos, shard.file) for shard in found.split("train").shards]
    path = tmp_path / "smaller.tfrecord"
    assert alternatives.store_smaller(files, str(path), found, 96) == 24
    with path.open("rb") as stream:
        stored = [records.features(serialized) for serialized in records.read_framed(stream)]
    assert {Image.open(io.BytesIO(one["image"][0])).size for one in stored} == {(128, 96)}  # type: ignore[arg-type]
    assert [one["label"] for one in stored] == [[index % 2] for index in range(12)] * 2
    assert alternatives.store_smaller(files, str(path), found, 240) == 0  # nothing would change


def made(**changed: Any) -> Findings:
    stage_costs = tuple(table())
    values: dict[str, Any] = {
        "name": "photos", "version": "1.0.0", "split": "train", "examples": 4000, "shards": 8,
        "image_bytes": 51_200.0, "pixels": 76_800.0, "image_size": 224, "global_batch": 32, "sample": 512,
        "cache_asked": "none", "cache": "none", "cache_reason": "as configured",
        "shuffle": Shuffle(1000, 51_200_000, whole=False),
        "first_epoch": stage_costs, "later_epochs": stage_costs,
        "end_to_end": EndToEnd(1.25, 3000.0, 3.8, 0.1), "alternatives": (CACHE,),
        "bottleneck": costs.Bottleneck("decode", 0.6), "storage_images_per_s": None, "cores": 4.0, "asked_cores": 16,
        "accelerator_rate": None, "advice": advice.Advice("cache=decoded", "It fits.", 0.8, 12_500.0),
    }  # fmt: skip
    return Findings(**{**values, **changed})


def flat(text: str) -> str:
    return " ".join(text.split())


def test_the_page_says_what_follows_from_the_numbers() -> None:
    text = flat(wording.as_text(made()))
    assert "Measured on 512 of them, with 4 cores. cache=none was asked for." in text
    assert "decode 0.600 0.700 100 <- bottleneck" in text
    assert "training.batches itself 1.250 3,000" in text
    assert "cache=decoded 0.800 -20%" in text
    assert "The bottleneck is 'decode': 60% of an image's CPU time." in text
    assert "4 free cores make 4,000 images/s; training.batches itself, which also shuffles, made 3,000" in text
    assert "took 25% more CPU than the stages together" in text
    # 16 cores at 1.25 CPU-s per 1,000 would make 12,800, but one thread at 0.1 makes 10,000.
    assert "A host of 16 cores feeds 10,000 images/s at 800 images/s for each core" in text
    assert "More than 10,000 no number of cores gives" in text
    assert (
        "Change one thing: cache=decoded. Expect 0.800 instead of 1.000 CPU-s per 1,000 images from the stages, and "
        "12,500 instead of 10,000 images/s from 16 cores." in text
    )
    assert "The shuffle mixes 1,000 of 4,000 images at a time, which takes 48.8 MiB of memory" in text


def test_a_setting_of_several_flags_keeps_the_table_in_its_columns() -> None:
    tried = dataclasses.replace(CACHE, setting="--config.input.cache=encoded --config.input.cache_dir=None")
    row, following, _ = wording.as_text(made(alternatives=(tried,))).split("With another setting")[1].splitlines()[1:4]
    assert re.fullmatch(r"  --config.input.cache=encoded +0\.800 +-20%", row)
    assert following == "    --config.input.cache_dir=None"


def test_the_page_says_when_the_machine_was_busy_or_waited() -> None:
    busy = made(end_to_end=EndToEnd(1.25, 1500.0, 2.0, 1.9))
    assert "had 2.0 of the 4 cores on average, as other processes took 1.9." in flat(wording.as_text(busy))
    waited = made(end_to_end=EndToEnd(1.25, 1500.0, 2.0, 0.0))
    assert "it waited the rest of the time" in flat(wording.as_text(waited))
    slow = made(bottleneck=costs.Bottleneck("storage", 1.0), storage_images_per_s=1024.0)
    assert "it gave 1,024 images/s (50.0 MiB/s) at the first reading" in flat(wording.as_text(slow))


def test_labels_are_described() -> None:
    classes = ("cat", "dog", "bee")
    assert sheet.describe(np.int64(1), classes) == "dog"  # type: ignore[arg-type]
    assert sheet.describe(np.array([0.25, 0.75, 0.0], np.float32), classes) == "dog 75%, cat 25%"
    assert sheet.describe(np.array([0.0, 0.0, 1.0], np.float32), classes) == "bee"
    assert sheet.describe(np.array([0.996, 0.004, 0.0], np.float32), classes) == "cat 100%"


def test_the_sheet_escapes_names_and_stops_within_a_batch(photos: str, tmp_path: pathlib.Path) -> None:
    labels = np.array([[0.5, 0.5], [0, 1]], np.float32)
    batches = [(np.zeros([2, 8, 8, 3], np.uint8), labels, np.array(places)) for places in ([0, 4], [1, 5], [2, 6])]
    path = tmp_path / "sheet.html"
    sheet.write(str(path), batches, classes=("left", "<right>"), count=3, title="t", settings={"a": {"b": 1}})
    text = path.read_text()
    assert [int(place) for place in re.findall(r"<span>#(\d+)</span>", text)] == [0, 4, 1]
    assert "left 50%, &lt;right&gt; 50%" in text
    assert "<right>" not in text
    assert "a.b=1" in text


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


def test_the_command_measures_and_shows(digits: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "sheet.html"
    result = run(
        f"--data={digits}",
        CONFIG,
        "--config.input.image_size=32",
        "--seconds=0.5",
        "--format=json",
        "--show=40",
        f"--sheet={path}",
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    examples = manifest.load(digits).split("train").examples
    assert (found["name"], found["examples"], found["sample"], found["cache"]) == (
        "digits",
        examples,
        examples,
        "decoded",
    )
    assert [cost["name"] for cost in found["later_epochs"]] == [stages.KEPT, stages.CROP, stages.BATCH]
    assert found["end_to_end"]["cpu_s"] > 0
    assert found["predicted_images_per_s"] == pytest.approx(1000 * found["cores"] / found["later_epochs"][-1]["cpu_s"])

    # The first two batches of 32, as training gets them.
    batches = training.batches(
        digits, manifest.load(digits), split="train", seed=42, global_batch=32, image_size=32, crop_area=(0.8, 1.0),
        flip=False, cache="auto", shuffle_mib=256,
    )  # fmt: skip
    images, labels, _ = (np.concatenate(parts)[:40] for parts in zip(*itertools.islice(batches, 2), strict=True))
    shown = re.findall(r'src="data:image/png;base64,([^"]+)" alt="([^"]+)"', path.read_text())
    assert [label for _, label in shown] == [str(label) for label in labels]
    for (source, _), image in zip(shown, images, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))), image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([CONFIG], "--data must be given"),
        (["--data=x", CONFIG, "--dta=y"], "Did you mean: data ?"),
        (["--data=nowhere", CONFIG], "nowhere holds no finished dataset"),
        (["--data=x", "--config=configs/digits.py"], "configs/digits_mobilenetv2.py?"),
        (["--data=x", CONFIG, "--config.input.imagesize=32"], "input.image_size?"),
        (["--data=x", CONFIG, "--seconds=-1"], "--seconds=-1: expected 0 or more"),
        (["--data=x", CONFIG, "--cores=0"], "--cores=0: expected more than 0"),
        (["--data=x", CONFIG, "--seconds=0"], "--seconds=0 measures nothing"),
        (["--data=x", CONFIG, "--sheet=a.html"], "give both"),
        (["--data=x", CONFIG, "--show=3", "--sheet=a.png"], "ends in .html"),
        (["--data=x", CONFIG, "--show=3", "--seconds=0", "--cores=3"], "--cores is about what is measured"),
        (["DATA", CONFIG, "--split=dev"], "no split 'dev'"),
    ],
)
def test_a_mistake_is_answered_in_one_line(arguments: Sequence[str], message: str, photos: str) -> None:
    result = run(*(f"--data={photos}" if argument == "DATA" else argument for argument in arguments))
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("pipeline: ")
    assert message in line


def test_help_needs_no_tensorflow() -> None:
    script = (
        "import sys; from pipeline.__main__ import main; status = main(['pipeline', '--help']); "
        "assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules); sys.exit(status)"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "--accelerator_rate" in result.stdout
