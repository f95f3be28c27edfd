"""A function on images in; the same one out, compiled by XLA where TensorFlow has a compiler for CPUs."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def compiled(function: Callable[..., tf.Tensor]) -> Any:
    """As `tf.function`; pixels are the same with and without XLA."""
    return tf.function(function, jit_compile=_has_compiler() or None, autograph=False)


def _has_compiler() -> bool:
    """tensorflow-tpu, up to 2.20, is built without: what is compiled for CPUs fails with "transfer manager".

    Its name says so rather than a try, which would start TensorFlow while modules are imported.
    """
    try:
        importlib.metadata.distribution("tensorflow-tpu")
    except importlib.metadata.PackageNotFoundError:
        return True
    return False
