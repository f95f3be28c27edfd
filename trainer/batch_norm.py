"""A Keras model in; its batch norm then runs as one operation instead of ten, with the same results up to rounding."""

from __future__ import annotations

import keras
import tensorflow as tf


class FusedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]  # Keras has no types
    """`keras.layers.BatchNormalization` by way of TensorFlow's fused operation, where that has a form for it.

    Keras 3 composes batch norm of means, differences and products, each a pass over the activations, and its gradient
    of more of them: on a CPU that is more than half of what MobileNetV2's training step costs. That gradient is also a
    sum of three whose order is open, see `trainer.determinism`. Synchronised batch norm has no fused form: of Keras' it
    only takes other moments.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        rank = len(inputs.shape)
        plain = rank in (2, 4) and self.axis in (-1, rank - 1) and self.scale and self.center and mask is None
        if not plain or self.synchronized or getattr(self, "renorm", False):
            return super().call(inputs, training=training, mask=mask)
        learns = bool(training and self.trainable)
        # On GPUs the gradient of the form with given statistics has no deterministic implementation.
        if not learns and training and tf.config.list_physical_devices("GPU"):
            return super().call(inputs, training=training, mask=mask)
        # Float32 beside 16-bit inputs too, as the operation wants them.
        gamma, beta, old_mean, old_variance = (
            tf.cast(variable.value, tf.float32)
            for variable in (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs if rank == 4 else inputs[:, tf.newaxis, tf.newaxis],
            scale=gamma,
            offset=beta,
            mean=old_mean,
            variance=old_variance,
            epsilon=self.epsilon,
            is_training=learns,
        )
        if learns:
            # The operation divides by n - 1, to estimate what the batch was drawn from; Keras keeps the batch's own.
            count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
            own = variance * ((count - 1) / count)
            self.moving_mean.assign(old_mean * self.momentum + mean * (1 - self.momentum))
            self.moving_variance.assign(old_variance * self.momentum + own * (1 - self.momentum))
        return outputs if rank == 4 else outputs[:, 0, 0]

    def _moments(self, inputs: tf.Tensor, mask: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        """Of all replicas' inputs, which are equally many; Keras' `call` asks for them, in float32.

        Keras subtracts the mean's square from the mean of squares. Where a channel varies little around a large mean
        that leaves little but rounding, and another number of workers rounds otherwise. This sends two sums instead of
        three, one after the other.
        """
        context = tf.distribute.get_replica_context()
        if not self.synchronized or mask is not None or context is None:
            return super()._moments(inputs, mask)
        axes = [axis for axis in range(len(inputs.shape)) if axis != self.axis % len(inputs.shape)]
        mean = context.all_reduce(tf.distribute.ReduceOp.MEAN, tf.reduce_mean(inputs, axes))
        shape = [-1 if axis == self.axis % len(inputs.shape) else 1 for axis in range(len(inputs.shape))]
        own = tf.reduce_mean(tf.square(inputs - tf.reshape(mean, shape)), axes)
        return mean, context.all_reduce(tf.distribute.ReduceOp.MEAN, own)


def fuse(model: keras.Model) -> None:
    """Makes every `keras.layers.BatchNormalization` in `model`, and in models inside it, a fused one, in place.

    Names, weights and connections stay as they are. Keras' own files of weights name layers by their class: load them
    before, and save what others are to read after `unfuse`.
    """
    _exchange(model, keras.layers.BatchNormalization, FusedBatchNormalization)


def unfuse(model: keras.Model) -> None:
    """Undoes `fuse`."""
    _exchange(model, FusedBatchNormalization, keras.layers.BatchNormalization)


def _exchange(model: keras.Model, old: type[keras.layers.Layer], new: type[keras.layers.Layer]) -> None:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _exchange(layer, old, new)
        elif type(layer) is old:
            layer.__class__ = new
