"""One uint8 image and a seed in, the image after randomly drawn operations out: RandAugment and TrivialAugment.

The fourteen operations of both papers, by Pillow's definitions, with AutoAugment's ranges for RandAugment's magnitudes
m of 0 to 10. Where implementations of RandAugment disagree (torchvision counts m to 30, scaled here):

| | papers | authors' TensorFlow code | timm | torchvision | here |
| --- | --- | --- | --- | --- | --- |
| drawn from | 14 | 16: no identity; invert, cutout, solarize-add | 15: those but cutout | the 14 | the 14 |
| color, contrast, brightness, sharpness | 0.1 to 1.9 | 0.1 + 0.18 m | 0.1 + 0.18 m | 1 +- 0.09 m | 1 +- 0.09 m |
| posterize, bits kept | 4 to 8 | 0.4 m | 0.4 m | 8 - 0.4 m | 8 - 0.4 m |
| solarize, values from | 0 to 256 | 25.6 m | 25.6 m | 255 - 25.5 m | 256 - 25.6 m |
| translate, at m = 10 | 150 of 331 pixels | 100 pixels | 0.45 of the side | 150/331 of the side | 150/331 of the side |
| new pixels | | grey 128 | ImageNet's mean | black | grey 128 |
| interpolation | | nearest | bilinear or bicubic | nearest | nearest |

The authors' code (https://github.com/tensorflow/tpu, efficientnet/autoaugment.py) changes nothing at m = 5 in color,
contrast, brightness and sharpness, and less the larger m is in posterize and solarize. The paper has one m for all
because a larger one means more of everything (section 3), and so it does here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from pipeline.augmentations import color, geometry
from pipeline.errors import InputError

# Which pixels a turned or sheared image shows is kept in the graph for every amount up to this size, and computed for
# each image beyond, which takes twice as long.
_LARGEST_TABLE_BYTES = 4 << 20
_TRIVIAL_MAGNITUDES = 31  # 0 to 30: TrivialAugment, section 3
AMOUNTS_DRAWN = 2 * _TRIVIAL_MAGNITUDES  # a multiple of every number of amounts, so that each is as likely


@dataclasses.dataclass(frozen=True)
class Operation:
    """One of the fourteen with the amounts that can be drawn; none, where it has no amount."""

    apply: Callable[..., tf.Tensor]
    amounts: tuple[float, ...] = ()
    matrix: Callable[[float, int, int], geometry.Matrix] | None = None


def rand_augment(image: tf.Tensor, seed: tf.Tensor, *, num_ops: int, magnitude: float) -> tf.Tensor:
    """Applies `num_ops` operations, each drawn from all fourteen, with one magnitude and a random direction.

    RandAugment, https://arxiv.org/abs/1909.13719, with the ranges of AutoAugment, https://arxiv.org/abs/1805.09501,
    table 6.

    Args:
      image: uint8 [H, W, 3] with static H and W.
      seed: int64 [2]; the same seed gives the same image, on every machine.
      num_ops: at least 1. The paper's N.
      magnitude: 0 to 10. The paper's M.

    Returns:
      uint8 [H, W, 3].

    Raises:
      InputError: where num_ops or magnitude is impossible.
    """
    if num_ops < 1 or not 0 <= magnitude <= 10:
        raise InputError(
            f"RandAugment with num_ops={num_ops}, magnitude={magnitude}: expected at least 1 operation and 0 to 10"
        )
    return _draw_and_apply(image, seed, num_ops, rand_augment_operations(magnitude, *_sides(image)))


def trivial_augment(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Applies one operation, drawn from all fourteen, with a magnitude drawn from 31.

    TrivialAugment with its wide ranges, https://arxiv.org/abs/2103.10158, table 1.

    Args:
      image: uint8 [H, W, 3] with static H and W.
      seed: int64 [2]; the same seed gives the same image, on every machine.

    Returns:
      uint8 [H, W, 3].
    """
    return _draw_and_apply(image, seed, 1, trivial_augment_operations(*_sides(image)))


def rand_augment_operations(magnitude: float, height: int, width: int) -> tuple[Operation, ...]:
    share = magnitude / 10
    return _operations(
        degrees=(30 * share,),
        shears=(0.3 * share,),
        pixels_x=(round(150 / 331 * share * width),),
        pixels_y=(round(150 / 331 * share * height),),
        factors=(0.9 * share,),
        thresholds=(round(256 * (1 - share)),),
        bits=(8 - round(4 * share),),
    )


