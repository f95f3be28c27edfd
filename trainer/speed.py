"""Waits and steps in, rates out: examples per second, the share spent waiting for input, and how busy the device is."""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
import tensorflow as tf


class Peak(NamedTuple):
    """What one device multiplies and adds at most per second, in TFLOP/s, dense (without 2:4 sparsity)."""

    float32: float
    tensor_float32: float  # float32 as TensorFlow multiplies it on tensor cores unless told not to; equal where none
    mixed_float16: float
    mixed_bfloat16: float


# By the device's name, the first that matches. NVIDIA's datasheets (those of H100, H200 and L4 quote twice the dense
# tensor rate): https://www.nvidia.com/en-us/data-center/h200/, /h100/, /a100/, /v100/, /tesla-t4/, /l4/.
# V100 and T4 have no bfloat16: it runs at float32's rate at best. TPUs per TensorCore, which is what TensorFlow calls a
# replica (a v4 chip has two, a v5e chip one); they multiply float32 in bfloat16, and have no float16:
# https://cloud.google.com/tpu/docs/v4, https://cloud.google.com/tpu/docs/v5e
_PEAKS = (
    (r"\bH[12]00 NVL\b", Peak(60.0, 417.5, 835.5, 835.5)),
    (r"\bH100 PCIe\b", Peak(51.2, 378.0, 756.0, 756.0)),
    (r"\bH[12]00\b", Peak(66.9, 494.7, 989.4, 989.4)),
    (r"\bA100\b", Peak(19.5, 156.0, 312.0, 312.0)),
    (r"\bV100\b.*\bPCIE\b", Peak(14.0, 14.0, 112.0, 14.0)),
    (r"\bV100\b", Peak(15.7, 15.7, 125.0, 15.7)),
    (r"\bT4\b", Peak(8.1, 8.1, 65.0, 8.1)),
    (r"\bL4\b", Peak(30.3, 60.0, 121.0, 121.0)),
    (r"^TPU v4\b", Peak(137.5, 137.5, math.nan, 137.5)),
    (r"^TPU v5lite(pod)?\b", Peak(197.0, 197.0, math.nan, 197.0)),
)


def device_name() -> str:
    """What a replica runs on: `NVIDIA H200`; `TPU v5litepod-8`, as TPU_ACCELERATOR_TYPE says, or `TPU`; else `CPU`."""
    if tf.config.list_logical_devices("TPU"):
        return f"TPU {os.environ.get('TPU_ACCELERATOR_TYPE', '')}".strip()
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU"
    name: str = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    return name


def peak_flops_per_s(device: str, precision: str) -> float | None:
    """What one such device can do under `configs.schema.Config.precision`, or None where that isn't known."""
    words = re.sub(r"[-_]", " ", device)
    if "MIG" in words.split():  # a slice of the device, of any size
        return None
    for pattern, peak in _PEAKS:
        if re.search(pattern, words):
            tensor_float32 = precision == "float32" and tf.config.experimental.tensor_float_32_execution_enabled()
            value: float = getattr(peak, "tensor_float32" if tensor_float32 else precision)
            return None if math.isnan(value) else value * 1e12
    return None


def forward_flops(model: keras.Model) -> float:
    """Operations of one image's way through `model`; a multiplication and an addition are two.

    Counted are convolutions and dense layers, 96 to 99.9 % of what TensorFlow's own profiler finds in our backbones.
    """
    return float(sum(flops for _, flops in _layers(model)))


def training_flops(model: keras.Model) -> float:
    """Operations of one image's forward and backward pass, with what `model` has trainable now.

    A layer multiplies as often again for the gradient of its weights, where they train, and once more for the gradient
    of its input, where something before it trains.
    """
    total, trains_before = 0.0, False
    for layer, flops in _layers(model):
        trains = bool(layer.trainable_variables)
        total += flops * (1 + trains + trains_before)
        trains_before = trains_before or trains
    return total


def _layers(model: keras.Model) -> Iterator[tuple[keras.layers.Layer, float]]:
    """(layer, operations per image) from the input on, without those that count for nothing."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            yield layer, 2.0 * math.prod(layer.kernel.shape[:2]) * math.prod(layer.output.shape[1:])
        elif isinstance(layer, keras.layers.Conv2D):  # its kernel's third size is a group's part of the input
            yield layer, 2.0 * math.prod(layer.kernel.shape[:3]) * math.prod(layer.output.shape[1:])
        elif isinstance(layer, keras.layers.Dense):
            yield layer, 2.0 * math.prod(layer.kernel.shape)
        elif layer.trainable_variables:  # batch norm: nothing to multiply, but what comes after it needs gradients
            yield layer, 0.0


class Speed:
    """Measures the loop between two logs.

    The clock of such an interval starts when the first batch after a log is asked for: what the loop does after a log,
    an evaluation or a checkpoint, is no part of training speed.
    """

    def __init__(
        self,
        *,
        global_batch: int,
        peak_flops_per_s: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Args: peak_flops_per_s: of all replicas together, None where unknown; clock: seconds from any start."""
        self._global_batch = global_batch
        self._peak = peak_flops_per_s
        self._clock = clock
        self._flops_per_example: float | None = None
        self._since: float | None = None
        self._wait_s = 0.0
        self._steps = 0
        self._ceiling = 0.0

    def enter_phase(self, flops_per_example: float | None) -> None:
        """Other layers train from here on: what one example costs changes, and so does the ceiling."""
        self._flops_per_example, self._ceiling = flops_per_example, 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts what the host waits; of a GPU, which works behind the host's back, that is an upper bound."""
        start = self._clock()
        if self._since is None:
            self._since = start
        yield
        self._wait_s += self._clock() - start

    def stepped(self, steps: int) -> None:
        self._steps += steps

    def take(self) -> dict[str, float]:
        """The rates since the last call, after the device has finished; nothing where no step was taken.

        Returns:
          speed/examples_per_s; speed/input_wait_share, in [0, 1]; and, as a share of what would be possible, one of
          speed/mfu: of the device's peak, by the model's own operations (https://arxiv.org/abs/2204.02311, appendix B),
          where that peak is known; else
          speed/share_of_ceiling: of the fastest that the step was between two logs of this phase since the process
          started, with the waits taken out. It tells a run that is held up, not how good the step is.
        """
        if self._since is None or not self._steps:
            return {}
        elapsed_s = max(self._clock() - self._since, 1e-9)
        examples = self._steps * self._global_batch
        rates = {
            "speed/examples_per_s": examples / elapsed_s,
            "speed/input_wait_share": min(1.0, self._wait_s / elapsed_s),
        }
        if self._peak is not None and self._flops_per_example is not None:
            rates["speed/mfu"] = rates["speed/examples_per_s"] * self._flops_per_example / self._peak
        else:
            self._ceiling = max(self._ceiling, examples / max(elapsed_s - self._wait_s, 1e-9))
            rates["speed/share_of_ceiling"] = rates["speed/examples_per_s"] / self._ceiling
        self.restart()
        return rates

    def restart(self) -> None:
        """Forgets the interval that has begun."""
        self._since, self._wait_s, self._steps = None, 0.0, 0
