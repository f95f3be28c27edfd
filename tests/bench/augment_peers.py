"""Photos in, endless float32 batches of 32 at 224 out after RandAugment (2 operations, magnitude 9): no TensorFlow.

In one thread, since a second process would add what it costs to hand over. Each starts from photos in memory in the
form it takes, and ends with one float32 array of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tests.bench.input_data import Photos, squares
from tests.bench.input_window import BATCH, SIDE

_OPS, _MAGNITUDE = 2, 9
_SHARE = _MAGNITUDE / 10  # of the largest amounts, which are those of the paper's released code


def albumentations(photos: Photos, workers: int) -> Iterator[np.ndarray]:
    import cv2

    cv2.setNumThreads(1)
    policy = _albumentations_policy()
    return _batches(list(squares(photos)), lambda image: policy(image=image)["image"])


def torchvision(photos: Photos, workers: int) -> Iterator[np.ndarray]:
    from torchvision.transforms import v2

    return _batches(_pillow(photos), v2.RandAugment(_OPS, _MAGNITUDE))


def timm(photos: Photos, workers: int) -> Iterator[np.ndarray]:
    from timm.data.auto_augment import rand_augment_transform

    hints = {"translate_const": 0.45 * SIDE, "img_mean": (124, 116, 104), "interpolation": Image.Resampling.NEAREST}
    return _batches(_pillow(photos), rand_augment_transform(f"rand-m{_MAGNITUDE}-n{_OPS}-p1.0", hints))


def _albumentations_policy() -> Callable[..., Any]:
    """It has no RandAugment: two of its own operations are drawn, with replacement, from the same fourteen."""
    import albumentations as A  # noqa: N812 as its users write
    import cv2

    nearest = {"interpolation": cv2.INTER_NEAREST, "fill": 128, "p": 1}
    blend = (1 - _SHARE * 0.9, 1 + _SHARE * 0.9)
    degrees, pixels = float(np.degrees(np.arctan(0.3 * _SHARE))), round(0.45 * SIDE * _SHARE)
    operations = [
        A.NoOp(p=1),
        A.AutoContrast(p=1),
        A.Equalize(p=1),
        A.Rotate(limit=30 * _SHARE, **nearest),
        A.Solarize(threshold_range=(1 - _SHARE, 1 - _SHARE), p=1),
        A.ColorJitter(brightness=(1, 1), contrast=(1, 1), saturation=blend, hue=(0, 0), p=1),
        A.Posterize(num_bits=round(8 - 4 * _SHARE), p=1),
        A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.9 * _SHARE, p=1),
        A.RandomBrightnessContrast(brightness_limit=0.9 * _SHARE, contrast_limit=0, p=1),
        A.Sharpen(alpha=(0.9 * _SHARE, 0.9 * _SHARE), kernel_size=3, p=1),
        A.Affine(shear={"x": (-degrees, degrees), "y": (0, 0)}, **nearest),
        A.Affine(shear={"x": (0, 0), "y": (-degrees, degrees)}, **nearest),
        A.Affine(translate_px={"x": (-pixels, pixels), "y": (0, 0)}, **nearest),
        A.Affine(translate_px={"x": (0, 0), "y": (-pixels, pixels)}, **nearest),
    ]
    return A.Compose([A.SomeOf(operations, n=_OPS, replace=True, p=1)])  # type: ignore[no-any-return]


def _pillow(photos: Photos) -> list[Image.Image]:
    return [Image.fromarray(image) for image in squares(photos)]


def _batches(images: Sequence[Any], augment: Callable[[Any], Any]) -> Iterator[np.ndarray]:
    while True:
        for first in range(0, len(images) - BATCH, BATCH):
            batch = np.empty([BATCH, SIDE, SIDE, 3], np.float32)
            for place, image in enumerate(images[first : first + BATCH]):
                batch[place] = augment(image)
            yield batch
