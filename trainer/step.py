"""One global step: a batch per replica in, updated weights and sums over the global batch out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import keras
import tensorflow as tf

from pipeline.errors import InputError
from trainer import determinism, dropout, tpu
from trainer.loss import LossFn

Augment = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # (images, places) -> images
Gradients = Callable[..., tuple[tf.Tensor, list[tf.Tensor]]]  # (images, labels, places) -> (loss, gradients)
Batch = Sequence[tf.Tensor]  # images, labels, places; with several replicas each a PerReplica of them
Run = Callable[..., Any]  # (function of one replica, args) -> what it gives, for each replica or for this one


class Average(Protocol):
    """Weights that follow the trained ones, as `trainer.ema.Ema` keeps them."""

    def update(self) -> None: ...


def make_train_step(
    strategy: tf.distribute.Strategy,
    net: keras.Model,
    opt: keras.optimizers.Optimizer,
    loss_fn: LossFn,
    *,
    global_batch: int,
    augment: Augment | None = None,
    accumulation: int = 1,
    clip_norm: float | None = None,
    ema: Average | None = None,
    xla: bool = False,
    steps_per_call: int = 1,
    deterministic: bool = False,
    seed: int | None = None,
) -> Callable[[Sequence[Batch], Any], tf.Tensor]:
    """Compiles optimizer steps over the weights that are trainable now; make a new one after changing them.

    A step is the same whatever the number of replicas and parts: every example's loss is divided by `global_batch`, and
    the gradients are summed over parts, then once over replicas. Loss scale, clipping and optimizer see only those
    sums, so that all replicas decide alike. What differs is batch norm, which normalises over what it sees at once.

    Args:
      opt: from `trainer.optimizer.build`; its apply_gradients must not sum over replicas once more.
      augment: what each replica does to its images (uint8 [batch, size, size, 3]) before the model sees them, given
        their places (int64 [batch]); it runs where the model runs.
      accumulation: equal parts of each replica's batch that pass through the model one after the other, so that only
        one part's activations are in memory.
      clip_norm: bound of the 2-norm of all gradients together, those of the global mean and without the loss scale.
      ema: its `update()` is called in cross-replica context after each step.
      xla: compile forward and backward pass with XLA; see `check_xla`.
      steps_per_call: the most batches of one call, whose steps are taken without coming back to Python.
      deterministic: refuse, when a step is first called, what has sums in no fixed order; see `determinism.set_up`.
      seed: the run's, for dropout by the examples' places, see `dropout.drawn_by_place`. With None a batch needs no
        places, unless `augment` takes them, and Keras draws: on all replicas the same.

    Returns:
      step(batches, learning_rates float32 [k]) -> losses float32 [k], for 1 <= k <= `steps_per_call` batches (images,
      labels, places), each as `strategies.distributor` deals it, all of one shape. A loss is the mean over the global
      batch before its step, plus the model's own losses (L2) once.

    Raises:
      InputError: where the global batch can't be dealt out to replicas and parts, or XLA or a fixed order of sums
        can't be had; on TPUs also when a step is first called, see `tpu.check_graph`.
    """
    replicas = strategy.num_replicas_in_sync
    if global_batch % (replicas * accumulation):
        raise InputError(
            f"global_batch={global_batch} does not divide into optimizer.accumulation={accumulation} equal parts on "
            f"each of {replicas} replicas: choose a multiple of {replicas * accumulation}"
        )
    if xla:
        check_xla(strategy)
    variables = list(net.trainable_variables)
    inner = opt.inner_optimizer if isinstance(opt, keras.optimizers.LossScaleOptimizer) else opt
    gradients_of = _make_gradients(net, variables, opt, loss_fn, global_batch, parts=replicas * accumulation, seed=seed)
    if xla:  # which compiles sums in one order
        gradients_of = tf.function(gradients_of, jit_compile=True, autograph=False)
    elif deterministic:
        gradients_of = _checked(gradients_of, determinism.check_sums)

    def augmented(images: tf.Tensor, labels: tf.Tensor, *places: tf.Tensor) -> tuple[tf.Tensor, ...]:
        if images.shape[0] != global_batch // replicas:
            raise ValueError(
                f"a replica got {images.shape[0]} of global_batch={global_batch}, and there are {replicas}"
            )
        return (images if augment is None else augment(images, *places)), labels, *places

    def apply(loss: tf.Tensor, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, list(gradients))
        if clip_norm is not None:
            # A norm that is no number makes all gradients NaN, and the loss scale skips the step as it should.
            gradients, _ = tf.clip_by_global_norm(gradients, opt.scale_loss(tf.constant(clip_norm, tf.float32)))
        opt.apply_gradients(zip(gradients, variables, strict=True))
        if ema is not None:
            tf.distribute.get_replica_context().merge_call(lambda _: ema.update())
        return loss

    def global_step(run: Run, batch: Batch, learning_rate: tf.Tensor) -> tf.Tensor:
        inner.learning_rate.assign(learning_rate)
        if accumulation == 1:
            return run(lambda *local: apply(*gradients_of(*augmented(*local))), args=tuple(batch))
        whole = run(augmented, args=tuple(batch))
        return run(apply, args=_sum_over_parts(run, gradients_of, whole, variables, accumulation))

    if deterministic:
        global_step = _checked(global_step, determinism.check_sums)
    if isinstance(strategy, tf.distribute.TPUStrategy):
        global_step = _checked(global_step, tpu.check_graph)
    return _compile(strategy, global_step, steps_per_call)


def _checked(traced: Callable[..., Any], check: Callable[[], None]) -> Callable[..., Any]:
    """`traced`, and `check` of the graph that it becomes a part of."""

    def checked(*arguments: Any) -> Any:
        results = traced(*arguments)
        check()
        return results

    return checked


def check_xla(strategy: tf.distribute.Strategy) -> None:
    """Raises InputError where a step can't be compiled with XLA, or is anyway."""
    if isinstance(strategy, tf.distribute.TPUStrategy):
        raise InputError("xla=True: what runs on TPUs is compiled with XLA anyway; leave it False")
    devices = {tf.DeviceSpec.from_string(device).device_type for device in strategy.extended.worker_devices}
    if strategy.num_replicas_in_sync > 1 and "GPU" not in devices:
        raise InputError(
            f"xla=True: TensorFlow compiles for one CPU only, and here are {strategy.num_replicas_in_sync} replicas on "
            "CPUs; leave it False"
        )


