"""Photos in, endless float32 batches [32, 224, 224, 3] out after RandAugment (2 operations, magnitude 9).

Photos lie decoded in memory, so that the augmentation is nearly all that costs.
"""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf

from tests.bench.input_data import Photos, squares
from tests.bench.input_window import BATCH

_OPS, _MAGNITUDE = 2, 9
_SEED = 42


def ours(photos: Photos, workers: int) -> Iterator[tf.Tensor]:
    from pipeline.augmentations import policies

    def augment(place: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        return policies.rand_augment(image, tf.stack([_SEED, place]), num_ops=_OPS, magnitude=_MAGNITUDE)

    augmented = _images(photos).enumerate().map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    return _floats(augmented.batch(BATCH, drop_remainder=True))


def nothing(photos: Photos, workers: int) -> Iterator[tf.Tensor]:
    """What tf.data itself costs here: the same without any augmentation."""
    return _floats(_images(photos).batch(BATCH, drop_remainder=True))


def keras_cv(photos: Photos, workers: int) -> Iterator[tf.Tensor]:
    import keras_cv as keras_cv_lib

    layer = keras_cv_lib.layers.RandAugment(
        value_range=(0, 255), augmentations_per_image=_OPS, magnitude=_MAGNITUDE / 10, rate=1.0
    )
    return _layer(photos, layer)


def keras_layers(photos: Photos, workers: int) -> Iterator[tf.Tensor]:
    import keras

    return _layer(photos, keras.layers.RandAugment(value_range=(0, 255), num_ops=_OPS, factor=_MAGNITUDE / 10))


def _layer(photos: Photos, layer: object) -> Iterator[tf.Tensor]:
    batches = _images(photos).batch(BATCH, drop_remainder=True)
    return _floats(batches.map(lambda images: layer(images, training=True), num_parallel_calls=tf.data.AUTOTUNE))  # type: ignore[operator]


def _images(photos: Photos) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(squares(photos)).repeat()


def _floats(batches: tf.data.Dataset) -> Iterator[tf.Tensor]:
    floats = batches.map(lambda images: tf.cast(images, tf.float32))
    return iter(floats.prefetch(tf.data.AUTOTUNE))