def trivial_augment_operations(height: int, width: int) -> tuple[Operation, ...]:
    shares = [step / (_TRIVIAL_MAGNITUDES - 1) for step in range(_TRIVIAL_MAGNITUDES)]
    return _operations(
        degrees=tuple(135 * share for share in shares),
        shears=tuple(0.99 * share for share in shares),
        pixels_x=tuple(round(min(32, width) * share) for share in shares),
        pixels_y=tuple(round(min(32, height) * share) for share in shares),
        factors=tuple(0.99 * share for share in shares),
        thresholds=tuple(round(256 * (1 - share)) for share in shares),
        bits=tuple(8 - round(6 * share) for share in shares),
    )


def _operations(
    *,
    degrees: tuple[float, ...],
    shears: tuple[float, ...],
    pixels_x: tuple[int, ...],
    pixels_y: tuple[int, ...],
    factors: tuple[float, ...],
    thresholds: tuple[int, ...],
    bits: tuple[int, ...],
) -> tuple[Operation, ...]:
    around_one = (*(1 + factor for factor in factors), *(1 - factor for factor in factors))
    return (
        Operation(tf.identity),
        Operation(color.auto_contrast),
        Operation(color.equalize),
        Operation(geometry.rotate, _both(degrees), geometry.rotation),
        Operation(color.solarize, thresholds),
        Operation(color.color, around_one),
        Operation(color.posterize, bits),
        Operation(color.contrast, around_one),
        Operation(color.brightness, around_one),
        Operation(color.sharpness, around_one),
        Operation(geometry.shear_x, _both(shears), geometry.shearing_x),
        Operation(geometry.shear_y, _both(shears), geometry.shearing_y),
        Operation(geometry.translate_x, _both(pixels_x)),
        Operation(geometry.translate_y, _both(pixels_y)),
    )


def _both(amounts: Sequence[float]) -> tuple[float, ...]:
    return (*amounts, *(-amount for amount in amounts))


def _sides(image: tf.Tensor) -> tuple[int, int]:
    height, width = image.shape[:2]
    if height is None or width is None or min(height, width) < 3:
        raise ValueError(f"image of shape {image.shape}: expected static sides of 3 at least")
    return height, width


def _draw_and_apply(image: tf.Tensor, seed: tf.Tensor, num_ops: int, operations: tuple[Operation, ...]) -> tf.Tensor:
    # Philox by name: what "auto" means depends on the device.
    bits = tf.random.stateless_uniform(
        [num_ops, 2], seed, minval=None, maxval=None, dtype=tf.int32, alg=tf.random.Algorithm.PHILOX
    )
    draws = tf.unstack(tf.reshape(bits % [len(operations), AMOUNTS_DRAWN], [-1]))
    shape = tuple(image.shape)
    branches = _branches(shape, operations)
    for which, amount in zip(draws[::2], draws[1::2], strict=True):
        # Not tf.switch_case: that is rewritten into a graph where every image pays for the branches not taken.
        (image,) = tf.raw_ops.StatelessCase(
            branch_index=which, input=[image, amount], Tout=[tf.uint8], branches=branches
        )
        image = tf.ensure_shape(image, shape)
    return image


@functools.lru_cache(maxsize=8)
def _branches(shape: tuple[int, int, int], operations: tuple[Operation, ...]) -> list[Callable[..., tf.Tensor]]:
    with tf.init_scope():  # a function of its own, wherever this is called
        return [_branch(shape, operation) for operation in operations]


def _branch(shape: tuple[int, int, int], operation: Operation) -> Callable[..., tf.Tensor]:
    """(image, number of the amount) -> image, as one function of a graph."""
    height, width = shape[:2]
    matrices = None
    if operation.matrix:
        matrices = geometry.fixed([operation.matrix(amount, height, width) for amount in operation.amounts])
    tables = None
    if matrices is not None and 4 * len(matrices) * height * width <= _LARGEST_TABLE_BYTES:
        tables = np.stack([geometry.sources(tf.constant(matrix), height, width).numpy() for matrix in matrices])

    def apply(image: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        if not operation.amounts:
            return operation.apply(image)
        number = number % len(operation.amounts)
        if tables is not None:
            return geometry.take(image, tf.gather(tables, number))
        if matrices is not None:
            return geometry.take(image, geometry.sources(tf.gather(matrices, number), height, width))
        return operation.apply(image, tf.gather(operation.amounts, number))

    signature = (tf.TensorSpec(shape, tf.uint8), tf.TensorSpec([], tf.int32))
    return tf.function(apply, autograph=False).get_concrete_function(*signature)
