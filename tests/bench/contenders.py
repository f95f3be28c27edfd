"""Who is compared with whom, in which environment, with how many workers, and what each does otherwise than we do."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Contender:
    """Something that makes endless batches."""

    function: str  # MODULE.NAME below tests.bench
    title: str
    peers: bool = False  # whether it runs in the peers' environment
    workers: tuple[int, ...] = (0,)  # worth trying on two cores; the one that takes least CPU is shown
    note: str = ""  # what it does otherwise, or nothing
    batches: int = 64  # per window; the slowest take fewer


# Of 384x512 photos torchvision's, DALI's and FFCV's boxes cover 0.43 on average, where each area is as frequent;
# TensorFlow's, and so ours, 0.37, where each height is.
_LARGER = "boxes a sixth larger"
_PILLOW = f"{_LARGER}; antialiased, as Pillow always is"
INPUT = {
    "ours": Contender("input_tensorflow.ours", "ours"),
    "plain": Contender("input_tensorflow.plain", "plain tf.data, TFRecord"),
    "tfds": Contender("input_tensorflow.tfds", "TFDS"),
    "keras": Contender(
        "input_tensorflow.keras_directory", "image_dataset_from_directory", note="photos scaled to one size before"
    ),
    "pytorch": Contender("input_peers.pytorch", "PyTorch DataLoader, PIL", True, (0, 2), _PILLOW),
    "webdataset": Contender("input_peers.webdataset", "webdataset, PIL", True, (0, 2), _PILLOW),
    "grain": Contender("input_peers.grain", "grain, OpenCV", True, (0, 2)),
    "dali": Contender("input_peers.dali", "DALI on CPU", True, (1, 2), _LARGER),
    "ffcv": Contender("input_peers.ffcv_jpeg", "FFCV jpeg", True, (1, 2), f"{_LARGER}; averages areas to scale down"),
    "limit": Contender("input_limit.whole", "libjpeg-turbo, whole", True, (1,), "decodes and nothing else"),
    "limit-crop": Contender("input_limit.crops", "libjpeg-turbo, crops", True, (1,), "decodes and nothing else"),
}
CACHED = {
    "ours": Contender("input_tensorflow.ours_decoded", "ours, cache=decoded"),
    "plain": Contender("input_tensorflow.plain_decoded", "plain tf.data, cache()"),
    "ffcv": Contender("input_peers.ffcv_raw", "FFCV raw", True, (1, 2), f"{_LARGER}; averages areas to scale down"),
}
RANDAUGMENT = {
    "ours": Contender("augment_tensorflow.ours", "ours"),
    "nothing": Contender(
        "augment_tensorflow.nothing", "tf.data without augmentation", note="no augmentation", batches=512
    ),
    "albumentations": Contender(
        "augment_peers.albumentations", "albumentations", True, note="two of its own operations; NumPy arrays"
    ),
    "torchvision": Contender("augment_peers.torchvision", "torchvision, PIL", True, note="magnitude 9 of 30"),
    "timm": Contender("augment_peers.timm", "timm, PIL", True, note="15 operations"),
    "keras_cv": Contender("augment_tensorflow.keras_cv", "keras_cv", note="bilinear", batches=16),
    "keras": Contender("augment_tensorflow.keras_layers", "keras.layers.RandAugment", note="bilinear", batches=3),
}


def start(function: str) -> Callable[..., Any]:
    """The function that `Contender.function` names; its module is imported only here, in its own environment."""
    module, _, name = function.partition(".")
    return getattr(importlib.import_module(f"tests.bench.{module}"), name)  # type: ignore[no-any-return]
