"""What a TPU would get: the very step of training, traced for TPU cores that are not there, and compiled by XLA."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.augmentations.augment import Augment
from pipeline.errors import InputError
from tests.trainer.replicas import IMAGES, LABELS, PLACES, build_optimizer, cluster, network, tpu_cluster
from trainer import ema, loss, step, strategies, tpu

STEPS = 2
JPEG = tf.io.encode_jpeg(tf.zeros([32, 32, 3], tf.uint8)).numpy()
# What tells, in HLO's text, that a size is found while it runs, or that the host or a library is called.
HOST_OR_DYNAMIC = ("<=", " custom-call(", " infeed(", " outfeed(", " send(", " recv(", "f64[")
IDENTITY = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
Change = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def _train_step(at: strategies.Cluster, *, name: str = "sgd", **settings: Any) -> Callable[..., Any]:
    """In bfloat16, with dropout, synchronised batch norm, averaged weights, clipping, and a loop over steps."""
    with at.strategy.scope():
        net = network("mixed_bfloat16", dropout=0.3, synchronized=True)
        opt = build_optimizer(net, name=name, weight_decay=0.0 if name == "adam" else 0.01)
        return step.make_train_step(
            at.strategy,
            net,
            opt,
            loss.cross_entropy,
            global_batch=8,
            clip_norm=1.0,
            ema=ema.Ema(net, 0.9),
            steps_per_call=STEPS,
            seed=7,
            **settings,
        )


def _whole_step(at: strategies.Cluster) -> Callable[..., Any]:
    """With all the rest that a config can ask for: a policy in the step, and parts that follow each other."""
    augment = functools.partial(Augment(policy="randaugment", where="step").batch, seed=7)
    return _train_step(at, name="lamb", augment=augment, accumulation=2)


def _batches(at: strategies.Cluster) -> tuple[list[Any], tf.Tensor]:
    batch = strategies.distributor(at)([tf.constant(IMAGES), tf.constant(LABELS), tf.constant(PLACES)])
    return [batch] * STEPS, tf.fill([STEPS], 0.1)


def _evaluate_step(at: strategies.Cluster) -> Any:
    with at.strategy.scope():
        return step.make_evaluate_step(at.strategy, network("mixed_bfloat16"), num_classes=3, top_k=2)


def _evaluated(batch: int | None) -> list[tf.TensorSpec]:
    return [
        tf.TensorSpec([batch, 32, 32, 3], tf.uint8),
        tf.TensorSpec([batch], tf.int64),
        tf.TensorSpec([batch], tf.bool),
    ]


def _assert_xla_takes(function: Callable[..., Any], *arguments: Any) -> None:
    compiled = tf.function(function, jit_compile=True, autograph=False)
    text = compiled.experimental_get_compiler_ir(*arguments)(stage="hlo")
    assert "ROOT" in text
    assert not [line for line in text.splitlines() if any(mark in line for mark in HOST_OR_DYNAMIC)]


def _called(graph: tf.Graph, name: str) -> tf.Graph:
    """Of a function that `graph` calls."""
    [operation] = [operation for operation in graph.get_operations() if name in operation.name]
    return graph._get_function(operation.get_attr("f").name).graph


def test_all_steps_of_a_call_are_one_computation_that_a_tpu_takes() -> None:
    """Tracing refuses what it can't take, see below. Gradients and batch norm's sums pass between the cores."""
    at = tpu_cluster(2)
    graph = tf.function(_whole_step(at), autograph=False).get_concrete_function(*_batches(at)).graph
    call = [operation for operation in graph.get_operations() if operation.type == "StatefulPartitionedCall"][-1]
    operations = graph._get_function(call.get_attr("f").name).graph.get_operations()
    assert [operation.type for operation in operations].count("TPUReplicateMetadata") == 1
    [loop] = [operation for operation in operations if operation.type == "While"]
    assert "_tpu_replicate" in loop.node_def.attr
    types = [operation.type for operation in tpu._operations(graph)]
    assert types.count("CrossReplicaSum") > 2 * 3 * 2  # three sums of two batch norms, there and back
    assert "Conv2DBackpropFilter" in types


def test_xla_compiles_the_whole_step_in_static_shapes() -> None:
    at = cluster(1)
    train_step = _whole_step(at)
    _assert_xla_takes(train_step, *_batches(at))
    tpu.check_graph(tf.function(train_step, autograph=False).get_concrete_function(*_batches(at)).graph)


@pytest.mark.parametrize(
    "name", ["adamw", "rmsprop", *(pytest.param(name, marks=pytest.mark.soak) for name in ("sgd", "adam"))]
)
def test_xla_compiles_every_other_optimizer(name: str) -> None:
    at = cluster(1)
    _assert_xla_takes(_train_step(at, name=name), *_batches(at))


def test_evaluation_averages_and_moving_statistics_are_what_a_tpu_takes() -> None:
    at = tpu_cluster(2)
    batch = [tf.constant(IMAGES), tf.constant(LABELS), tf.constant(np.ones(8, bool))]
    _evaluate_step(at).get_concrete_function(strategies.distributor(at)(batch))
    with at.strategy.scope():
        net = network()
        average = ema.Ema(net, 0.9)
    for function in (average.swap, average.agree, step.make_average_moving_statistics(at.strategy, net)):
        graph = function.get_concrete_function().graph
        tpu.check_graph(graph)
        assert "AssignVariableOp" in [operation.type for operation in tpu._operations(graph)]  # there, not on the host
    _assert_xla_takes(_evaluate_step(cluster(1)), batch)


def _boolean_mask(images: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    return tf.boolean_mask(images, places >= 0)


def _unique(images: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    return tf.gather(images, tf.unique(places)[1])


def _py_function(images: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.py_function(lambda own: own, [images], tf.uint8), images.shape)


def _decode_jpeg(images: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    return images + tf.ensure_shape(tf.io.decode_jpeg(JPEG), [32, 32, 3])


def _float64(images: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.cast(images, tf.float64) / 2, tf.uint8)


def _projective(images: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=[IDENTITY],
        output_shape=[32, 32],
        fill_value=0.0,
        interpolation="NEAREST",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_boolean_mask, r"Where \(.*\) gives the shape \(None, 1\)"),
        (_unique, r"Unique \(.*\) gives the shape \(None,\)"),
        (_py_function, r"EagerPyFunc \(.*\) can't be compiled for TPUs"),
        (_decode_jpeg, r"DecodeJpeg \(.*\) can't be compiled for TPUs"),
        (_float64, r"Cast \(.*\) gives float64, TPUs have no such unit"),
        (_projective, r"ImageProjectiveTransformV3 \(.*\) can't be compiled for TPUs"),
    ],
)
def test_what_a_tpu_cannot_take_is_refused_by_its_name(change: Change, message: str) -> None:
    at = tpu_cluster(2)
    train_step = _train_step(at, augment=change)
    with pytest.raises(InputError, match=f"^--strategy=tpu: {message}") as caught:
        tf.function(train_step, autograph=False).get_concrete_function(*_batches(at))
    assert "\n" not in str(caught.value)


def test_a_batch_of_open_size_is_refused() -> None:
    at = tpu_cluster(1)
    with pytest.raises(
        InputError, match=r"^--strategy=tpu: Identity \(replicated_input_\d\) gives the shape \(None, 32, 32, 3\)"
    ):
        _evaluate_step(at).get_concrete_function(_evaluated(None))
    _evaluate_step(at).get_concrete_function(_evaluated(4))
    images, labels, _ = _evaluated(None)
    batch = [images, labels, labels]
    with pytest.raises(ValueError, match="a replica got None of global_batch=8"):
        tf.function(_train_step(at), autograph=False).get_concrete_function([batch] * STEPS, tf.TensorSpec([STEPS]))


def test_a_slice_of_several_hosts_is_refused() -> None:
    tpu.check_hosts({})
    tpu.check_hosts({"TPU_WORKER_HOSTNAMES": "localhost"})
    with pytest.raises(InputError, match="a slice of 2 hosts; --strategy=tpu is for the chips of one host"):
        tpu.check_hosts({"TPU_WORKER_HOSTNAMES": "t1k-0.svc,t1k-1.svc"})


def test_settings_for_a_tpu(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="precision='mixed_float16': TPUs compute in bfloat16; use mixed_bfloat16"):
        tpu.check_settings(precision="mixed_float16", steps_per_call=20)
    with caplog.at_level(logging.WARNING):
        tpu.check_settings(precision="mixed_bfloat16", steps_per_call=20)
        assert not caplog.messages
        tpu.check_settings(precision="float32", steps_per_call=1)
    assert "steps_per_call=1: a TPU waits for its host after every step" in caplog.text
