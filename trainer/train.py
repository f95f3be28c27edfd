"""The training loop: a dataset and an experiment's settings in, a working directory with a trained classifier out."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from pipeline import evaluation, service, training
from pipeline import manifest as manifest_lib
from pipeline.augmentations.augment import Augment
from pipeline.errors import InputError
from trainer import checkpoints, schedule, strategies
from trainer import evaluate as evaluate_lib
from trainer import loss as loss_lib
from trainer import model as model_lib
from trainer import optimizer as optimizer_lib
from trainer import run as run_lib
from trainer import step as step_lib
from trainer.progress import Progress

_SURROUNDINGS = ("data", "workdir", "strategy", "input_service")  # may differ when a run goes on


def train(
    *,
    data: str,
    workdir: str,
    strategy: str,
    input_service: Sequence[str],
    seed: int,
    global_batch: int,
    train_split: str,
    validation_split: str,
    precision: str,
    input: Mapping[str, Any],
    model: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    loss: Mapping[str, Any],
    augment: Mapping[str, Any],
    phases: Sequence[Mapping[str, Any]],
    max_steps: int | None,
    evaluate_every_epochs: float,
    checkpoint_every_steps: int,
    log_every_steps: int,
) -> dict[str, Any]:
    """Trains to the end of the phases, from the newest checkpoint in `workdir` where there is one.

    Args:
      data: the dataset's folder (…/NAME/VERSION).
      workdir: where checkpoints, logs and `run.json` go; all workers must see the same.
      strategy: see `strategies.connect`.
      input_service: addresses of `pipeline.serve` processes that prepare the input, none for this one.
      others: the fields of `configs.schema.Config`; each group goes as keywords to the part that it configures.

    Returns:
      {"step", "weights_sha256"} and, where there is a validation split, its "accuracy" and "loss" at the end.

    Raises:
      InputError: before the first step, where data, workdir, cluster and settings don't go together.
      FloatingPointError: where the loss stops being a number.
    """
    settings = {name: value for name, value in locals().items() if name not in _SURROUNDINGS}

    # What there is to learn from: refused here rather than after an epoch.
    manifest = manifest_lib.load(data)
    validates = validation_split != "none"
    if validates and validation_split not in manifest.splits:
        raise InputError(
            f"{data} has no split {validation_split!r} to validate on, it has {', '.join(manifest.splits)}: "
            "choose one with --config.validation_split=…, or none"
        )
    manifest_lib.verify(data, manifest, [train_split, validation_split] if validates else [train_split])
    loss_fn = loss_lib.make(counts=manifest.class_counts(train_split), classes=manifest.classes, **loss)

    # Where it runs, and what this run is: the same command started again finds itself in the working directory.
    cluster = strategies.connect(strategy)
    training.check_batch(global_batch, num_replicas=cluster.strategy.num_replicas_in_sync)
    run = run_lib.describe(data, manifest, settings)
    resumes = checkpoints.exist(workdir)
    if resumes:
        run_lib.check_same(workdir, run)

    # Model, optimizer and the place in time that the newest checkpoint holds.
    keras.utils.set_random_seed(seed)
    keras.mixed_precision.set_global_policy(precision)
    num_classes = len(manifest.classes)
    with cluster.strategy.scope():
        net = model_lib.build(
            num_classes=num_classes, image_size=input["image_size"], load_weights=not resumes, **model
        )
        rule = {name: value for name, value in optimizer.items() if name != "peak_lr"}
        opt = optimizer_lib.build(net, precision=precision, **rule)
        saved = checkpoints.Checkpoints(workdir, net, opt, fingerprint=run.fingerprint)
        first_step = saved.restore()
        evaluate_step = step_lib.make_evaluate_step(
            cluster.strategy, net, num_classes=num_classes, top_k=evaluate_lib.top_k(num_classes)
        )
        average_moving_statistics = step_lib.make_average_moving_statistics(cluster.strategy, net)

    strategies.check_agreement(cluster, (first_step, int(run.fingerprint[:15], 16)))

    # Time: phases in epochs become global steps.
    examples = manifest.split(train_split).examples
    plans = schedule.plan(phases, examples=examples, global_batch=global_batch, peak_lr=optimizer["peak_lr"])
    last_step = min(plans[-1].end_step, max_steps or plans[-1].end_step)
    evaluate_every_steps = max(1, round(evaluate_every_epochs * examples / global_batch))
    logging.info(
        "train: %s steps %d to %d, %d examples, batch %d, %d replicas", data, first_step, last_step, examples,
        global_batch, cluster.strategy.num_replicas_in_sync,
    )  # fmt: skip

    # Input, from exactly the example that comes next.
    augmentation = Augment(**augment)
    prepare = functools.partial(service.batches, input_service) if input_service else training.batches
    batches = iter(
        prepare(
            data,
            manifest,
            split=train_split,
            seed=seed,
            global_batch=global_batch,
            start_step=first_step,
            worker=cluster.worker,
            num_workers=cluster.num_workers,
            augment=augmentation,
            **{name: value for name, value in input.items() if name != "crop_fraction"},
        )
    )
    validation = (
        ()
        if not validates
        else evaluation.batches(
            data,
            manifest,
            split=validation_split,
            batch=global_batch // cluster.num_workers,
            image_size=input["image_size"],
            crop_fraction=input["crop_fraction"],
            cache_dir=input["cache_dir"],
            cache_gib=input["cache_gib"],
            worker=cluster.worker,
            num_workers=cluster.num_workers,
        )
    )
    deal = strategies.distributor(cluster)
    if cluster.is_chief:
        run_lib.write(workdir, run)

    result: dict[str, Any] = {}
    with Progress(
        workdir,
        first_step=first_step,
        last_step=last_step,
        global_batch=global_batch,
        log_every_steps=log_every_steps,
        show=cluster.is_chief,
    ) as progress:
        for plan in plans:
            if plan.end_step <= first_step or plan.first_step >= last_step:
                continue
            if plan.first_step >= max(1, first_step):  # a later phase, entered at its start and not inside
                optimizer_lib.restart(opt)
            model_lib.set_trainable(net, trainable=plan.trainable, freeze_batch_norm=plan.freeze_batch_norm)
            train_step = step_lib.make_train_step(
                cluster.strategy,
                net,
                opt,
                loss_fn,
                global_batch=global_batch,
                augment=functools.partial(augmentation.batch, seed=seed) if augmentation.in_step else None,
            )
            for taken in range(max(first_step, plan.first_step), min(plan.end_step, last_step)):
                learning_rate = schedule.learning_rate(taken, plan)
                with progress.waiting_for_input():
                    batch = next(batches)
                step_loss = train_step(deal(batch), tf.constant(learning_rate))
                step = taken + 1
                progress.stepped(step, step_loss, learning_rate)

                evaluates = validates and (step % evaluate_every_steps == 0 or step == last_step)
                saves = step % checkpoint_every_steps == 0 or step == last_step
                if evaluates or saves:
                    progress.log(step, learning_rate)
                    check_finite(net, step)
                    average_moving_statistics()
                if evaluates:
                    sums = evaluate_lib.accumulate(evaluate_step, map(deal, validation), num_classes)
                    result = sums.means()
                    progress.evaluated(step, step * global_batch / examples, learning_rate, result)
                if saves and cluster.is_chief:
                    saved.save(step)

    return {**result, "step": max(first_step, last_step), "weights_sha256": weights_sha256(net)}


def check_finite(model: keras.Model, step: int) -> None:
    """Raises FloatingPointError rather than let weights be saved that no start could go on from."""
    for variable in model.trainable_variables:
        if not bool(tf.reduce_all(tf.math.is_finite(variable.value))):
            raise FloatingPointError(
                f"{variable.path} is no longer finite after step {step}: lower optimizer.peak_lr or lengthen the "
                "warmup, and start again with another --workdir"
            )


def weights_sha256(model: keras.Model) -> str:
    """One hash over all weights, moving statistics included: equal on all workers, or something is wrong."""
    digest = hashlib.sha256()
    for variable in model.variables:
        digest.update(variable.path.encode())
        digest.update(variable.numpy().tobytes())
    return digest.hexdigest()
