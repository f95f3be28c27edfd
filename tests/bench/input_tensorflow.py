"""Photos in, endless float32 batches [32, 224, 224, 3] of random crops out: the pipelines that run on TensorFlow.

All but ours are written the way people write them; all crop with Inception's boxes and mirror half of the crops.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import tensorflow as tf

from tests.bench.input_data import Photos
from tests.bench.input_window import BATCH, SIDE

if TYPE_CHECKING:
    from pipeline.batches import Batches

_AREA, _ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
_SHUFFLED = 1000
_SEED = 42


def ours(photos: Photos, workers: int) -> Iterator[tf.Tensor]:
    return _floats(our_batches(photos, "none", BATCH))


def ours_decoded(photos: Photos, workers: int) -> Iterator[tf.Tensor]:
    return _floats(our_batches(photos, "decoded", BATCH))


def our_batches(photos: Photos, cache: str, batch: int) -> Batches:
    """The one call of what is measured here: (uint8 images, labels, places) without end."""
    from pipeline import manifest, training

    directory = str(photos.records)
    return training.batches(
        directory,
        manifest.load(directory),
        split="train",
        seed=_SEED,
        global_batch=batch,
        image_size=SIDE,
        crop_area=_AREA,
        flip=True,
        cache=cache,
        shuffle_mib=64,  # all of trashnet, nearly what the others shuffle
    )


def _floats(batches: Batches) -> Iterator[tf.Tensor]:
    # In the graph, as the model's first layer would: ours are uint8 up to there.
    yield from batches.dataset.map(lambda images, *_: tf.cast(images, tf.float32)).prefetch(1)


def plain(photos: Photos, workers: int) -> Iterator[tf.Tensor]:
    examples = _examples(photos).shuffle(_SHUFFLED).repeat()
    return _batched(examples.map(lambda one: _crop(_decode(one)), num_parallel_calls=tf.data.AUTOTUNE))


def plain_decoded(photos: Photos, workers: int) -> Iterator[tf.Tensor]:
    decoded = _examples(photos).map(_decode, num_parallel_calls=tf.data.AUTOTUNE).cache()
    return _batched(decoded.shuffle(_SHUFFLED).repeat().map(_crop, num_parallel_calls=tf.data.AUTOTUNE))


def tfds(photos: Photos, workers: int) -> Iterator[tf.Tensor]:
    import tensorflow_datasets as tfds_lib

    builder = tfds_lib.builder_from_directory(str(photos.records))
    examples = builder.as_dataset(split="train", shuffle_files=True).shuffle(_SHUFFLED).repeat()
    return _batched(examples.map(lambda one: _crop(one["image"]), num_parallel_calls=tf.data.AUTOTUNE))


def keras_directory(photos: Photos, workers: int) -> Iterator[tf.Tensor]:
    """It scales every photo to one size; the photos' own keeps as much detail for the crops as the others have."""
    import keras

    size = (photos.height, photos.width)
    images = keras.utils.image_dataset_from_directory(photos.folder, image_size=size, batch_size=None, verbose=False)
    return _batched(images.repeat().map(lambda image, _: _crop(image), num_parallel_calls=tf.data.AUTOTUNE))


def _examples(photos: Photos) -> tf.data.Dataset:
    files = tf.data.Dataset.list_files(f"{photos.records}/*.tfrecord-*", shuffle=True)
    return files.interleave(tf.data.TFRecordDataset, num_parallel_calls=tf.data.AUTOTUNE)


def _decode(serialized: tf.Tensor) -> tf.Tensor:
    features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
    return tf.io.decode_jpeg(tf.io.parse_single_example(serialized, features)["image"], channels=3)


def _crop(image: tf.Tensor) -> tf.Tensor:
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        tf.shape(image),
        bounding_boxes=tf.zeros([1, 0, 4]),
        min_object_covered=0.0,
        aspect_ratio_range=_ASPECT,
        area_range=_AREA,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    crop = tf.image.resize(tf.slice(image, begin, size), [SIDE, SIDE])
    return tf.ensure_shape(tf.image.random_flip_left_right(crop), [SIDE, SIDE, 3])


def _batched(images: tf.data.Dataset) -> Iterator[tf.Tensor]:
    return iter(images.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE))
