"""A dataset and an experiment's settings in; whether the model can learn one batch by heart out. It keeps nothing.

A model that can't has a fault or a learning rate that no data will mend, and here that takes a minute to find. What
stands between a model and its training data is off: augmentation, dropout, stochastic depth, label smoothing, weight
decay. A Recipe for Training Neural Networks, section 2 (https://karpathy.github.io/2019/04/25/recipe/).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from pipeline import manifest as manifest_lib
from trainer import learner, probe, strategies
from trainer.strategies import Cluster

STEPS = 200
EVERY_STEPS = 20


class Outcome(NamedTuple):
    step: int
    loss: float
    accuracy: float  # of the batch, in training mode: moving statistics need more steps than these to arrive

    @property
    def learned(self) -> bool:
        """Every example is told right. Not a bound on the loss, whose size depends on its kind and its weights."""
        return self.accuracy == 1 and math.isfinite(self.loss)


def run(*, data: str, settings: Mapping[str, Any], strategy: str, steps: int = STEPS) -> int:
    """Trains as the first phase does, at its peak rate, on the first batch again and again; prints how it goes.

    Args:
      data: the dataset's folder.
      settings: fields of `configs.schema.Config`.
      strategy: see `strategies.connect`.

    Returns:
      The exit status: 0 where every example was learned within `steps`, else 1.

    Raises:
      InputError: where data, settings and cluster don't go together.
    """
    manifest = manifest_lib.load(data)
    manifest_lib.verify(data, manifest, [settings["train_split"]])
    cluster = strategies.connect(strategy)
    phase = settings["phases"][0]
    learning_rate = settings["optimizer"]["peak_lr"] * phase["lr_scale"]
    plain = without_regularisation(settings)
    probed = probe.build(manifest, cluster, plain, phase, load_weights=True)
    batches = learner.batches(data, manifest, plain, cluster)
    batch = strategies.distributor(cluster)(next(iter(batches)))
    batches.close()
    accuracy = _make_accuracy(cluster, probed, settings["global_batch"])

    outcome = Outcome(0, math.nan, 0.0)
    for step in range(1, steps + 1):
        loss = probed.step(batch, learning_rate)
        if step % EVERY_STEPS == 0 or step == steps:
            outcome = Outcome(step, float(loss), accuracy(batch))
            if cluster.is_chief:
                print(f"step {step}: loss {outcome.loss:.4f}, accuracy {outcome.accuracy:.1%}", flush=True)
            if outcome.learned or not math.isfinite(outcome.loss):
                break
    if cluster.is_chief:
        print(describe(outcome, settings["global_batch"], phase["trainable"], learning_rate))
    return 0 if outcome.learned else 1


def without_regularisation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` less what keeps a model from learning its training data by heart, and what weighs some of it less.

    The crop and the mirroring stay: a batch that is drawn once keeps the ones it got. So does the MLP head's L2.
    """
    model = dict(settings["model"], dropout=0.0)
    if model["backbone"].startswith("efficientnet"):  # the only ones with stochastic depth
        model["drop_path"] = 0.0
    return {
        **settings,
        "augment": {},
        "input": dict(settings["input"], cache="none", sampling="none"),  # one batch is read, no image of it twice
        "model": model,
        "loss": {
            **dict.fromkeys(settings["loss"]),  # of other kinds there is nothing to set
            "kind": "cross_entropy",
            "label_smoothing": 0.0,
            "class_weights": "none",
            "given_weights": (),
        },
        "optimizer": dict(settings["optimizer"], weight_decay=0.0),
    }


def describe(outcome: Outcome, global_batch: int, trainable: str, learning_rate: float) -> str:
    """The last line: what it means, and what to try where it failed."""
    if outcome.learned:
        return f"learned the {global_batch} examples of one batch by step {outcome.step}: model, loss and rate work"
    failed = f"did not learn the {global_batch} examples of one batch in {outcome.step} steps"
    if not math.isfinite(outcome.loss):
        return f"{failed}, the loss became {outcome.loss}: lower optimizer.peak_lr (it was {learning_rate:g} here)"
    frozen = "" if trainable == "all" else f", train more than phases[0].trainable={trainable!r}"
    return (
        f"{failed}: try another optimizer.peak_lr (it was {learning_rate:g} here; `python -m trainer find_lr` suggests "
        f"one){frozen}, and look for the same image under two classes"
    )


def _make_accuracy(cluster: Cluster, probed: probe.Probe, global_batch: int) -> Any:
    """Compiles a batch, as dealt out, to the share of its examples whose largest logit is the label's."""

    def replica_step(images: tf.Tensor, labels: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
        right = tf.equal(tf.argmax(probed.net(images, training=True), axis=-1), labels)
        return tf.reduce_sum(tf.cast(right, tf.int64))

    @tf.function
    def count(batch: Any) -> tf.Tensor:
        return cluster.strategy.reduce(
            tf.distribute.ReduceOp.SUM, cluster.strategy.run(replica_step, args=tuple(batch)), axis=None
        )

    return lambda batch: int(count(batch)) / global_batch
