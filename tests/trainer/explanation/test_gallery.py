"""The pictures of a report: of the right examples, from the right shards, about the right classes."""

from __future__ import annotations

import dataclasses
import io
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from configs import schema
from pipeline import decode
from pipeline import manifest as manifest_lib
from pipeline.errors import InputError
from tests.pipeline import shard_files
from trainer import run as run_lib
from trainer.classifier import Classifier
from trainer.explanation import gallery
from trainer.explanation.grad_cam import grad_cam
from trainer.explanation.overlay import overlay
from trainer.predictions import Predictions

SIZE = 32
RECORDS = [shard_files.record(number) for number in range(12)]  # of classes 0, 1, 2, 0, …
# In stored order: 2 is taken for class 1 and surely so, 7 for class 0; the others are right.
ANSWERS = [0, 1, 1, 0, 1, 2, 0, 0, 2, 0, 1, 2]


@pytest.fixture(scope="module")
def net() -> keras.Model:
    keras.utils.set_random_seed(4)
    images = keras.Input([SIZE, SIZE, 3], dtype="uint8")
    features = keras.layers.Conv2D(8, 4, strides=4, activation="relu")(keras.layers.Rescaling(1 / 255)(images))
    return keras.Model(images, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(features)))


def _write(root: pathlib.Path) -> manifest_lib.Manifest:
    return shard_files.write(root, {"test": [RECORDS[:4], RECORDS[4:8], RECORDS[8:]]})


def _classifier(root: pathlib.Path, manifest: manifest_lib.Manifest, net: keras.Model) -> Classifier:
    config = schema.Config(input=schema.Input(image_size=SIZE, crop_fraction=0.875))
    run = run_lib.describe(str(root), manifest, dataclasses.asdict(config))
    return Classifier(run, net, step=1, fingerprint="", temperature=2.0)


def _found() -> Predictions:
    """Confidence falls with the position: logits 4, 3.9, 3.8, … for the answer."""
    logits = np.zeros([12, 3], np.float32)
    logits[np.arange(12), ANSWERS] = 4 - 0.1 * np.arange(12)
    return Predictions(
        shard_files.CLASSES,
        ids=tuple(record.id for record in RECORDS),
        files=tuple(record.file for record in RECORDS),
        groups=("",) * 12,
        labels=np.array([record.label for record in RECORDS]),
        logits=logits,
    )


def _pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format == "JPEG"
        return np.asarray(opened, np.float64)


def test_examples_come_with_what_speaks_for_each_class(tmp_path: pathlib.Path, net: keras.Model) -> None:
    manifest = _write(tmp_path)
    built = gallery.build(_classifier(tmp_path, manifest, net), str(tmp_path), manifest, split="test", found=_found())
    assert [example.file for example in built.wrong] == [RECORDS[2].file, RECORDS[7].file]
    assert built.confused == ()
    assert len(built.correct) == 10
    example = built.wrong[0]
    assert (example.truth, example.predicted) == ("cat", "bee")
    # By hand: exp(3.8 / 2) = 6.6859; beside two classes of exp(0) that is 6.6859 / 8.6859, and 1 / 8.6859.
    assert example.confidence == pytest.approx(0.76974, abs=1e-5)
    assert example.truth_confidence == pytest.approx(0.11513, abs=1e-5)
    image = decode.central_crop_encoded(tf.constant(RECORDS[2].image), image_size=SIZE, crop_fraction=0.875).numpy()
    predicted, truth = (overlay(image, grad_cam(net, image[np.newaxis], [label])[0].numpy()) for label in (1, 2))
    for data, expected in ((example.image, image), (example.heatmap, predicted), (example.truth_heatmap, truth)):
        assert data is not None
        assert np.abs(_pixels(data) - expected).mean() < 12  # what JPEG costs
    assert np.abs(predicted.astype(float) - truth).mean() > 20  # so that one is not taken for the other
    assert all(example.truth_heatmap is None for example in built.correct)


def test_only_the_shards_of_chosen_examples_are_read(tmp_path: pathlib.Path, net: keras.Model) -> None:
    manifest = _write(tmp_path)
    (tmp_path / manifest.splits["test"].shards[1].file).unlink()
    classifier = _classifier(tmp_path, manifest, net)
    built = gallery.build(classifier, str(tmp_path), manifest, split="test", found=_found(), limit=1)
    assert [example.file for example in (*built.correct, *built.wrong)] == [RECORDS[0].file, RECORDS[2].file]
    with pytest.raises(InputError, match="00001-of-00003 is missing"):
        gallery.build(classifier, str(tmp_path), manifest, split="test", found=_found(), limit=2)


def test_predictions_of_other_examples_are_refused(tmp_path: pathlib.Path, net: keras.Model) -> None:
    manifest = _write(tmp_path)
    classifier, found = _classifier(tmp_path, manifest, net), _found()
    swapped = dataclasses.replace(found, ids=found.ids[::-1], files=found.files[::-1])
    with pytest.raises(InputError, match="stands in its place"):
        gallery.build(classifier, str(tmp_path), manifest, split="test", found=swapped)
    names = {name: getattr(found, name)[:5] for name in ("ids", "files", "groups", "labels", "logits")}
    with pytest.raises(InputError, match="of 5 examples, but split 'test' has 12"):
        gallery.build(classifier, str(tmp_path), manifest, split="test", found=Predictions(found.classes, **names))


def test_a_split_that_nothing_is_known_of_gives_empty_groups(tmp_path: pathlib.Path, net: keras.Model) -> None:
    """As after a training that diverged."""
    manifest = _write(tmp_path)
    found = dataclasses.replace(_found(), logits=np.full([12, 3], np.nan, np.float32))
    built = gallery.build(_classifier(tmp_path, manifest, net), str(tmp_path), manifest, split="test", found=found)
    assert built == gallery.Gallery((), (), ())
