"""An export in; its functions, warmed up, and what its signatures look like out. Keras is not asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2

from pipeline import storage
from pipeline.errors import InputError
from trainer import safe_loading
from trainer.serving import exports

# Names of their inputs. What `serving_default` and `prepare` do with encoded bytes, `preparing` does here: the export
# would decode them without asking first how large they are.
SIGNATURES = {"serving_default": ("image_bytes",), "pixels": ("images",), "heatmap": ("class_index", "images")}


class Row(NamedTuple):
    """What the model says of one image."""

    logits: npt.NDArray[np.float32]  # [classes]
    probabilities: npt.NDArray[np.float32]  # [classes], after the temperature
    embedding: npt.NDArray[np.float32]  # [features]


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    card: exports.Card
    signature_def: Mapping[str, Any]  # of the SavedModel, as protobuf's JSON
    _loaded: Any  # holds the variables

    def rows(self, images: npt.NDArray[np.uint8]) -> list[Row]:
        """uint8 [n, image_size, image_size, 3] to n rows."""
        found = self.call("pixels", images=images)
        return [Row(*row) for row in zip(*(found[name] for name in Row._fields), strict=True)]

    def heatmaps(self, images: npt.NDArray[np.uint8], class_index: Sequence[int]) -> npt.NDArray[np.float32]:
        """float32 [n, h, w] in 0..1: where the evidence for a class is; see `trainer.explanation`."""
        return self.call("heatmap", images=images, class_index=np.asarray(class_index, np.int64))["heatmap"]

    def call(self, signature: str, **inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Raises tf.errors.InvalidArgumentError where a shape is not the signature's."""
        function = self._loaded.signatures[signature]
        outputs = function(**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}


def load(card: exports.Card, *, max_batch: int) -> Model:
    """Loads, checks and warms up with the smallest and the largest batch.

    Raises:
      InputError: where it is damaged, is no export of ours, or could reach beyond itself, see `safe_loading`.
    """
    exports.check_files(card)
    loaded = safe_loading.saved_model(card.path)
    for name, inputs in SIGNATURES.items():
        signature = loaded.signatures.get(name)
        found = tuple(sorted(signature.structured_input_signature[1])) if signature else None
        if found != inputs:
            raise InputError(f"{card.path}: signature {name!r} takes {found}, expected {inputs}: export again")
    model = Model(card, _signature_def(card.path), loaded)
    side = card.image_size
    for count in (1, max_batch):
        (row, *_) = model.rows(np.zeros((count, side, side, 3), np.uint8))
        if row.probabilities.shape != (len(card.classes),):
            raise InputError(
                f"{card.path} gives {row.probabilities.shape} probabilities for {len(card.classes)} classes"
            )
    model.heatmaps(np.zeros((1, side, side, 3), np.uint8), [0])
    return model


def _signature_def(path: str) -> dict[str, Any]:
    content = saved_model_pb2.SavedModel.FromString(storage.read_bytes(storage.join(path, "saved_model.pb")))
    return {
        name: json_format.MessageToDict(
            definition, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        for name, definition in sorted(content.meta_graphs[0].signature_def.items())
        if not name.startswith("__")  # of initialisation, not for callers
    }
