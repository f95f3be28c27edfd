"""How datasets run on one host: its cores in, options of tf.data out."""

from __future__ import annotations

import os
from typing import NamedTuple

import tensorflow as tf

# For functions of datasets, which here hold no Python control flow to convert: looking for some takes most of the time
# to the first batch.
as_it_is = tf.autograph.experimental.do_not_convert


class Host(NamedTuple):
    """Where a dataset runs, as far as it has to know."""

    cores: int
    available_bytes: int  # of memory, for caches


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def options(host: Host | None = None) -> tf.data.Options:
    """How this package's datasets run on `host`, None for this one."""
    options = tf.data.Options()
    # Elements are many and small: one element a thread keeps all cores busy, and splitting one's operations among
    # threads as well only adds their coming and going.
    options.threading.private_threadpool_size = host.cores if host else cores()
    options.threading.max_intra_op_parallelism = 1
    # Parallelism is the number of cores and buffers are counted in batches, so there is nothing to tune while running
    # and no memory bound to find by growing into it.
    options.autotune.enabled = False
    # They are written as they should run; looking for rewrites takes half of the time to the first batch.
    options.experimental_optimization.apply_default_optimizations = False
    return options
