"""A dataset in; what a training step costs this process, and its parts alone, out as one line of JSON.

`bench_workers` starts it alone, or as each worker of a cluster that TF_CONFIG tells of, each on a core of its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

IMAGE_SIZE, BATCH = 96, 32
WARM_STEPS, STEPS = 50, 30  # after an epoch of 45 steps all images are decoded


def settings(*, sync_batch_norm: bool) -> dict[str, Any]:
    """MobileNetV2 on digits."""
    from configs import loading

    changed = (
        f"input.image_size={IMAGE_SIZE}",
        "input.cache=decoded",
        "model.width=None",
        f"model.sync_batch_norm={sync_batch_norm}",
        "validation_split=none",
        f"global_batch={BATCH}",
    )
    return dataclasses.asdict(
        loading.read("configs/digits_mobilenetv2.py", [f"--config.{change}" for change in changed])
    )


def main(data: str, *, sync_batch_norm: bool) -> dict[str, float]:
    """Seconds and CPU-seconds of this process a step; bytes of one all-reduce of all gradients."""
    import tensorflow as tf

    from pipeline import manifest as manifest_lib
    from trainer import learner, strategies, train

    cluster = strategies.connect("multi_worker" if "TF_CONFIG" in os.environ else "one")
    manifest, config = manifest_lib.load(data), settings(sync_batch_norm=sync_batch_norm)
    parts = learner.build(manifest=manifest, cluster=cluster, settings=config, load_weights=True)
    train_step, deal = train._compile(parts.net, config, cluster, parts), strategies.distributor(cluster)
    batches, waited = iter(learner.batches(data, manifest, config, cluster)), 0.0

    def step() -> None:
        nonlocal waited
        began = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - began
        train_step([deal(batch)], [0.01]).numpy()

    shapes = [variable.shape for variable in parts.net.trainable_variables]

    @tf.function(autograph=False)
    def reduced() -> Any:
        def replica() -> Any:
            own = [tf.random.stateless_uniform(shape, [1, 2]) for shape in shapes]
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, own)

        return cluster.strategy.run(replica)

    @tf.function(autograph=False)
    def drawn() -> Any:
        return cluster.strategy.run(lambda: [tf.random.stateless_uniform(shape, [1, 2]) for shape in shapes])

    for _ in range(WARM_STEPS):
        step()
    waited = 0.0
    step_s, step_cpu_s = _timed(step)
    found = {"step_s": step_s, "step_cpu_s": step_cpu_s, "input_s": waited / STEPS}
    reduced(), drawn()
    found["all_reduce_s"] = _timed(reduced)[0] - _timed(drawn)[0]
    found["gradient_bytes"] = 4.0 * sum(shape.num_elements() for shape in map(tf.TensorShape, shapes))
    return found


def _timed(action: Callable[[], Any]) -> tuple[float, float]:
    """(seconds, CPU-seconds) of one call, the mean of `STEPS`."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(STEPS):
        action()
    return (time.perf_counter() - wall) / STEPS, (time.process_time() - cpu) / STEPS


if __name__ == "__main__":
    if "TF_CONFIG" in os.environ:  # before TensorFlow counts cores
        os.sched_setaffinity(0, {json.loads(os.environ["TF_CONFIG"])["task"]["index"]})
    else:
        os.sched_setaffinity(0, {0, 1})
    print(json.dumps(main(sys.argv[1], sync_batch_norm=sys.argv[2] == "sync")))
