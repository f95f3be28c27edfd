"""What is predicted is what was evaluated, in order, around what can't be read, and with little held in memory."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import os
import pathlib
import re
import threading
import time
from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline import images, storage
from pipeline import manifest as manifest_lib
from tests.pipeline import shard_files
from tests.trainer.export import tiny
from trainer import checkpoint_files, classifier, predict, predictions, strategies
from trainer import model as model_lib
from trainer import run as run_lib
from trainer.commands import predict as command
from trainer.image_sources import Source
from trainer.prediction_output import Prediction

SETTINGS = {
    "backbone": "mobilenetv2",
    "width": 0.35,
    "weights": "none",
    "head": "linear",
    "dropout": None,
    "drop_path": None,
    "batch_norm_momentum": 0.0,  # one batch is enough
    "sync_batch_norm": False,
}
PHOTOS = tiny.photos(11)
TEMPERATURE = 1.7


@pytest.fixture(scope="module")
def model() -> classifier.Classifier:
    return tiny.classifier()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of a real backbone that has learnt nothing, with a temperature."""
    root = tmp_path_factory.mktemp("run")
    described = shard_files.write(root / "data", {"test": [PHOTOS[:6], PHOTOS[6:]]})
    described = dataclasses.replace(described, settings={"storing": tiny.STORING})
    sizes = {"image_size": 32, "crop_fraction": 0.875, "cache_dir": None, "cache_gib": None}
    config = {"input": sizes, "model": SETTINGS, "precision": "float32", "global_batch": 4}
    run = run_lib.describe(str(root / "data"), described, config)
    run_lib.write(str(root), run)
    keras.utils.set_random_seed(0)
    net = model_lib.build(num_classes=3, image_size=32, **SETTINGS)
    pixels = [classifier.prepare(p.image, storing=images.Storing(), image_size=32, crop_fraction=1.0) for p in PHOTOS]
    net(tf.stack(pixels), training=True)  # else what random weights make of images vanishes on the way
    about = {**run.about(), "state": {"step": 5}, "best": True, "content": ["model"]}
    checkpoint_files.publish(str(root), checkpoint_files.Name(5, 1), tf.train.Checkpoint(model=net).write, about)
    fitted = {"temperature": TEMPERATURE, "step": 5, "fingerprint": run.fingerprint}
    storage.write_json(str(root / classifier.CALIBRATION_FILE), fitted)
    return str(root)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    for number, photo in enumerate(PHOTOS):
        (tmp_path / f"{number:02d}.jpg").write_bytes(photo.image)
    return tmp_path


def _sources(count: int = len(PHOTOS)) -> list[Source]:
    return [Source(str(number), photo.image) for number, photo in enumerate(PHOTOS[:count])]


def _probabilities(found: list[Prediction], classes: tuple[str, ...]) -> np.ndarray:
    return np.array([[dict(one.classes)[name] for name in classes] for one in found])


def test_what_is_predicted_is_what_is_evaluated(workdir: str) -> None:
    """The records' bytes as files, with the temperature that was fitted; whatever the batch."""
    loaded = classifier.load(workdir)
    assert loaded.temperature == TEMPERATURE
    evaluated = predictions.collect(
        loaded.run.data,
        manifest_lib.load(loaded.run.data),
        split="test",
        config=loaded.run.config,
        cluster=strategies.Cluster(tf.distribute.get_strategy(), 0, 1),
        net=loaded.net,
    )
    expected = evaluated.probabilities(TEMPERATURE)
    assert expected.std(axis=0).min() > 0.01
    for batch in (3, 32):
        found = list(predict.predict(loaded, [Source(p.file, p.image) for p in PHOTOS], top=3, batch=batch))
        assert [one.file for one in found] == list(evaluated.files)
        np.testing.assert_allclose(_probabilities(found, loaded.run.classes), expected, rtol=0, atol=1e-6)


def test_the_likeliest_come_first_and_as_many_as_asked_for(model: classifier.Classifier) -> None:
    pixels = tf.stack([model.prepare(photo.image) for photo in PHOTOS])
    expected = model.probabilities(pixels)
    for top in (1, 2, 9):
        found = list(predict.predict(model, _sources(), top=top, batch=5))
        for one, row in zip(found, expected, strict=True):
            best = sorted(zip(-row, tiny.CLASSES, strict=True))[:top]
            assert [name for name, _ in one.classes] == [name for _, name in best]
            np.testing.assert_allclose([share for _, share in one.classes], [-share for share, _ in best], atol=1e-6)


def test_what_cannot_be_read_is_named_while_the_rest_goes_on(
    model: classifier.Classifier, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "cut.jpg").write_bytes(PHOTOS[1].image[:-20])
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    bad = {
        "empty.jpg": "empty_file", "text.jpg": "not_an_image", "cut.jpg": "cannot_decode", "folder": "unreadable",
        "pipe": "unreadable: .*not a regular", "none.jpg": "unreadable: .*No such file", "zero\0.jpg": "unreadable",
        "what://x/a.jpg": "unreadable: .*Protocol not known: what; use a local path or gs://",
    }  # fmt: skip
    sources = [Source(name if "://" in name else str(tmp_path / name)) for name in bad]
    mixed = [*itertools.chain.from_iterable(zip(sources, _sources(len(bad)), strict=True)), Source("x", error="why")]
    for batch in (2, 32):
        found = list(predict.predict(model, mixed, top=1, batch=batch))
        assert [one.file for one in found] == [source.name for source in mixed]
        for one, reason in zip(found[:-1:2], bad.values(), strict=True):
            assert re.match(reason, one.error), one
            assert one.classes == ()
        assert all(one.error is None and one.classes for one in found[1:-1:2])
        assert found[-1] == Prediction("x", (), "why")
    assert all(one.error for one in predict.predict(model, sources, top=1, batch=3))


