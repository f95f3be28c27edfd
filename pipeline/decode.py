"""One stored image in, one uint8 image of the model's size out: a random crop to train on, or the centre to judge."""

from __future__ import annotations

import tensorflow as tf

# The aspect ratios of Inception's crop, which every ImageNet recipe since has kept: https://arxiv.org/abs/1409.4842
CROP_ASPECT = (3 / 4, 4 / 3)
_LONGEST_ASPECT = 8  # beyond any panorama; what is longer loses its ends before it is resized
_CROP_ATTEMPTS = 10  # as in torchvision and TF's own recipes; after that the whole image is taken


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """JPEG or PNG bytes (a scalar string) to uint8 [height, width, 3]."""
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    return image


def random_resized_crop(
    image: tf.Tensor, *, image_size: int, area: tuple[float, float], seed: tf.Tensor, flip: bool
) -> tf.Tensor:
    """Cuts a random box, resizes it to a square and mirrors half of the results.

    Going Deeper with Convolutions, section 6 (https://arxiv.org/abs/1409.4842).

    Args:
      image: uint8 [height, width, 3].
      image_size: side of the result in pixels.
      area: smallest and largest share of the image's area that the box covers, in (0, 1].
      seed: int64 [2]; the same seed gives the same crop.
      flip: whether to mirror left and right with probability one half.

    Returns:
      uint8 [image_size, image_size, 3].
    """
    crop_seed, flip_seed = tf.unstack(tf.random.split(seed, 2)) if flip else (seed, None)
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        bounding_boxes=tf.zeros([1, 0, 4]),
        seed=crop_seed,
        min_object_covered=0.0,
        aspect_ratio_range=CROP_ASPECT,
        area_range=area,
        max_attempts=_CROP_ATTEMPTS,
        use_image_if_no_bounding_boxes=True,
    )
    # As TensorFlow's own ImageNet recipes do: aliasing makes a crop vary a little more, and antialiasing would cost
    # time for every crop of every epoch.
    image = _resize(tf.slice(image, begin, size), image_size, image_size, antialias=False)
    if flip:
        image = tf.image.stateless_random_flip_left_right(image, flip_seed)
    return tf.ensure_shape(image, [image_size, image_size, 3])


def central_crop(image: tf.Tensor, *, image_size: int, crop_fraction: float) -> tf.Tensor:
    """Resizes the shorter side to `image_size / crop_fraction`, antialiased, and cuts the centre square.

    Args:
      image: uint8 [height, width, 3].
      image_size: side of the result in pixels.
      crop_fraction: share of the shorter side that is kept, in (0, 1]; 0.875 is 224 out of 256.

    Returns:
      uint8 [image_size, image_size, 3].
    """
    # Only the middle can end up in the square, and resizing all of an extremely long image could take any memory.
    middle = tf.minimum(tf.shape(image)[:2], _LONGEST_ASPECT * tf.reduce_min(tf.shape(image)[:2]))
    begin = (tf.shape(image)[:2] - middle) // 2
    image = tf.slice(image, [begin[0], begin[1], 0], [middle[0], middle[1], 3])
    shape = tf.shape(image)[:2]
    scale = (image_size / crop_fraction) / tf.cast(tf.reduce_min(shape), tf.float32)
    height, width = tf.unstack(tf.maximum(image_size, tf.cast(tf.round(scale * tf.cast(shape, tf.float32)), tf.int32)))
    image = _resize(image, height, width, antialias=True)
    image = tf.slice(image, [(height - image_size) // 2, (width - image_size) // 2, 0], [image_size, image_size, 3])
    return tf.ensure_shape(image, [image_size, image_size, 3])


def _resize(image: tf.Tensor, height: tf.Tensor | int, width: tf.Tensor | int, *, antialias: bool) -> tf.Tensor:
    resized = tf.image.resize(image, [height, width], antialias=antialias)
    # Images stay uint8 up to the batch: a quarter of the memory traffic, and 1/510 at most is lost to rounding.
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
