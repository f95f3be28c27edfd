"""Settings and one of their phases in; the model and its compiled step out, for commands that keep nothing of a run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from pipeline import training
from pipeline.augmentations.augment import Augment
from pipeline.manifest import Manifest
from trainer import learner, model, strategies
from trainer import step as step_lib
from trainer.strategies import Cluster


class Probe(NamedTuple):
    net: keras.Model
    # (images, labels, places) as dealt out and a learning rate, to the mean loss over the global batch.
    step: Callable[[Sequence[tf.Tensor], float], tf.Tensor]


def build(
    manifest: Manifest, cluster: Cluster, settings: Mapping[str, Any], phase: Mapping[str, Any], *, load_weights: bool
) -> Probe:
    """Builds what `settings` (fields of `configs.schema.Config`) describe, training what `phase` trains.

    Args:
      load_weights: False leaves `model.weights` unread, where only speed and memory matter.

    Raises:
      InputError: where the parts don't fit each other, the dataset or the cluster.
    """
    strategies.check_precision(cluster, settings["precision"])
    training.check_batch(settings["global_batch"], num_replicas=cluster.strategy.num_replicas_in_sync)
    parts = learner.build(manifest=manifest, cluster=cluster, settings=settings, load_weights=load_weights)
    model.set_trainable(parts.net, trainable=phase["trainable"], freeze_batch_norm=phase["freeze_batch_norm"])
    augmentation = Augment(**settings["augment"])
    step = step_lib.make_train_step(
        cluster.strategy,
        parts.net,
        parts.optimizer,
        parts.loss_fn,
        global_batch=settings["global_batch"],
        augment=functools.partial(augmentation.batch, seed=settings["seed"]) if augmentation.in_step else None,
        accumulation=settings["optimizer"]["accumulation"],
        clip_norm=settings["optimizer"]["clip_norm"],
        ema=parts.ema,
        xla=settings["xla"],
        seed=settings["seed"],
    )

    def one(batch: Sequence[tf.Tensor], learning_rate: float) -> tf.Tensor:
        return step([batch], tf.constant([learning_rate]))[0]

    return Probe(parts.net, one)
