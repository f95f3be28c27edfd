"""Features of a frozen backbone: the examples, views and gradients that training on the images would have."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from pipeline import decode, records, training
from pipeline import manifest as manifest_lib
from pipeline.errors import InputError
from trainer import features, learner, loss, optimizer, preemption, step, strategies

SIZE = 32
BATCH = 4  # so that each of its streams has two of the eight shards
LOSS = functools.partial(loss.cross_entropy, label_smoothing=0.1, class_weights=None)


def _settings(**of_input: Any) -> dict[str, Any]:
    config = schema.Config(
        seed=5,
        global_batch=BATCH,
        # Digits are square: the one box of this area is the whole picture, as at evaluation.
        input=schema.Input(image_size=SIZE, crop_area=(1.0, 1.0), crop_fraction=1.0, **of_input),
        model=schema.Model(width=0.35, dropout=0.0),
        optimizer=schema.Optimizer(name="sgd", peak_lr=0.1),
    )
    return dataclasses.asdict(config)


def _net() -> keras.Model:
    """A frozen backbone that is quick, and tells a picture from its mirror image."""
    keras.utils.set_random_seed(1)
    inside = keras.Input([SIZE, SIZE, 3])
    backbone = keras.Model(inside, keras.layers.Conv2D(4, 5, strides=3, activation="relu")(inside), name="backbone")
    backbone.trainable = False
    images = keras.Input([SIZE, SIZE, 3], dtype="uint8")
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(backbone(keras.layers.Rescaling(1 / 255)(images)))
    hidden = keras.layers.Dense(6, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01))(pooled)
    dropped = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(hidden))
    return keras.Model(images, keras.layers.Dense(10, name="head")(dropped))


class _Worker(strategies.Cluster):
    """One process that stands in for any worker: what it reads and computes takes no other."""

    local_replicas = 1


def _cluster(worker: int = 0, num_workers: int = 1) -> strategies.Cluster:
    return _Worker(tf.distribute.OneDeviceStrategy("/cpu:0"), worker, num_workers)


def _stored(data: str) -> dict[bytes, tuple[np.ndarray, int]]:
    """(evaluation's picture, label) of every training example by its id, read from the shards themselves."""
    manifest = manifest_lib.load(data)
    files = [f"{data}/{shard.file}" for shard in manifest.split("train").shards]
    found = {}
    for serialized in tf.data.TFRecordDataset(files):
        example = records.parse(serialized)
        picture = decode.central_crop(decode.decode(example["image"]), image_size=SIZE, crop_fraction=1.0)
        found[example["id"].numpy()] = picture.numpy(), int(example["label"])
    return found


@pytest.mark.parametrize(("worker", "num_workers"), [(0, 1), (1, 2)])
@pytest.mark.parametrize("start_step", [0, 55])
def test_batches_are_those_of_training_as_evaluation_sees_them(
    digits: str, worker: int, num_workers: int, start_step: int
) -> None:
    """190 examples are 47 steps of 4: the later start is in the second epoch."""
    manifest, settings, net = manifest_lib.load(digits), _settings(flip=True), _net()
    backbone = keras.Model(net.input, net.get_layer("pool").output)
    stored = _stored(digits)
    cached = features.compute(net, digits, manifest, settings, _cluster(worker, num_workers))
    ids = training.sample_ids(
        digits,
        manifest,
        split="train",
        seed=5,
        global_batch=BATCH,
        shuffle_mib=settings["input"]["shuffle_mib"],
        start_step=start_step,
        worker=worker,
        num_workers=num_workers,
    )
    mirrored: list[bool] = []
    for names, (values, labels, _) in itertools.islice(zip(ids, cached.batches(start_step), strict=False), 24):
        pictures, expected_labels = zip(*(stored[name] for name in names.numpy()), strict=True)
        np.testing.assert_array_equal(labels, expected_labels)
        as_stored = backbone(np.stack(pictures)).numpy()
        turned = backbone(np.stack(pictures)[:, :, ::-1]).numpy()
        for value, one, other in zip(values.numpy(), as_stored, turned, strict=True):
            mirrored.append(bool(np.allclose(value, other, rtol=1e-5)))
            np.testing.assert_allclose(value, other if mirrored[-1] else one, rtol=1e-5)
    assert 0.3 < np.mean(mirrored) < 0.7


def test_every_example_shows_both_views_in_two_epochs(digits: str) -> None:
    manifest, settings = manifest_lib.load(digits), _settings(flip=True)
    cached = features.compute(_net(), digits, manifest, settings, _cluster())
    examples = manifest.split("train").examples
    assert {stream.examples for stream in cached.plan.streams} != {1}
    seen: set[bytes] = set()
    # Streams differ by a few examples, so the last of them end their second epoch a few steps later.
    for values, _, _ in itertools.islice(cached.batches(0), 2 * examples // BATCH + 4):
        seen |= {value.tobytes() for value in values.numpy()}
    assert seen == {view.tobytes() for example in cached.values for view in example}


def test_computed_again_and_begun_later_the_batches_are_the_same_to_the_bit(digits: str) -> None:
    manifest, settings = manifest_lib.load(digits), _settings(flip=True)
    first, again = (features.compute(_net(), digits, manifest, settings, _cluster()) for _ in range(2))
    whole = list(itertools.islice(first.batches(0), 20))
    for expected, found in zip(whole[13:], again.batches(13), strict=False):
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, other)


def test_places_are_those_of_training(digits: str) -> None:
    manifest, settings = manifest_lib.load(digits), _settings(flip=False)
    cluster = _cluster(1, 2)
    cached = features.compute(_net(), digits, manifest, settings, cluster)
    from_images = learner.batches(digits, manifest, settings, cluster, start_step=11)
    for (_, labels, places), (_, found_labels, found_places) in itertools.islice(
        zip(from_images, cached.batches(11), strict=False), 3
    ):
        np.testing.assert_array_equal(found_places, places)
        np.testing.assert_array_equal(found_labels, labels)
    from_images.close()


def test_without_a_random_crop_the_head_learns_what_it_does_from_images(digits: str) -> None:
    """The real step, the same examples without crop and mirroring, dropout drawing alike: losses and weights agree."""
    manifest, settings = manifest_lib.load(digits), _settings(flip=False)
    cluster = _cluster()
    results = []
    for cached in (False, True):
        net = _net()
        sgd = optimizer.build(net, name="sgd", momentum=0.9, weight_decay=0.0, layer_decay=None, precision="float32")
        if cached:
            computed = features.compute(net, digits, manifest, settings, cluster)
            model, batches = features.head(net), computed.batches(2)
        else:
            images = learner.batches(digits, manifest, settings, cluster, start_step=2)
            model, batches = net, iter(images)
        train_step = step.make_train_step(cluster.strategy, model, sgd, LOSS, global_batch=BATCH)
        losses = [float(train_step([batch], tf.constant([0.1]))[0]) for batch in itertools.islice(batches, 4)]
        results.append((losses, [variable.numpy() for variable in net.trainable_variables]))
        if not cached:
            images.close()
    (expected_losses, expected), (losses, found) = results
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)


