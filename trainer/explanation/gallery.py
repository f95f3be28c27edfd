"""A classifier and what it says of a split in; the examples worth looking at, with their heatmaps, out.

Only the shards that hold those examples are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import decode, evaluation
from pipeline import manifest as manifest_lib
from pipeline.errors import InputError
from trainer import classifier as classifier_lib
from trainer.explanation import choice, overlay
from trainer.explanation.grad_cam import grad_cam
from trainer.predictions import Predictions

LIMIT = 12  # of each group: two rows of six on a desk, and all three groups stay below 1.5 MB in a page
_SIDE_PX = 224  # what most models see; twice as dense as the third of a phone's width that it is shown at
_JPEG_QUALITY = 80
_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Example:
    """One image, as the model saw it, and where it looked."""

    file: str  # of `pipeline.records.Record`: any text
    truth: str
    predicted: str
    confidence: float  # of `predicted`, after the temperature
    truth_confidence: float  # of `truth`; the same number where the prediction is right
    image: bytes  # JPEG, at most 224 pixels wide and high, like the others
    heatmap: bytes  # over the image: what speaks for `predicted`
    truth_heatmap: bytes | None  # what speaks for `truth`; None where the prediction is right


@dataclasses.dataclass(frozen=True)
class Gallery:
    """No example stands in two groups; see `choice.Choice` for their order. Each may be empty."""

    correct: tuple[Example, ...]
    wrong: tuple[Example, ...]
    confused: tuple[Example, ...]


def build(
    classifier: classifier_lib.Classifier,
    data: str,
    manifest: manifest_lib.Manifest,
    *,
    split: str,
    found: Predictions,
    limit: int = LIMIT,
) -> Gallery:
    """Chooses examples of a split and explains them by Grad-CAM at the last convolution.

    Args:
      data: the dataset's folder.
      found: what the classifier says of the whole split, in stored order; see `predictions.collect`.
      limit: of each group.

    Raises:
      InputError: where `found` is of other examples than the split's, or naming a shard that can't be read.
    """
    probabilities = found.probabilities(classifier.temperature)
    chosen = choice.choose(found.labels, probabilities, found.ids, limit=limit)
    positions = [position for group in chosen for position in group]
    images = _images(classifier, data, manifest, split, found, positions)
    predicted = probabilities.argmax(axis=-1)
    wrong = [position for position in positions if predicted[position] != found.labels[position]]
    asked = [*((position, int(predicted[position])) for position in positions)]
    asked += [(position, int(found.labels[position])) for position in wrong]
    pixels = np.stack([images[position] for position, _ in asked]) if asked else np.zeros([0, 1, 1, 3], np.uint8)
    maps = _heatmaps(classifier, pixels, [label for _, label in asked])
    overlays = {
        question: _jpeg(overlay.overlay(image, heat)) for question, image, heat in zip(asked, pixels, maps, strict=True)
    }

    def example(position: int) -> Example:
        label, answer = int(found.labels[position]), int(predicted[position])
        return Example(
            file=found.files[position],
            truth=found.classes[label],
            predicted=found.classes[answer],
            confidence=float(probabilities[position, answer]),
            truth_confidence=float(probabilities[position, label]),
            image=_jpeg(images[position]),
            heatmap=overlays[position, answer],
            truth_heatmap=overlays[position, label] if label != answer else None,
        )

    return Gallery(*(tuple(map(example, group)) for group in chosen))


def _images(
    classifier: classifier_lib.Classifier,
    data: str,
    manifest: manifest_lib.Manifest,
    split: str,
    found: Predictions,
    positions: Sequence[int],
) -> dict[int, npt.NDArray[np.uint8]]:
    """By position, as `evaluation.batches` gives them to the model."""
    settings = classifier.run.config["input"]
    size = {name: settings[name] for name in ("image_size", "crop_fraction")}
    caching = {name: settings[name] for name in ("cache_dir", "cache_gib")}
    if len(found.ids) != manifest.split(split).examples:
        raise InputError(
            f"predictions of {len(found.ids):,} examples, but split {split!r} has {manifest.split(split).examples:,}: "
            "evaluate that split again"
        )
    read = evaluation.records_at(data, manifest, split=split, positions=positions, **caching)
    for position, record in zip(positions, read, strict=True):
        if record.id != found.ids[position]:
            raise InputError(
                f"predictions of {found.files[position]}, but {record.file} stands in its place in split {split!r} of "
                f"{data}: evaluate that split again"
            )
    decoded = (decode.central_crop_encoded(tf.constant(record.image), **size).numpy() for record in read)
    return dict(zip(positions, decoded, strict=True))


def _heatmaps(
    classifier: classifier_lib.Classifier, pixels: npt.NDArray[np.uint8], class_indices: Sequence[int]
) -> list[npt.NDArray[np.float32]]:
    compiled = tf.function(lambda images, indices: grad_cam(classifier.net, images, indices), autograph=False)
    maps: list[npt.NDArray[np.float32]] = []
    for start in range(0, len(pixels), _BATCH):
        indices = tf.constant(class_indices[start : start + _BATCH], tf.int64)
        maps += list(compiled(tf.constant(pixels[start : start + _BATCH]), indices).numpy())
    return maps


def _jpeg(image: npt.NDArray[np.uint8]) -> bytes:
    return overlay.jpeg(image, side_px=_SIDE_PX, quality=_JPEG_QUALITY)
