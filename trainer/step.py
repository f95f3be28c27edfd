"""One global step: a batch per replica in, updated weights and sums over the global batch out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from trainer.loss import LossFn

Augment = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # (images, places) -> images


def make_train_step(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    loss_fn: LossFn,
    *,
    global_batch: int,
    augment: Augment | None = None,
) -> Callable[[Sequence[tf.Tensor], tf.Tensor], tf.Tensor]:
    """Compiles one optimizer step over the weights that are trainable now; make a new one after changing them.

    Args:
      augment: what each replica does to its images (uint8 [batch, size, size, 3]) before the model sees them, given
        their places (int64 [batch]); it runs where the model runs. None leaves the places unread.

    Returns:
      step((images, labels, places), learning_rate) -> mean loss over the global batch, a float32 scalar.
    """
    variables = list(model.trainable_variables)
    scales_loss = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    inner = optimizer.inner_optimizer if scales_loss else optimizer

    def replica_step(images: tf.Tensor, labels: tf.Tensor, *places: tf.Tensor) -> tf.Tensor:
        if augment is not None:
            images = augment(images, *places)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in variables])
            losses = loss_fn(labels, model(images, training=True))
            # Divided by the global batch, not the replica's: apply_gradients sums over replicas.
            loss = tf.reduce_sum(losses) / global_batch
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        if scales_loss:
            gradients = _agree_on_overflow(gradients)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    @tf.function
    def step(batch: Sequence[tf.Tensor], learning_rate: tf.Tensor) -> tf.Tensor:
        inner.learning_rate.assign(learning_rate)
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(replica_step, args=tuple(batch)), axis=None)

    return step


def _agree_on_overflow(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """Fills every replica's gradients with inf where any replica's are not finite, so that all skip the step together.

    Keras' LossScaleOptimizer looks at its own replica's gradients before they are summed: alone, one worker would skip
    a collective that the others wait in for ever.
    """
    overflow = tf.reduce_any([tf.reduce_any(~tf.math.is_finite(gradient)) for gradient in gradients])
    anywhere = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(overflow, tf.float32))
    poison = tf.where(anywhere > 0, tf.constant(float("inf")), tf.constant(0.0))
    return [gradient + tf.cast(poison, gradient.dtype) for gradient in gradients]


def make_evaluate_step(
    strategy: tf.distribute.Strategy, model: keras.Model, *, num_classes: int, top_k: int
) -> Callable[[Sequence[tf.Tensor]], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    """Compiles one evaluation step.

    Returns:
      step((images, labels, mask)) -> (confusion int64 [classes, classes] with truth in rows, number of labels among the
      `top_k` largest logits int64, sum of unsmoothed, unweighted cross-entropy float64), over all replicas' unmasked
      examples.
    """

    def replica_step(images: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        logits = model(images, training=False)
        counted = tf.cast(mask, tf.int64)
        predicted = tf.argmax(logits, axis=-1)
        confusion = tf.math.confusion_matrix(labels, predicted, num_classes, weights=counted, dtype=tf.int64)
        in_top_k = tf.cast(tf.math.in_top_k(labels, logits, top_k), tf.int64) * counted
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        loss_sum = tf.reduce_sum(tf.where(mask, tf.cast(losses, tf.float64), 0.0))
        return confusion, tf.reduce_sum(in_top_k), loss_sum

    @tf.function
    def step(batch: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        sums = strategy.run(replica_step, args=tuple(batch))
        return tuple(strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None) for value in sums)

    return step


def make_average_moving_statistics(strategy: tf.distribute.Strategy, model: keras.Model) -> Callable[[], None]:
    """Compiles the replacement of each replica's batch-norm moving statistics by their mean over all replicas.

    Every replica moves its own, over its own examples; before they are evaluated or saved they have to agree.
    """
    statistics = [
        variable
        for layer in model.get_layer("backbone").layers
        if isinstance(layer, keras.layers.BatchNormalization)
        for variable in (layer.moving_mean, layer.moving_variance)
    ]

    def replica_average() -> None:
        context = tf.distribute.get_replica_context()
        own = [tf.identity(variable.value) for variable in statistics]  # as tensors: a variable is a destination too
        means = context.all_reduce(tf.distribute.ReduceOp.MEAN, own)
        for variable, mean in zip(statistics, means, strict=True):
            variable.assign(mean)

    @tf.function
    def average() -> None:
        strategy.run(replica_average)

    return average if strategy.num_replicas_in_sync > 1 else lambda: None
