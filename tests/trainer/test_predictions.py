"""Every example's logits, in stored order and under its own name, on any number of replicas; and their file."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline import decode
from pipeline.errors import InputError
from tests.pipeline import shard_files
from trainer import predictions, strategies
from trainer.predictions import Predictions

FOUND = Predictions(
    classes=("ant", "bée"),
    ids=("0a", "1b"),
    files=("ant/1.jpg", "b\udce9e/2.jpg"),  # the second name is not UTF-8 on disk
    groups=("g", ""),
    labels=np.array([0, 1]),
    logits=np.array([[1.5, -2], [0, 0.25]], np.float32),
)


def test_a_file_gives_back_what_was_written(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "predictions.npz")
    predictions.write(path, FOUND)
    found = predictions.read(path)
    for name in ("classes", "ids", "files", "groups"):
        assert getattr(found, name) == getattr(FOUND, name)
    np.testing.assert_array_equal(found.labels, FOUND.labels)
    np.testing.assert_array_equal(found.logits, FOUND.logits)
    (tmp_path / "predictions.npz").write_bytes((tmp_path / "predictions.npz").read_bytes()[:100])
    with pytest.raises(InputError, match="is damaged"):
        predictions.read(path)
    with pytest.raises(InputError, match="evaluate"):
        predictions.read(str(tmp_path / "none.npz"))


def test_the_temperature_divides_logits() -> None:
    # By hand: exp(1) / (exp(1) + exp(0)) = 0.7310586, and of a temperature of 2, exp(0.5) / (exp(0.5) + 1) = 0.6224593.
    np.testing.assert_allclose(predictions.softmax([1.0, 0.0])[0], 0.7310586, atol=1e-7)
    np.testing.assert_allclose(predictions.softmax([1.0, 0.0], 2.0)[0], 0.6224593, atol=1e-7)
    assert predictions.softmax([[1000.0, 0.0]]).tolist() == [[1, 0]]


@pytest.mark.parametrize("replicas", [1, 2])
def test_logits_stand_beside_the_example_they_are_of(tmp_path: pathlib.Path, replicas: int) -> None:
    """The model says each image's mean, which is computed here from the record itself."""
    written = [shard_files.record(number) for number in range(18)]
    manifest = shard_files.write(tmp_path, {"train": [written[:7], written[7:13]], "validation": [written[13:]]})
    devices = [f"CPU:{index}" for index in range(replicas)]
    strategy = tf.distribute.MirroredStrategy(devices) if replicas > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        images = keras.Input([32, 32, 3], dtype="uint8")
        means = keras.ops.mean(keras.ops.cast(images, "float32"), axis=(1, 2, 3))
        net = keras.Model(images, keras.ops.stack([means] * len(manifest.classes), axis=-1))
    sizes = {"image_size": 32, "crop_fraction": 1.0, "cache_dir": None, "cache_gib": None}
    config = {"global_batch": 4, "input": sizes}
    given = {"split": "train", "config": config, "cluster": strategies.Cluster(strategy, 0, 1), "net": net}
    found = predictions.collect(str(tmp_path), manifest, **given)
    assert found.ids == tuple(record.id for record in written[:13])
    assert found.files == tuple(record.file for record in written[:13])
    assert found.labels.tolist() == [record.label for record in written[:13]]
    crops = [decode.central_crop(decode.decode(record.image), image_size=32, crop_fraction=1.0) for record in written]
    means = [np.mean(crop) for crop in crops[:13]]
    np.testing.assert_allclose(found.logits[:, 0], means, rtol=1e-5)

    # All logits are equal, so that the first class is the answer.
    (right,) = predictions.make(str(tmp_path), manifest, measure=predictions.right, **given)()
    assert right.tolist() == [record.label == 0 for record in written[:13]]
    _, dark = predictions.make(str(tmp_path), manifest, corrupt=lambda images: 255 - images, **given)()
    np.testing.assert_allclose(dark[:, 0], 255 - np.array(means), rtol=1e-5)


def test_several_workers_parts_follow_each_other() -> None:
    """Two workers with two batches of two each, the last example of both being padding."""
    first = (np.array([1, 1, 1, 1]), np.array([0, 1, 10, 11]), np.array([[0.0], [1], [10], [11]]))
    second = (np.array([1, 0, 1, 0]), np.array([2, 0, 12, 0]), np.array([[2.0], [99], [12], [99]]))
    labels, logits = predictions._in_stored_order([first, second], num_workers=2)
    assert labels.tolist() == [0, 1, 2, 10, 11, 12] == logits[:, 0].tolist()
