"""TensorFlow in; a TensorFlow whose sums come out the same, to the last bit, whenever the same command is run."""

from __future__ import annotations

import tensorflow as tf

from pipeline.errors import InputError


def set_up(*, deterministic: bool) -> None:
    """To be called before anything computes. Seeds are set elsewhere; this is about the order in which sums are made.

    Equal to the last bit means on the same kind of device, as many of them, and as many cores: an operation that is
    split among other numbers of threads adds up in another order, though always in the same one.

    `enable_op_determinism` chooses GPU kernels that always add in one order. It leaves out `AddN`, on CPUs and on GPUs:
    that operation begins with whichever input's memory it can take over for its result, the first one that nobody else
    still reads, which is a matter of timing. Of two inputs that changes nothing, since a + b = b + a; of three or more
    it changes the last bits (measured on CPUs; the one source for all devices is tensorflow/core/kernels/
    aggregate_ops.cc). `check_sums` refuses those, and here TensorFlow is kept from making them out of chains of
    additions. The other way, a single inter-op thread, took 1.38 times as long (MobileNetV2 at 160, two cores).
    """
    if not deterministic:
        return
    tf.config.experimental.enable_op_determinism()
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})


def check_sums() -> None:
    """To be called at the end of a function that is being traced.

    Raises:
      InputError: where it has a sum whose order is open.
    """
    for operation in tf.compat.v1.get_default_graph().get_operations():
        if operation.type == "AddN" and len(operation.inputs) > 2:
            raise InputError(
                f"deterministic=True: TensorFlow adds the {len(operation.inputs)} inputs of {operation.name} in no "
                "fixed order; model.sync_batch_norm=True has such sums, and so have three replicas or more without "
                "NCCL: leave one of them off"
            )
