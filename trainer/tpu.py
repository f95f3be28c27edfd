"""What is to run on a TPU in: settings, hosts, a traced step; nothing out, or one line about what a TPU can't take."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping

import tensorflow as tf
from tensorflow.python.framework import kernels  # the registry has no public name

from pipeline.errors import InputError

# What replicas tell each other, and what marks a computation as one of TPUs, in builds that have no kernels for TPUs.
_OF_TPUS = frozenset(
    ("AllToAll", "CrossReplicaSum", "TPUReplicateMetadata", "TPUReplicatedInput", "TPUCompilationResult")
)
# Of a graph, not of the computation.
_STRUCTURE = frozenset(("Placeholder", "PartitionedCall", "StatefulPartitionedCall", "While", "StatelessWhile"))
_REFUSED_TYPES = {
    tf.string: "text stays on the host",
    tf.float64: "TPUs have no such unit, and would compute it of several float32; use float32",
    tf.complex128: "TPUs have no such type",
}


def check_hosts(environment: Mapping[str, str]) -> None:
    """Raises InputError where the slice has several hosts.

    TensorFlow runs those from one process, which sends every other host its batches and its calls
    (https://www.tensorflow.org/api_docs/python/tf/distribute/TPUStrategy); here each host reads its own.

    Args:
      environment: with TPU_WORKER_HOSTNAMES where there are several, as on Kubernetes
        (https://cloud.google.com/kubernetes-engine/docs/how-to/tpus).
    """
    hosts = [host for host in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    if len(hosts) > 1:
        raise InputError(
            f"TPU_WORKER_HOSTNAMES={','.join(hosts)}: a slice of {len(hosts)} hosts; --strategy=tpu is for the chips "
            "of one host: ask for a slice of one, as 2x4 of v5e or v6e, or use GPUs with --strategy=multi_worker"
        )


def check_settings(*, precision: str, steps_per_call: int) -> None:
    """Raises InputError for a precision that TPUs don't compute in; warns of one step in each call."""
    if precision == "mixed_float16":
        raise InputError("precision='mixed_float16': TPUs compute in bfloat16; use mixed_bfloat16, or float32")
    if steps_per_call == 1:
        logging.warning("steps_per_call=1: a TPU waits for its host after every step; 20 to 100 keep it busy")


def check_graph(graph: tf.Graph | None = None) -> None:
    """To be called at the end of a function that is being traced.

    Args:
      graph: None is the one that is being traced. Of one that calls TPUs only what they compute is looked at.

    Raises:
      InputError: where an operation has no kernel for TPUs, or gives a type or a shape that they can't take.
    """
    operations = list(_operations(graph or tf.compat.v1.get_default_graph()))
    # What can't be compiled first: it often comes with text or shapes that say less.
    for refusal in (_kernel_refusal, _output_refusal):
        for operation in operations:
            if reason := refusal(operation):
                raise InputError(
                    f"--strategy=tpu: {operation.type} ({operation.name}) {reason}: leave it out, or use GPUs"
                )


def _kernel_refusal(operation: tf.Operation) -> str | None:
    if operation.type in _STRUCTURE | _OF_TPUS | _compiled_operations():
        return None
    return "can't be compiled for TPUs"


def _output_refusal(operation: tf.Operation) -> str | None:
    for output in operation.outputs:
        if output.dtype in _REFUSED_TYPES:
            return f"gives {output.dtype.name}, {_REFUSED_TYPES[output.dtype]}"
        # What stands for a variable or a list of tensors has no shape of its own.
        if output.dtype not in (tf.resource, tf.variant) and not output.shape.is_fully_defined():
            return f"gives the shape {output.shape}, which is not known before it runs"
    return None


def _operations(graph: tf.Graph) -> Iterator[tf.Operation]:
    """Those that a TPU gets, functions that are called and bodies of loops included."""
    operations = graph.get_operations()
    if any(operation.type == "TPUReplicateMetadata" for operation in operations):
        operations = [operation for operation in operations if "_tpu_replicate" in operation.node_def.attr]
    for operation in operations:
        yield operation
        for name, value in operation.node_def.attr.items():
            if value.func.name and name not in ("_gradient_op_type", "cond"):
                yield from _operations(graph._get_function(value.func.name).graph)


@functools.cache
def _compiled_operations() -> frozenset[str]:
    """All that have a kernel for TPUs or, in a TensorFlow without those, one that XLA compiles for CPUs.

    By their registries tensorflow-tpu 2.20 has 537 for TPUs: the 489 that TensorFlow 2.21 has for CPUs, one gradient
    more (ResizeNearestNeighborGrad), and what belongs to replicas, embeddings and sparse cores.
    """
    with tf.init_scope(), contextlib.suppress(tf.errors.OpError):  # tensorflow-tpu compiles nothing for CPUs
        tf.function(lambda: tf.constant(0), jit_compile=True, autograph=False)()  # by which the registry is filled
    found: dict[str, set[str]] = {}
    for kernel in kernels.get_all_registered_kernels().kernel:
        found.setdefault(kernel.device_type, set()).add(kernel.op)
    return frozenset(found.get("XLA_TPU_JIT") or found["XLA_CPU_JIT"])