def test_no_more_is_begun_than_a_few_batches(model: classifier.Classifier) -> None:
    begun = 0

    def endless() -> Iterator[Source]:
        nonlocal begun
        for number in itertools.count():
            begun += 1
            yield Source(str(number), PHOTOS[number % len(PHOTOS)].image)

    found = predict.predict(model, endless(), top=1, batch=4)
    names = [one.file for one in itertools.islice(found, 20)]
    assert names == [str(number) for number in range(20)]
    assert begun <= 20 + 3 * 4
    found.close()


def test_the_next_images_are_read_while_the_model_computes(model: classifier.Classifier) -> None:
    """The model waits, within its first batch, for what only reading ahead would bring."""
    third_batch_read = threading.Event()

    class Slow(keras.Model):  # type: ignore[misc]
        def call(self, pixels: tf.Tensor, training: bool = False) -> tf.Tensor:
            def wait(values: np.ndarray) -> np.ndarray:
                assert third_batch_read.wait(30)
                return np.zeros([len(values), 3], np.float32)

            return tf.ensure_shape(tf.numpy_function(wait, [pixels], tf.float32), [None, 3])

    @dataclasses.dataclass(frozen=True)
    class Watched(classifier.Classifier):
        def prepare(self, source: bytes) -> tf.Tensor:
            if source.endswith(b"last"):
                third_batch_read.set()
            return super().prepare(source)

    slow = Watched(model.run, Slow(), model.step, model.fingerprint, 1.0)
    sources = _sources(6)
    sources[5] = Source("5", PHOTOS[5].image + b"last")
    assert len(list(predict.predict(slow, sources, top=1, batch=2))) == 6


def test_failures_of_a_bucket_end_it(model: classifier.Classifier) -> None:
    def unreachable() -> Iterator[Source]:
        yield _sources()[0]
        raise ConnectionError("gs://bucket can't be reached")

    with pytest.raises(ConnectionError, match="can't be reached"):
        list(predict.predict(model, unreachable(), top=1, batch=1))


def _run(capfdbinary: pytest.CaptureFixture[bytes], *arguments: str) -> tuple[int, bytes]:
    status = command.run(["predict", *arguments])
    return status, capfdbinary.readouterr().out


def test_the_command_says_the_same_in_every_way(
    workdir: str, folder: pathlib.Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = os.fsencode(folder) + b"/\xff\n,.jpg"
    with open(odd, "wb") as file:
        file.write(PHOTOS[0].image)
    (folder / "05.jpg").write_bytes(b"broken")
    flags = [f"--workdir={workdir}", "--top=2", "--batch=4"]
    target = folder / "out" / "found.jsonl"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(PHOTOS[2].image)))
    status, out = _run(capfdbinary, *flags, "--format=jsonl", f"--out={target}", "-", f"{folder}/0?.jpg", str(folder))
    assert (status, out.decode()) == (1, f"23 images, 2 of them not readable; {target}\n")
    piped, *rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert piped["file"] == "-"
    assert [one["class"] for one in piped["top"]] == [one["class"] for one in rows[2]["top"]]
    shares = [[one["confidence"] for one in row["top"]] for row in (piped, rows[2], rows[0], rows[-1])]
    np.testing.assert_allclose(shares[::2], shares[1::2], rtol=0, atol=1e-6)
    names = [os.fsencode(row["file"]) for row in rows]
    assert names == [os.fsencode(folder) + b"/%02d.jpg" % number for number in [*range(10), *range(11)]] + [odd]
    assert [number for number, row in enumerate(rows) if "not_an_image" in row.get("error", "")] == [5, 15]

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{folder}/02.jpg\n{folder}/none.jpg\n".encode())))
    status, out = _run(capfdbinary, *flags, "--format=csv", f"{folder}/*,.jpg", "-")
    lines = out.replace(odd, b"odd").decode().splitlines()
    first = rows[0]["top"][0]
    assert lines[1].startswith(f'"odd","","{first["class"]}",{first["confidence"]:.4f}'[:-1])
    assert lines[2].startswith(f'"{folder}/02.jpg","","')
    assert lines[3].startswith(f'"{folder}/none.jpg","unreadable: ')
    assert status == 1


def test_a_reader_that_leaves_ends_it_quietly(
    workdir: str, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    with open(writing, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        os.close(reading)
        started = time.monotonic()
        assert command.run(["predict", f"--workdir={workdir}", "--batch=1", str(folder)]) == 141
    assert time.monotonic() - started < 60
    assert capsys.readouterr().err == ""
