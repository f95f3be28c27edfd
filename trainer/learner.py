"""An experiment's settings in; what learns (model, optimizer, average, loss) and what it learns from (batches) out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import keras

from pipeline import manifest as manifest_lib
from pipeline import training
from pipeline.augmentations.augment import Augment
from pipeline.batches import Batches
from trainer import ema as ema_lib
from trainer import loss as loss_lib
from trainer import model as model_lib
from trainer import optimizer as optimizer_lib
from trainer import step as step_lib
from trainer.strategies import Cluster

# Of the optimizer's settings, those that the step and the schedule follow.
_OF_THE_STEP = ("peak_lr", "clip_norm", "accumulation", "ema")


class Learner(NamedTuple):
    net: keras.Model
    optimizer: keras.optimizers.Optimizer
    ema: ema_lib.Ema | None  # the averaged weights, where settings ask for them
    loss_fn: loss_lib.LossFn

    @property
    def content(self) -> dict[str, Any]:
        """Everything that a checkpoint has to hold for training to go on as if it had never stopped."""
        content = {"model": self.net, "optimizer": self.optimizer}
        return content if self.ema is None else {**content, "ema": self.ema}

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The model has its averaged weights, where they are kept, while the block runs."""
        if self.ema is None:
            yield
            return
        self.ema.swap()
        try:
            yield
        finally:
            self.ema.swap()


def build(
    *, manifest: manifest_lib.Manifest, cluster: Cluster, settings: Mapping[str, Any], load_weights: bool
) -> Learner:
    """Builds all that `settings` (the fields of `configs.schema.Config`) describe, in the strategy's scope.

    Args:
      load_weights: False where a checkpoint will overwrite them.

    Raises:
      InputError: where the parts don't fit each other or the dataset.
    """
    counts = manifest.class_counts(settings["train_split"])
    loss_fn = loss_lib.make(counts=counts, classes=manifest.classes, **settings["loss"])
    # Dropout and initialisation draw from here.
    keras.utils.set_random_seed(settings["seed"])
    keras.mixed_precision.set_global_policy(settings["precision"])
    with cluster.strategy.scope():
        net = model_lib.build(
            num_classes=len(manifest.classes),
            classes=manifest.classes,
            image_size=settings["input"]["image_size"],
            load_weights=load_weights,
            **settings["model"],
        )
        rule = {name: value for name, value in settings["optimizer"].items() if name not in _OF_THE_STEP}
        optimizer = optimizer_lib.build(net, precision=settings["precision"], **rule)
        decay = settings["optimizer"]["ema"]
        ema = None if decay is None else ema_lib.Ema(net, decay)
    return Learner(net, optimizer, ema, loss_fn)


def make_settle(cluster: Cluster, learner: Learner) -> Callable[[], None]:
    """Makes all replicas agree about what each moved by itself; due before weights are evaluated or saved."""
    average_moving_statistics = step_lib.make_average_moving_statistics(cluster.strategy, learner.net)

    def settle() -> None:
        average_moving_statistics()
        if learner.ema is not None:
            learner.ema.agree()

    return settle


def input_of(settings: Mapping[str, Any], cluster: Cluster) -> dict[str, Any]:
    """The keywords of `pipeline.training.batches` that settings and this worker's place among all of them decide."""
    return {
        "split": settings["train_split"],
        "seed": settings["seed"],
        "global_batch": settings["global_batch"],
        "worker": cluster.worker,
        "num_workers": cluster.num_workers,
        "augment": Augment(**settings["augment"]),
        **{name: value for name, value in settings["input"].items() if name != "crop_fraction"},
    }


def batches(
    data: str, manifest: manifest_lib.Manifest, settings: Mapping[str, Any], cluster: Cluster, *, start_step: int = 0
) -> Batches:
    """This worker's part of each global batch, from `start_step` on; see `pipeline.training.batches`."""
    return training.batches(data, manifest, start_step=start_step, **input_of(settings, cluster))