def _make_gradients(
    net: keras.Model,
    variables: Sequence[keras.Variable],
    opt: keras.optimizers.Optimizer,
    loss_fn: LossFn,
    global_batch: int,
    *,
    parts: int,
    seed: int | None,
) -> Gradients:
    """(images, labels, places) of one of `parts` equal parts of the batch -> share of the loss, scaled gradients."""

    def gradients_of(images: tf.Tensor, labels: tf.Tensor, *places: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        weights = [variable.value for variable in variables]
        drawn = contextlib.nullcontext() if seed is None else dropout.drawn_by_place(net, *places, seed=seed)
        with drawn, tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            # Divided by the global batch, not the part's: shares are added up, over parts and replicas.
            loss = tf.reduce_sum(loss_fn(labels, net(images, training=True))) / global_batch
            if net.losses:
                loss += tf.add_n(net.losses) / parts
            scaled = opt.scale_loss(loss)
        return loss, tape.gradient(scaled, weights)

    return gradients_of


def _sum_over_parts(
    run: Run, gradients_of: Gradients, batch: Batch, variables: Sequence[keras.Variable], accumulation: int
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """What `gradients_of` gives for each of `accumulation` parts of each replica's batch, summed on each replica."""

    def part(index: tf.Tensor, sums: Any, *whole: tf.Tensor) -> Any:
        size = whole[0].shape[0] // accumulation
        own = [tf.reshape(tensor, [accumulation, size, *tensor.shape[1:]])[index] for tensor in whole]
        return tf.nest.map_structure(tf.add, sums, gradients_of(*own))

    def body(index: tf.Tensor, sums: Any) -> Any:
        return index + 1, run(part, args=(index, sums, *batch))

    zeros = run(lambda: (tf.zeros([]), [tf.zeros(variable.shape, variable.dtype) for variable in variables]))
    # One at a time: no part needs the gradients of the one before, and several would be in memory at once.
    _, sums = tf.while_loop(lambda index, _: index < accumulation, body, (0, zeros), parallel_iterations=1)
    return sums


def _compile(
    strategy: tf.distribute.Strategy, global_step: Callable[[Run, Batch, tf.Tensor], tf.Tensor], steps_per_call: int
) -> Callable[[Sequence[Batch], Any], tf.Tensor]:
    """`global_step` as one graph for one batch, or as one graph that loops over up to `steps_per_call` of them.

    A TPU takes all of a call as one computation, which doesn't come back to its host for the next step, or part. With
    MirroredStrategy loops stand outside of the replicas: inside, their batch norm could not wait for the others'.
    """
    whole = isinstance(strategy, (tf.distribute.TPUStrategy, tf.distribute.OneDeviceStrategy))
    run, from_outside = (_here, strategy.run) if whole else (strategy.run, _here)

    def total(loss: Any) -> tf.Tensor:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, loss, axis=None)

    def take(stacked: Batch, learning_rates: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        def body(index: tf.Tensor, losses: tf.Tensor) -> Any:
            batch = run(lambda *fields: tuple(field[index] for field in fields), args=tuple(stacked))
            loss = global_step(run, batch, learning_rates[index])
            return index + 1, tf.where(tf.range(steps_per_call) == index, loss if whole else total(loss), losses)

        start = (0, tf.zeros([steps_per_call]))
        _, losses = tf.while_loop(lambda index, _: index < count, body, start, parallel_iterations=1)
        return losses

    @tf.function(autograph=False)
    def one(batch: Batch, learning_rates: tf.Tensor) -> tf.Tensor:
        loss = from_outside(lambda *args: global_step(run, *args), args=(batch, learning_rates[0]))
        return tf.expand_dims(total(loss), 0)

    @tf.function(autograph=False)
    def stack(batches: Sequence[Batch]) -> Batch:
        return [strategy.run(lambda *tensors: tf.stack(tensors), args=field) for field in zip(*batches, strict=True)]

    @tf.function(autograph=False)
    def several(stacked: Batch, learning_rates: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        losses = from_outside(take, args=(stacked, learning_rates, count))
        return total(losses) if whole else losses

    def step(batches: Sequence[Batch], learning_rates: Any) -> tf.Tensor:
        given = [tuple(batch) for batch in batches]
        rates = tf.ensure_shape(tf.convert_to_tensor(learning_rates, tf.float32), [len(given)])
        if not 1 <= len(given) <= steps_per_call:
            raise ValueError(f"{len(given)} batches: expected 1 to {steps_per_call}")
        if steps_per_call == 1:
            return one(given[0], rates)
        # Always of one length, because a graph of its own for the last steps of a phase takes long to trace.
        missing = steps_per_call - len(given)
        stacked = stack([*given, *[given[-1]] * missing])
        return several(stacked, tf.pad(rates, [[0, missing]]), tf.constant(len(given)))[: len(given)]

    return step


def _here(function: Callable[..., Any], args: Sequence[Any] = ()) -> Any:
    """In the place of `strategy.run` where its replica runs already."""
    return function(*args)


def make_evaluate_step(
    strategy: tf.distribute.Strategy, model: keras.Model, *, num_classes: int, top_k: int
) -> Callable[[Sequence[tf.Tensor]], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    """Compiles one evaluation step.

    Returns:
      step((images, labels, mask)) -> (confusion int64 [classes, classes] with truth in rows, number of labels among the
      `top_k` largest logits int64, sum of unsmoothed, unweighted cross-entropy float32), over all replicas' unmasked
      examples.

    Raises:
      InputError: on TPUs when it is first called, see `tpu.check_graph`.
    """

    def replica_step(images: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        logits = model(images, training=False)
        counted = tf.cast(mask, tf.int64)
        cell = labels * num_classes + tf.argmax(logits, axis=-1)
        confusion = tf.reshape(tf.math.unsorted_segment_sum(counted, cell, num_classes**2), [num_classes, num_classes])
        in_top_k = tf.cast(tf.math.in_top_k(labels, logits, top_k), tf.int64) * counted
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        # In float32, as TPUs have no float64; sums over batches are the caller's.
        return confusion, tf.reduce_sum(in_top_k), tf.reduce_sum(tf.where(mask, losses, 0.0))

    @tf.function(autograph=False)  # which would wrap an InputError
    def step(batch: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        sums = strategy.run(replica_step, args=tuple(batch))
        if isinstance(strategy, tf.distribute.TPUStrategy):
            tpu.check_graph()
        return tuple(strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None) for value in sums)

    return step


def make_average_moving_statistics(strategy: tf.distribute.Strategy, model: keras.Model) -> Callable[[], None]:
    """Compiles the replacement of each replica's batch-norm moving statistics by their mean over all replicas.

    Every replica moves its own, over its own examples; before they are evaluated or saved they have to agree.
    """
    statistics = [
        variable
        for layer in _layers(model)
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


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """All layers, those of models inside the model too."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
