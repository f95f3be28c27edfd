"""Sums in one order: what TensorFlow does with them, and what deterministic mode makes of it."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf

from pipeline.errors import InputError
from tests.trainer import replicas
from trainer import batch_norm, determinism, loss, step

REPOSITORY = pathlib.Path(__file__).parents[2]
# The same three numbers are added, while somebody else still reads two of them and while nobody does. Settings hold for
# a whole process, hence one of its own.
CHAIN = """
import sys
import numpy as np
import tensorflow as tf
from trainer import determinism

determinism.set_up(deterministic=sys.argv[1] == "True")
parts = [tf.constant(np.random.default_rng(seed).normal(size=10_000), tf.float32) for seed in range(3)]

@tf.function
def alone(x, y, z):
    x, y, z = x * 1.5, y * 1.5, z * 1.5
    return (x + y) + z

@tf.function
def beside(x, y, z):
    x, y, z = x * 1.5, y * 1.5, z * 1.5
    return (x + y) + z, x, y

print(int(np.sum(alone(*parts).numpy() != beside(*parts)[0].numpy())))
"""


@pytest.mark.parametrize("deterministic", [False, True])
def test_who_else_reads_the_parts_changes_a_sum_only_without_it(deterministic: bool) -> None:
    command = [sys.executable, "-c", CHAIN, str(deterministic)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert (int(result.stdout) == 0) == deterministic


@pytest.mark.parametrize("parts", [2, 3])
def test_a_sum_of_three_is_refused_and_one_of_two_is_not(parts: int) -> None:
    @tf.function(autograph=False)
    def total(x: tf.Tensor) -> tf.Tensor:
        summed = tf.add_n([x] * parts)
        determinism.check_sums()
        return summed

    if parts == 2:
        assert total(tf.constant(1.5)) == 3
    else:
        with pytest.raises(InputError, match="deterministic=True: TensorFlow adds the 3 inputs of AddN"):
            total(tf.constant(1.5))


@pytest.mark.parametrize("accumulation", [1, 2])  # parts of a batch have a graph of their own
def test_a_step_refuses_synchronised_batch_norm_and_takes_the_fused_one(accumulation: int) -> None:
    cluster = replicas.cluster(1)
    batch = [tf.constant(values) for values in (replicas.IMAGES, replicas.LABELS, replicas.PLACES)]
    for synchronized in (True, False):
        with cluster.strategy.scope():
            net = replicas.network(synchronized=synchronized)
            opt = replicas.build_optimizer(net)
        if not synchronized:
            batch_norm.fuse(net)
        train_step = step.make_train_step(
            cluster.strategy,
            net,
            opt,
            loss.cross_entropy,
            global_batch=8,
            accumulation=accumulation,
            clip_norm=1.0,
            deterministic=True,
        )
        if synchronized:
            with pytest.raises(InputError, match=r"in no fixed order; model\.sync_batch_norm=True has such sums"):
                train_step([batch], [0.1])
        else:
            assert train_step([batch], [0.1]).shape == [1]
