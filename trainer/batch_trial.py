"""One batch size in; how fast its steps are, and the memory they take, out. `find_batch` runs it in its own process."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline import manifest as manifest_lib
from pipeline.augmentations.augment import Augment
from trainer import find_batch, probe, strategies

_MEASURED_S = 3.0  # how long steps are timed, and at least so many:
_MEASURED_STEPS = 2


class OutOfMemoryError(Exception):
    """A device refused to hold more."""


def measure(data: str, settings: Mapping[str, Any], strategy: str, batch: int) -> tuple[float, int]:
    """Times steps of `batch` examples a replica, of the phase that trains most.

    Returns:
      (images/s of all replicas together, peak bytes: of this process on CPU, of the fullest device elsewhere).

    Raises:
      OutOfMemoryError: in one line.
      InputError: where settings and data don't go together.
    """
    try:
        return _measure(data, settings, strategy, batch)
    except (tf.errors.OpError, MemoryError) as error:
        if is_about_memory(error):
            raise OutOfMemoryError(str(error).strip().splitlines()[0]) from error
        raise


def is_about_memory(error: Exception) -> bool:
    """Whether memory ran out, which cuDNN and XLA also report as internal errors."""
    words = r"out of memory|\bOOM\b|ALLOC_FAILED|RESOURCE_EXHAUSTED"
    return (
        isinstance(error, MemoryError | tf.errors.ResourceExhaustedError)
        or re.search(words, str(error), re.IGNORECASE) is not None
    )


def _measure(data: str, settings: Mapping[str, Any], strategy: str, batch: int) -> tuple[float, int]:
    cluster = strategies.connect(strategy)
    replicas = cluster.strategy.num_replicas_in_sync
    manifest = manifest_lib.load(data)
    settings = {
        **settings,
        "global_batch": batch * replicas,
        "optimizer": dict(settings["optimizer"], accumulation=1),
    }
    probed = probe.build(manifest, cluster, settings, largest_phase(settings["phases"]), load_weights=False)
    size, classes = settings["input"]["image_size"], len(manifest.classes)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, [batch * replicas, size, size, 3], np.uint8)
    labels = random.integers(0, classes, [batch * replicas])
    mixed = Augment(**settings["augment"]).mixes
    truth = tf.one_hot(labels, classes) if mixed else tf.constant(labels, tf.int64)
    dealt = strategies.distributor(cluster)([tf.constant(images), truth, tf.range(batch * replicas, dtype=tf.int64)])

    float(probed.step(dealt, 0.0))  # compiles; a rate of zero, so that random labels can't make weights explode
    begin, steps = time.perf_counter(), 0
    while steps < _MEASURED_STEPS or time.perf_counter() - begin < _MEASURED_S:
        float(probed.step(dealt, 0.0))  # as a number, which waits for the device
        steps += 1
    elapsed_s = time.perf_counter() - begin
    return steps * batch * replicas / elapsed_s, _peak_bytes()


def largest_phase(phases: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The phase whose step holds most: gradients go all the way back with `all`, and nowhere with `head`."""
    return min(phases, key=lambda phase: ("all", "from", "last", "head").index(phase["trainable"].partition(":")[0]))


def _peak_bytes() -> int:
    devices = tf.config.list_logical_devices("GPU") + tf.config.list_logical_devices("TPU")
    if devices:
        return max(tf.config.experimental.get_memory_info(device.name)["peak"] for device in devices)
    return find_batch.memory_bytes(os.getpid(), "VmHWM")
