"""One stored image in, one uint8 image of the model's size out: a random crop to train on, or the centre to judge.

From encoded bytes, a JPEG is decoded only where it is needed; from decoded pixels, the same box is cut out. Both give
the same pixels: everything but the cut is shared, and boxes end where libjpeg's colour upsampling agrees with itself.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

# The aspect ratios of Inception's crop, which every ImageNet recipe since has kept: https://arxiv.org/abs/1409.4842
CROP_ASPECT = (3 / 4, 4 / 3)
_CROP_ATTEMPTS = 10  # as in torchvision and TF's own recipes; after that the whole image is taken
# With libjpeg's interpolated colour, which is the default, these are Pillow's pixels bit for bit. On trashnet the fast
# transform took 1 to 3 % less CPU and was up to 16 levels off; without interpolation it took 8 % more, up to 69 off. A
# linear probe on ImageNet features saw no difference (0.0 ± 0.3 points). Decoding at half or a quarter of the size
# (libjpeg's scaled transforms) is left out: it saved a fifth for 1536x2048 pixels, cached pixels could not be the same,
# and preparation's stored size saves more.
_DCT = "INTEGER_ACCURATE"
# libjpeg interpolates colour of half the width from three columns of it on (jdsample.c); narrower pieces may differ.
_NARROWEST = 5
_FLIP_STREAM = 1 << 32  # added to a seed: beyond every seed that a config may have, so never another image's crop


def decode(encoded: tf.Tensor, *, ratio: int = 1) -> tf.Tensor:
    """JPEG or PNG bytes (a scalar string) to uint8 [height, width, 3].

    Args:
      ratio: 2, 4 or 8 gives a JPEG so many times smaller, rounded up, from fewer of its frequencies.

    Raises:
      tf.errors.InvalidArgumentError: where the bytes are no complete image. All below raise it too; those that decode
        a part notice damage up to its last row.
    """
    return tf.io.decode_jpeg(encoded, channels=3, ratio=ratio, dct_method=_DCT)  # reads PNG as well


def random_resized_crop_encoded(
    encoded: tf.Tensor, *, image_size: int, area: tuple[float, float], seed: tf.Tensor, flip: bool
) -> tf.Tensor:
    """`random_resized_crop(decode(encoded), ...)` to the bit, decoding of a JPEG only the rows and columns it keeps."""
    (crop,) = _cut_encoded(encoded, lambda shape: (_random_box(shape, area, seed),))
    return _resize_and_flip(crop, image_size, seed, flip)


def random_resized_crop(
    image: tf.Tensor, *, image_size: int, area: tuple[float, float], seed: tf.Tensor, flip: bool
) -> tf.Tensor:
    """Cuts a random box, resizes it to a square and mirrors half of the results.

    Going Deeper with Convolutions, section 6 (https://arxiv.org/abs/1409.4842), with the boxes of TensorFlow's own
    ImageNet recipes: of those with a drawn aspect ratio it takes each height equally often, so that small ones are
    more frequent than in the paper, which takes each area equally often.

    Args:
      image: uint8 [height, width, 3], of any size from one pixel.
      image_size: side of the result in pixels; a smaller box is enlarged.
      area: smallest and largest share of the image's area that the box covers, in (0, 1].
      seed: int64 [2]; the same seed gives the same crop.
      flip: whether to mirror left and right with probability one half.

    Returns:
      uint8 [image_size, image_size, 3].
    """
    return _resize_and_flip(_cut(image, _random_box(tf.shape(image), area, seed)), image_size, seed, flip)


def central_crop_encoded(encoded: tf.Tensor, *, image_size: int, crop_fraction: float) -> tf.Tensor:
    """`central_crop(decode(encoded), ...)` to the bit, decoding of a JPEG only the rows and columns it keeps."""

    def choose(shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        square = _central_box(shape, crop_fraction)
        box = where_cuts_agree(square[:2], square[:2] + square[2:], shape[:2])
        return box, tf.concat([square[:2] - box[:2], square[2:]], 0)

    wider, square = _cut_encoded(encoded, choose)
    return _resize(_cut(wider, square), image_size)


def central_crop(image: tf.Tensor, *, image_size: int, crop_fraction: float) -> tf.Tensor:
    """Cuts the square in the middle and resizes it as training does.

    Args:
      image: uint8 [height, width, 3], of any size from one pixel.
      image_size: side of the result in pixels.
      crop_fraction: the square's side as a share of the shorter side, in (0, 1]; 0.875 is 224 out of 256.

    Returns:
      uint8 [image_size, image_size, 3].
    """
    return _resize(_cut(image, _central_box(tf.shape(image), crop_fraction)), image_size)


def _cut_encoded(encoded: tf.Tensor, choose: Callable[[tf.Tensor], tuple[tf.Tensor, ...]]) -> tuple[tf.Tensor, ...]:
    """`choose` takes a shape ([height, width, channels]) and gives a box and more, which comes back behind the crop."""

    def from_jpeg() -> tuple[tf.Tensor, ...]:
        box, *more = choose(tf.io.extract_jpeg_shape(encoded))
        return tf.io.decode_and_crop_jpeg(encoded, box, channels=3, dct_method=_DCT), *more

    def from_other() -> tuple[tf.Tensor, ...]:
        image = decode(encoded)
        box, *more = choose(tf.shape(image))
        return _cut(image, box), *more

    return tf.cond(tf.io.is_jpeg(encoded), from_jpeg, from_other)


def _cut(image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    return tf.slice(image, tf.concat([box[:2], [0]], 0), tf.concat([box[2:], [3]], 0))


def _random_box(shape: tf.Tensor, area: tuple[float, float], seed: tf.Tensor) -> tf.Tensor:
    # The operations themselves here and below: their wrappers derive keys and check arguments once for each image.
    begin, size, _ = tf.raw_ops.StatelessSampleDistortedBoundingBox(
        image_size=shape,
        bounding_boxes=tf.zeros([1, 0, 4]),
        min_object_covered=tf.constant(0.0),
        seed=seed,
        aspect_ratio_range=CROP_ASPECT,
        area_range=area,
        max_attempts=_CROP_ATTEMPTS,
        use_image_if_no_bounding_boxes=True,
    )
    return where_cuts_agree(begin[:2], begin[:2] + size[:2], shape[:2])


def where_cuts_agree(begin: tf.Tensor, end: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Widens a box until decoding it alone gives the pixels of decoding everything.

    libjpeg interpolates colour of half resolution between two neighbours, and knows no neighbour outside of what it
    decodes. It decodes from the block left of a cut on, so a cut on the left is exact unless it is a block's first
    column, and one on the right where the last column's neighbours are inside: both hold at odd columns. Checked for
    4:4:4, 4:2:2, 4:4:0 and 4:2:0 against whole decodes; a cut elsewhere was up to 48 levels off in its border column.

    Args:
      begin, end, shape: int32 [2], rows and columns.

    Returns:
      The box as int32 [4]: first row and column, height and width.
    """
    begin = tf.maximum(tf.bitwise.bitwise_or(tf.minimum(begin, shape - _NARROWEST) - 1, 1), 0)
    end = tf.minimum(tf.bitwise.bitwise_or(tf.maximum(end, begin + _NARROWEST), 1), shape)
    return tf.concat([begin, end - begin], 0)


def _resize_and_flip(crop: tf.Tensor, image_size: int, seed: tf.Tensor, flip: bool) -> tf.Tensor:
    image = _resize(crop, image_size)
    if flip:
        random = tf.raw_ops.StatelessRandomUniform(shape=[3], seed=seed + tf.constant([_FLIP_STREAM, 0], tf.int64))
        # Reversing by a boolean is one operation, where a branch would cost as much as the half that it saves.
        image = tf.raw_ops.Reverse(tensor=image, dims=random < [0.0, 0.5, 0.0])
    return image


def _central_box(shape: tf.Tensor, crop_fraction: float) -> tf.Tensor:
    shorter = tf.cast(tf.reduce_min(shape[:2]), tf.float32)
    side = tf.maximum(tf.cast(tf.round(crop_fraction * shorter), tf.int32), 1)
    return tf.concat([(shape[:2] - side) // 2, [side, side]], 0)


def _resize(crop: tf.Tensor, image_size: int) -> tf.Tensor:
    """Bilinear between the four nearest pixels, in training and in evaluation alike.

    Chosen by a linear probe on frozen ImageNet features (MobileNetV2), fitted to random crops and judged on the centre,
    in points of accuracy against plain crops judged antialiased, each with its paired standard error over the images:

                                            both plain    both antialiased
      trashnet at 96 (3.5 times smaller)    +4.4 ± 1.0    +2.8 ± 0.8
      banana leaves at 96 (2 times)         +1.1 ± 0.6    +0.9 ± 0.5
      trashnet at 224 (1.5 times)           +0.2 ± 0.7    -1.5 ± 0.4

    What costs is that the two differ. Antialiasing both gains nothing over this and takes three times as long.
    """
    # Converting first is a third faster than resizing bytes, whose values the kernel converts again for each neighbour.
    # Dequantize does it in the pass that adds one half to all, and so to their means.
    pixels = tf.raw_ops.Dequantize(
        input=tf.bitcast(crop, tf.quint8), min_range=0.5, max_range=255.5, mode="MIN_COMBINED"
    )
    resized = tf.raw_ops.ResizeBilinear(images=pixels[None], size=[image_size, image_size], half_pixel_centers=True)
    # Images stay uint8 up to the batch: a quarter of the memory traffic, and 1/510 at most is lost to rounding. The
    # cast cuts off what is behind the point.
    return tf.cast(resized[0], tf.uint8)
