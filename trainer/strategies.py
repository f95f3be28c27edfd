"""A strategy's name in; the tf.distribute strategy and this process's place among the workers out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from pipeline.errors import InputError
from trainer import cluster as cluster_lib
from trainer import connections, preemption, rendezvous, tpu

NAMES = ("one", "mirrored", "multi_worker", "tpu")


class Cluster(NamedTuple):
    strategy: tf.distribute.Strategy
    worker: int
    num_workers: int

    @property
    def is_chief(self) -> bool:
        """The chief writes checkpoints, logs and reports; the others only compute."""
        return self.worker == 0

    @property
    def local_replicas(self) -> int:
        return self.strategy.num_replicas_in_sync // self.num_workers


def connect(
    name: str,
    *,
    worker: cluster_lib.Worker | None = None,
    start_timeout_s: float = rendezvous.START_TIMEOUT_S,
    idle: Callable[[], None] = lambda: None,
) -> Cluster:
    """Joins the cluster; must come before anything else touches a device.

    `one`: the first GPU or the CPU. `mirrored`: all local GPUs. `multi_worker`: processes that meet first, see
    `rendezvous.meet`. `tpu`: the chips of this host.

    Args:
      worker: this process's place in it; None has the environment say, see `cluster.find`.
      start_timeout_s, idle: see `rendezvous.meet`.

    Raises:
      InputError: for an unknown name, or multi_worker without a usable place.
      TimeoutError: where not all workers came.
    """
    if name == "one":
        device = "/gpu:0" if tf.config.list_physical_devices("GPU") else "/cpu:0"
        return Cluster(tf.distribute.OneDeviceStrategy(device), 0, 1)
    if name == "mirrored":
        return Cluster(tf.distribute.MirroredStrategy(), 0, 1)
    if name == "multi_worker":
        worker = cluster_lib.required(worker or cluster_lib.find(os.environ))
        logging.info("worker %d of %d, as %s says", worker.index, worker.num_workers, worker.source)
        addresses = rendezvous.meet(worker, timeout_s=start_timeout_s, idle=idle)
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": list(addresses)}),
            task_type="worker",
            task_id=worker.index,
            rpc_layer="grpc",
        )
        strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
        preemption.take_back()
        connections.watch()
        return Cluster(strategy, worker.index, worker.num_workers)
    if name == "tpu":
        tpu.check_hosts(os.environ)
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return Cluster(tf.distribute.TPUStrategy(resolver), 0, 1)
    raise InputError(f"--strategy={name!r}: expected one of {', '.join(NAMES)}")


def check_precision(cluster: Cluster, precision: str) -> None:
    """Raises InputError for mixed_float16 on CPUs, where it takes three times as long as float32 for nothing."""
    device = tf.DeviceSpec.from_string(cluster.strategy.extended.worker_devices[0]).device_type
    if precision == "mixed_float16" and device == "CPU":
        raise InputError(
            "precision='mixed_float16': there are only CPUs here, which compute in float32 anyway and slower for it; "
            "use float32"
        )


def check_agreement(cluster: Cluster, values: tuple[int, ...]) -> None:
    """Compares `values` (non-negative, below 2**62) across all replicas, before anything depends on their being equal.

    Raises:
      InputError: on every worker, where any of them has others.
    """
    if cluster.strategy.num_replicas_in_sync == 1:
        return

    def own() -> tf.Tensor:
        return tf.constant([values], tf.int64)

    gathered = cluster.strategy.gather(cluster.strategy.run(own), axis=0).numpy()
    if (gathered != gathered[0]).any():
        raise InputError(
            "the workers disagree about the run (global step and fingerprint of each: "
            f"{gathered.tolist()}): give all of them the same --config, --data and --workdir, on storage they all see"
        )


def wait_for_all(cluster: Cluster) -> None:
    """Returns when all workers have come here."""
    check_agreement(cluster, (0,))


def agree(cluster: Cluster, received: bool) -> bool:
    """Whether any worker was asked to end; all workers have to call it at the same place, and get the same answer."""
    if cluster.num_workers == 1:
        return received

    def own() -> tf.Tensor:
        return tf.constant(float(received))

    asked = cluster.strategy.reduce(tf.distribute.ReduceOp.SUM, cluster.strategy.run(own), axis=None)
    return bool(asked > 0)


def asks_every_batches(cluster: Cluster) -> int:
    """After how many batches of a pass `agree` is called: to ask takes as long as some of the smallest of them."""
    return 1 if cluster.num_workers == 1 else 8


def distributor(cluster: Cluster) -> Callable[[Sequence[tf.Tensor]], Sequence[tf.Tensor]]:
    """A function that deals this worker's batch out to its replicas; with one replica the tensors pass as they are."""
    replicas = cluster.local_replicas
    if replicas == 1:
        return lambda batch: batch

    def deal(batch: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        parts = [tf.split(tensor, replicas) for tensor in batch]
        first = cluster.worker * replicas

        def part(tensors: list[tf.Tensor]) -> tf.Tensor:
            return cluster.strategy.experimental_distribute_values_from_function(
                lambda context: tensors[context.replica_id_in_sync_group - first]
            )

        return [part(tensors) for tensors in parts]

    return deal
