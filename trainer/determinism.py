"""TensorFlow in; a TensorFlow whose sums come out the same, to the last bit, whenever the same command is run."""

from __future__ import annotations

import tensorflow as tf

from pipeline.errors import InputError


def set_up(*, deterministic: bool, strategy: str) -> None:
    """To be called before anything computes.

    Operations that share a sum (the gradients of a weight that is used twice, above all) run side by side and add up in
    the order in which they happen to finish. One inter-op thread fixes it; `enable_op_determinism` alone does not.

    Raises:
      InputError: with several replicas, whose collectives wait for each other and need threads of their own.
    """
    if not deterministic:
        return
    if strategy != "one":
        raise InputError(
            f"deterministic=True: --strategy={strategy} has several replicas, whose order is open; use one"
        )
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