def test_the_head_is_what_follows_the_pool_with_the_same_variables() -> None:
    net = _net()
    pictures = np.random.default_rng(0).integers(0, 256, [3, SIZE, SIZE, 3], dtype=np.uint8)
    pooled = keras.Model(net.input, net.get_layer("pool").output)(pictures)
    behind = features.head(net)
    np.testing.assert_allclose(behind(pooled), net(pictures), rtol=1e-5)
    assert {id(variable) for variable in behind.trainable_variables} == {
        id(variable) for variable in net.trainable_variables
    }
    kernel = net.layers[4].kernel.numpy()
    assert [float(loss) for loss in behind.losses] == pytest.approx([0.01 * (kernel**2).sum()])


def test_two_replicas_compute_what_one_does(digits: str) -> None:
    manifest, settings = manifest_lib.load(digits), _settings(flip=True)
    expected = features.compute(_net(), digits, manifest, settings, _cluster())
    mirrored = strategies.Cluster(tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]), 0, 1)
    with mirrored.strategy.scope():
        net = _net()
    found = features.compute(net, digits, manifest, settings, mirrored)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-5)
    np.testing.assert_array_equal(found.labels, expected.labels)


def test_features_are_kept_in_the_type_that_the_head_is_given(digits: str) -> None:
    manifest, settings = manifest_lib.load(digits), _settings(flip=False)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        net = _net()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    cached = features.compute(net, digits, manifest, settings, _cluster())
    assert cached.values.dtype == tf.bfloat16.as_numpy_dtype
    assert next(cached.batches(0))[0].dtype == features.head(net).inputs[0].dtype == tf.bfloat16


def test_more_features_than_memory_holds_are_refused_with_their_size(digits: str) -> None:
    manifest = manifest_lib.load(digits)
    inside = keras.Input([SIZE, SIZE, 3], dtype="uint8")
    backbone = keras.Model(inside, keras.layers.Lambda(lambda x: tf.cast(x, tf.float32))(inside), name="backbone")
    wide = 10**11
    pool = keras.layers.Lambda(lambda x: tf.tile(tf.reduce_mean(x, [1, 2])[:, :1], [1, wide]), name="pool")
    net = keras.Model(inside, keras.layers.Identity()(pool(backbone(inside))))
    size_mib = manifest.split("train").examples * 2 * wide * 4 / 2**20
    with pytest.raises(InputError, match=rf"190 images take {size_mib:,.0f} MiB.*input\.flip=False") as caught:
        features.compute(net, digits, manifest, _settings(flip=True), _cluster())
    assert "\n" not in str(caught.value)


def test_it_shows_signs_of_life_and_can_be_left(digits: str) -> None:
    manifest, beats = manifest_lib.load(digits), []
    batches = -(-manifest.split("train").examples // BATCH)
    features.compute(_net(), digits, manifest, _settings(), _cluster(), beat=lambda: beats.append(1))
    assert len(beats) == batches
    with pytest.raises(preemption.Interrupted):
        features.compute(
            _net(),
            digits,
            manifest,
            _settings(),
            _cluster(),
            beat=lambda: beats.append(1),
            asked_to_end=lambda: len(beats) == batches + 3,
        )
    assert len(beats) == batches + 3


def test_a_backbone_that_trains_is_refused(digits: str) -> None:
    net = _net()
    net.get_layer("backbone").trainable = True
    with pytest.raises(ValueError, match="backbone trains"):
        features.compute(net, digits, manifest_lib.load(digits), _settings(), _cluster())
