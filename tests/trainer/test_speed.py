"""Operations against papers, TensorFlow's profiler and arithmetic; rates against a clock that is set by hand."""

from __future__ import annotations

from typing import Any

import keras
import pytest
import tensorflow as tf

from trainer import speed


@pytest.mark.parametrize(
    ("application", "multiply_adds"),
    [
        (keras.applications.MobileNetV2, 300e6),  # https://arxiv.org/abs/1801.04381, table 4
        (keras.applications.EfficientNetB0, 0.39e9),  # https://arxiv.org/abs/1905.11946, table 2
    ],
)
def test_operations_are_those_of_the_papers(application: Any, multiply_adds: float) -> None:
    assert speed.forward_flops(application(weights=None)) == pytest.approx(2 * multiply_adds, rel=0.015)


def test_operations_are_those_that_tensorflow_counts() -> None:
    """Exactly so for what multiplies; all the rest is less than a tenth."""
    backbone = keras.applications.MobileNetV2(alpha=0.35, weights=None, input_shape=(96, 96, 3), classes=10)
    network = keras.Sequential([keras.Input([96, 96, 3]), backbone])
    forward = tf.function(lambda images: network(images, training=False))
    graph = forward.get_concrete_function(tf.TensorSpec([1, 96, 96, 3])).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    found = tf.compat.v1.profiler.profile(graph=graph, run_meta=tf.compat.v1.RunMetadata(), cmd="op", options=options)
    counted: dict[str, int] = {}
    waiting = [found]
    while waiting:
        node = waiting.pop()
        counted[node.name] = node.float_ops
        waiting.extend(node.children)
    multiplying = sum(counted.get(name, 0) for name in ("Conv2D", "DepthwiseConv2dNative", "MatMul"))
    assert speed.forward_flops(network) == multiplying
    assert 0.9 * found.total_float_ops < multiplying


