"""Validation images and what an export says of them in; what serving holds newer ones against, out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.evaluation import ledger
from trainer.serving import drift

_FEWEST = 2  # examples; of fewer there is nothing to call usual
_SIZES = ("width", "height")


def reference(
    images: npt.NDArray[np.uint8],
    answers: dict[str, npt.NDArray[np.float32]],
    sizes: npt.NDArray[np.int64] | None,
) -> dict[str, Any]:
    """See `drift.reference`; empty where there are too few examples.

    Args:
      images: uint8 [n, image_size, image_size, 3] of the validation split.
      answers: of `saved_model.answers`.
      sizes: of the files that the images were made of, see `sizes`.
    """
    if len(images) < _FEWEST:
        return {}
    return drift.reference(images, answers["probabilities"], answers["embedding"], sizes)


def sizes(data: str, split: str, ids: Sequence[str]) -> npt.NDArray[np.int64] | None:
    """Width and height of the source files by the dataset's ledger, int64 [n, 2]; None where it doesn't know all.

    Args:
      ids: of `pipeline.records.Record`, n of `split`.
    """
    if not set(_SIZES) <= set(ledger.columns(data)):
        return None
    known = ledger.read(data, split, _SIZES)
    if not set(ids) <= known.keys():
        return None
    return np.array([known[identity] for identity in ids], np.int64)
