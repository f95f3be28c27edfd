"""A SavedModel's values in; nothing out, or why they are refused: values that are not all there."""

from __future__ import annotations

import math
import os

import tensorflow as tf

from pipeline.errors import InputError


def check(prefix: str, name: str) -> None:
    """Compares what the index declares with the size of the file of values, and reads none of them.

    Args:
      prefix: of a local checkpoint with one file of values.
      name: how messages call it.

    Raises:
      InputError: where the index is damaged or declares more than there is.
    """
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    except (tf.errors.OpError, ValueError) as error:
        raise InputError(f"{name}: its variables are damaged ({error}): export it again") from error
    declared = sum(math.prod(shape) * dtypes[key].size for key, shape in shapes.items() if dtypes[key] != tf.string)
    stored = os.path.getsize(f"{prefix}.data-00000-of-00001")
    if declared > stored:
        raise InputError(f"{name}: its variables declare {declared:,} bytes and store {stored:,}: export it again")
