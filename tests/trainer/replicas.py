"""A number of replicas in, CPU devices that are so many; a network small enough to be trained on them in a test."""

from __future__ import annotations

import functools

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.tpu import tpu_system_metadata  # no public name, and no TPU to ask

from trainer import dropout as dropout_lib
from trainer import optimizer, strategies

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, [8, 32, 32, 3], dtype=np.uint8)
LABELS = RNG.integers(0, 3, 8)
PLACES = np.arange(100, 108)


@functools.cache  # TensorFlow's collectives number their groups per strategy: two over the same devices collide
def cluster(replicas: int) -> strategies.Cluster:
    if replicas == 1:
        return strategies.connect("one")
    # Hence collectives for two only; the sums of four pass through one device.
    over = None if replicas == 2 else tf.distribute.ReductionToOneDevice()
    devices = [f"/cpu:{index}" for index in range(replicas)]
    return strategies.Cluster(tf.distribute.MirroredStrategy(devices, cross_device_ops=over), 0, 1)


class _InventedCores(tf.distribute.cluster_resolver.ClusterResolver):
    """A TPU that is not there."""

    environment = ""

    def __init__(self, cores: int) -> None:
        self._cores = cores

    def get_tpu_system_metadata(self) -> tpu_system_metadata.TPUSystemMetadata:
        names = [f"/job:localhost/replica:0/task:0/device:TPU:{index}" for index in range(self._cores)]
        return tpu_system_metadata.TPUSystemMetadata(
            num_cores=self._cores,
            num_hosts=1,
            num_of_cores_per_host=self._cores,
            topology=None,
            devices=tuple(tf.config.LogicalDevice(name, "TPU") for name in names),
        )

    def cluster_spec(self) -> tf.train.ClusterSpec:
        return tf.train.ClusterSpec({})

    def master(self, *arguments: object, **keywords: object) -> str:
        return ""

    def num_accelerators(self, *arguments: object, **keywords: object) -> dict[str, int]:
        return {"TPU": self._cores}


@functools.cache
def tpu_cluster(cores: int) -> strategies.Cluster:
    """TensorFlow's own strategy over so many cores: it traces all as for a real TPU, and can't run it."""
    return strategies.Cluster(tf.distribute.TPUStrategy(_InventedCores(cores)), 0, 1)


def network(
    dtype: str = "float32", *, l2: float = 0.0, dropout: float = 0.0, synchronized: bool = False
) -> keras.Model:
    """Images to three logits, with batch norm in a layer `backbone` and another one in the head."""
    keras.utils.set_random_seed(0)
    images = keras.Input([32, 32, 3], dtype="uint8")
    x = keras.layers.Rescaling(1 / 255, dtype=dtype)(images)
    inner = keras.Input([32, 32, 3])
    y = keras.layers.Conv2D(8, 3, strides=16, activation="relu", dtype=dtype)(inner)
    y = keras.layers.BatchNormalization(dtype=dtype, momentum=0.5, synchronized=synchronized)(y)
    x = keras.Model(inner, y, name="backbone")(x)
    x = keras.layers.GlobalAveragePooling2D(dtype=dtype)(x)
    x = keras.layers.BatchNormalization(dtype=dtype, synchronized=synchronized, name="head_norm")(x)
    x = keras.layers.Dropout(dropout, seed=1)(x)
    regularizer = keras.regularizers.L2(l2) if l2 else None
    net = keras.Model(images, keras.layers.Dense(3, dtype="float32", kernel_regularizer=regularizer)(x))
    dropout_lib.place(net)
    return net


def norms(net: keras.Model) -> list[keras.layers.Layer]:
    return [net.get_layer("backbone").layers[-1], net.get_layer("head_norm")]


def freeze_batch_norm(net: keras.Model) -> keras.Model:
    """Without it replicas rightly differ, since each normalises over its own examples."""
    for layer in norms(net):
        layer.trainable = False
    return net


def build_optimizer(net: keras.Model, **settings: object) -> keras.optimizers.Optimizer:
    """SGD with the usual momentum, in float32, but for `settings`."""
    defaults = {"name": "sgd", "momentum": None, "weight_decay": 0.0, "layer_decay": None, "precision": "float32"}
    return optimizer.build(net, **{**defaults, **settings})