def test_frozen_layers_need_no_gradients_of_their_weights() -> None:
    features = keras.Sequential(
        [
            keras.Input([8, 8, 3]),
            keras.layers.Conv2D(
                4, 3, use_bias=False
            ),  # 6 * 6 * 4 values of 3 * 3 * 3 products: 3,888 of both kinds * 2
            keras.layers.DepthwiseConv2D(3, use_bias=False),  # 4 * 4 * 4 values of 3 * 3: 576 * 2
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    head = keras.layers.Dense(5)  # 20 * 2
    network = keras.Sequential([features, head])
    network.build([None, 8, 8, 3])
    convolution, depthwise, dense = 2 * 3888, 2 * 576, 2 * 20
    assert speed.forward_flops(network) == convolution + depthwise + dense
    # Forward; the weights' gradients; and the inputs' of all but the first.
    assert speed.training_flops(network) == 2 * convolution + 3 * depthwise + 3 * dense
    features.layers[0].trainable = False
    assert speed.training_flops(network) == convolution + 2 * depthwise + 3 * dense
    features.layers[0].trainable, features.layers[1].trainable = True, False
    assert speed.training_flops(network) == 2 * convolution + 2 * depthwise + 3 * dense  # frozen, but on the way
    features.trainable = False
    assert speed.training_flops(network) == convolution + depthwise + 2 * dense


def test_what_comes_after_a_batch_norm_that_trains_needs_gradients() -> None:
    network = keras.Sequential(
        [
            keras.Input([8, 8, 3]),
            keras.layers.Conv2D(4, 1, use_bias=False, trainable=False),  # 8 * 8 * 4 values of 3: 768 * 2
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(2, 1, use_bias=False, trainable=False),  # 8 * 8 * 2 values of 4: 512 * 2
        ]
    )
    assert speed.training_flops(network) == 2 * 768 + 2 * 2 * 512


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _step(measured: speed.Speed, clock: Clock, *, wait_s: float, work_s: float, steps: int = 1) -> None:
    with measured.waiting():
        clock.now_s += wait_s
    clock.now_s += work_s
    measured.stepped(steps)


def test_rates_of_an_interval() -> None:
    clock = Clock()
    measured = speed.Speed(global_batch=32, clock=clock)
    clock.now_s += 60  # building things
    _step(measured, clock, wait_s=1, work_s=3)
    _step(measured, clock, wait_s=0, work_s=4, steps=3)
    rates = measured.take()
    assert rates["speed/examples_per_s"] == pytest.approx(4 * 32 / 8)
    assert rates["speed/input_wait_share"] == pytest.approx(1 / 8)

    clock.now_s += 500  # an evaluation and a checkpoint, which are not training speed
    assert measured.take() == {}
    _step(measured, clock, wait_s=2, work_s=2)
    rates = measured.take()
    assert rates["speed/examples_per_s"] == pytest.approx(8)
    assert rates["speed/input_wait_share"] == pytest.approx(0.5)


def test_without_a_known_peak_the_step_is_compared_with_itself() -> None:
    clock = Clock()
    measured = speed.Speed(global_batch=10, clock=clock)
    _step(measured, clock, wait_s=1, work_s=1)
    assert measured.take()["speed/share_of_ceiling"] == pytest.approx(0.5)  # it could have done 10 examples/s
    _step(measured, clock, wait_s=0, work_s=0.5)
    assert measured.take()["speed/share_of_ceiling"] == pytest.approx(1)
    _step(measured, clock, wait_s=0, work_s=2)
    assert measured.take()["speed/share_of_ceiling"] == pytest.approx(0.25)  # something else holds it up
    measured.enter_phase(None)  # now more layers train: slower is no longer slow
    _step(measured, clock, wait_s=0, work_s=2)
    assert measured.take()["speed/share_of_ceiling"] == pytest.approx(1)


def test_mfu_is_the_models_operations_over_the_devices() -> None:
    clock = Clock()
    measured = speed.Speed(global_batch=1000, peak_flops_per_s=2e12, clock=clock)
    measured.enter_phase(0.9e9)
    _step(measured, clock, wait_s=1, work_s=1)
    rates = measured.take()
    assert rates["speed/mfu"] == pytest.approx(500 * 0.9e9 / 2e12)
    assert "speed/share_of_ceiling" not in rates


@pytest.mark.parametrize(
    ("device", "precision", "tflops"),
    [
        ("NVIDIA H200", "mixed_bfloat16", 989.4),
        ("NVIDIA H100 80GB HBM3", "mixed_float16", 989.4),
        ("NVIDIA H100 80GB HBM3", "float32", 494.7),
        ("NVIDIA H100 PCIe", "mixed_bfloat16", 756),
        ("NVIDIA A100-SXM4-40GB", "mixed_bfloat16", 312),
        ("NVIDIA A100-PCIE-40GB", "float32", 156),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "float32", None),
        ("Tesla V100-SXM2-16GB", "mixed_float16", 125),
        ("Tesla V100-PCIE-16GB", "mixed_float16", 112),
        ("Tesla T4", "mixed_float16", 65),
        ("Tesla T4", "float32", 8.1),
        ("NVIDIA L4", "mixed_bfloat16", 121),
        ("NVIDIA L40S", "mixed_bfloat16", None),
        ("TPU v4-8", "mixed_bfloat16", 137.5),
        ("TPU v5litepod-8", "float32", 197),
        ("TPU v5litepod-8", "mixed_float16", None),
        ("TPU v5p-8", "mixed_bfloat16", None),
        ("TPU", "mixed_bfloat16", None),
        ("CPU", "float32", None),
    ],
)
def test_peaks_are_the_datasheets(device: str, precision: str, tflops: float | None) -> None:
    expected = None if tflops is None else pytest.approx(tflops * 1e12)
    assert speed.peak_flops_per_s(device, precision) == expected


def test_float32_without_tensor_cores_is_slower() -> None:
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        assert speed.peak_flops_per_s("NVIDIA A100-SXM4-40GB", "float32") == pytest.approx(19.5e12)
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(True)


def test_this_machines_device_has_a_name() -> None:
    gpus = tf.config.list_physical_devices("GPU")
    assert (speed.device_name() == "CPU") == (not gpus)
