"""A model in; an exponential moving average of its weights out, to be evaluated in their place."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

_Change = Callable[[tf.Variable, tf.Variable], None]  # of an average and what it follows, both on one device


class Ema(tf.Module):  # type: ignore[misc]  # TensorFlow ships no types
    """average += (1 - d) * (weight - average) after each step, with d = min(decay, (1 + n) / (10 + n)), n steps before.

    The second term, as `tf.train.ExponentialMovingAverage` describes it, lets a short run's average forget where it
    began: after 100 steps at a fixed 0.9999 it would still be the initial weights to 99 %.

    It follows every variable of floating point, frozen ones and batch norm's moving statistics among them: averaged
    weights with the statistics of others normalise wrongly, and EfficientNet's authors average both
    (https://arxiv.org/abs/1905.11946). Of what doesn't move, the average is that value to the last bit, so that
    weights which a later phase frees were followed all along. A step that float16's loss scaling skips counts as one.

    To be made in the strategy's scope, after weights were loaded. It holds one float32 copy of the model, tracked by
    `tf.train.Checkpoint` with the number of steps. Replicas move statistics of their own, and so are their averages:
    `agree` is due before one of them is evaluated or saved for all.
    """

    def __init__(self, net: keras.Model, decay: float) -> None:
        """Args: decay: in (0, 1); 0.9999 forgets in about 10,000 steps."""
        super().__init__(name="ema")
        if not 0 < decay < 1:
            raise ValueError(f"decay={decay}: expected more than 0 and less than 1")
        followed = [variable for variable in net.variables if tf.as_dtype(variable.dtype).is_floating]
        self.averages = [
            tf.Variable(variable.value, trainable=False, name=f"average/{variable.path}") for variable in followed
        ]
        self.steps = tf.Variable(
            0, dtype=tf.int64, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA, name="steps"
        )
        self._share = 1 - decay  # in Python's doubles: of 1 - 0.9999 float32 keeps four digits
        self._strategy = tf.distribute.get_strategy()
        pairs = list(zip(self.averages, (variable.value for variable in followed), strict=True))
        # A closure, because an attribute would put the model's own weights into the checkpoint under a second name.
        self._pairs: Callable[[], list[tuple[tf.Variable, tf.Variable]]] = lambda: pairs
        apart = [average for average, variable in zip(self.averages, followed, strict=True) if not variable.trainable]
        self._apart: Callable[[], list[tf.Variable]] = lambda: apart

    def update(self) -> None:
        """Moves the average to where the weights are now; in the compiled step, in cross-replica context."""
        # 1 - (1 + n) / (10 + n) is 9 / (10 + n).
        share = tf.maximum(self._share, 9.0 / (10.0 + tf.cast(self.steps, tf.float32)))

        def move(average: tf.Variable, weight: tf.Variable) -> None:
            average.assign_add((weight - average) * tf.cast(share, average.dtype))

        self._for_each_pair(move)
        self.steps.assign_add(1)

    @tf.function
    def swap(self) -> None:
        """Exchanges averages and weights; a second time puts everything back to the last bit."""

        def exchange(average: tf.Variable, weight: tf.Variable) -> None:
            held = tf.identity(weight)
            weight.assign(average)
            average.assign(held)

        def replica_swap() -> None:  # where TPUs compile it
            tf.distribute.get_replica_context().merge_call(lambda _: self._for_each_pair(exchange))

        self._strategy.run(replica_swap)

    @tf.function
    def agree(self) -> None:
        """Replaces each replica's averages of moving statistics by their mean over all replicas.

        As good as having averaged the replicas' mean in each step, because all of it is linear, and needs no
        communication there.
        """
        if self._strategy.num_replicas_in_sync == 1 or not self._apart():
            return

        def take(average: tf.Variable, mean: tf.Tensor) -> None:
            average.assign(mean)

        def take_all(strategy: tf.distribute.Strategy, means: list[tf.Tensor]) -> None:
            for average, mean in zip(self._apart(), means, strict=True):
                strategy.extended.update(average, take, args=(mean,), group=False)

        def replica_agree() -> None:
            context = tf.distribute.get_replica_context()
            own = [tf.identity(average) for average in self._apart()]  # as tensors: a variable is a destination too
            context.merge_call(take_all, args=(context.all_reduce(tf.distribute.ReduceOp.MEAN, own),))

        self._strategy.run(replica_agree)

    def _for_each_pair(self, change: _Change) -> None:
        for average, weight in self._pairs():
            self._strategy.extended.update(average, change, args=(weight,), group=False)
