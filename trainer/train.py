"""The training loop: a dataset and an experiment's settings in, a working directory with a trained classifier out."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from pipeline import manifest as manifest_lib
from pipeline import service, training
from pipeline.augmentations.augment import Augment
from pipeline.errors import InputError
from trainer import checkpoints, determinism, features, preemption, rendezvous, schedule, speed, strategies, tpu
from trainer import divergence as divergence_lib
from trainer import evaluate as evaluate_lib
from trainer import learner as learner_lib
from trainer import model as model_lib
from trainer import monitor as monitor_lib
from trainer import optimizer as optimizer_lib
from trainer import run as run_lib
from trainer import step as step_lib
from trainer.cluster import Worker
from trainer.heartbeat import Beat, silent
from trainer.label_errors import dynamics
from trainer.progress import Progress


class Place(NamedTuple):
    """Where a run is; every checkpoint says it."""

    step: int = 0  # global steps taken
    evaluated_step: int = 0  # the last of them that was evaluated
    measures: Mapping[str, Any] | None = None  # what was found there
    standing: monitor_lib.Standing = monitor_lib.Standing()
    losses: tuple[float, ...] = ()  # what `divergence.Watch` compares with

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "standing": self.standing.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Place:
        """Of what `to_json` gave, the beginning for None."""
        if value is None:
            return cls()
        standing = monitor_lib.Standing.from_json(value["standing"])
        return cls(**{**value, "standing": standing, "losses": tuple(value["losses"])})


# What may differ when a run goes on.
_SURROUNDINGS = ("data", "workdir", "strategy", "worker", "start_timeout_s", "input_service", "signals", "beat")


def train(
    *,
    data: str,
    workdir: str,
    strategy: str,
    input_service: Sequence[str],
    worker: Worker | None = None,
    start_timeout_s: float = rendezvous.START_TIMEOUT_S,
    signals: preemption.Signals | None = None,
    beat: Beat = silent,
    seed: int,
    global_batch: int,
    train_split: str,
    validation_split: str,
    precision: str,
    xla: bool,
    steps_per_call: int,
    deterministic: bool,
    input: Mapping[str, Any],
    augment: Mapping[str, Any],
    model: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    loss: Mapping[str, Any],
    phases: Sequence[Mapping[str, Any]],
    monitor: Mapping[str, Any],
    divergence: Mapping[str, Any],
    logs: Mapping[str, Any],
    max_steps: int | None,
    evaluate_every_epochs: float,
    checkpoint_every_steps: int,
    checkpoints_kept: int,
) -> dict[str, Any]:
    """Trains to the end of the phases, from the newest checkpoint in `workdir` where there is one.

    Args:
      data: the dataset's folder (…/NAME/VERSION).
      workdir: where checkpoints, logs and `run.json` go; all workers must see the same.
      strategy, worker, start_timeout_s: see `strategies.connect`.
      input_service: addresses of `pipeline.serve` processes that prepare the input, none for this one.
      signals: to end by, entered by the caller; None where nobody asks.
      beat: called whenever something was done, see `heartbeat.Heartbeat`.
      others: the fields of `configs.schema.Config`; each group goes as keywords to the part that it configures.

    Returns:
      {"step", "weights_sha256"} and, where there is a validation split, the metrics of the evaluation that the weights
      come from: the best one, or the last where `monitor.restore_best` is off.

    Raises:
      InputError: before the first step, where data, workdir, cluster and settings don't go together.
      divergence.DivergedError: where the loss stops being a number, or spikes.
      TimeoutError: where not all workers came.
      preemption.Preempted: after a signal to end, with everything saved.
    """
    signals = signals or preemption.Signals()
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

    # Where it runs, and what this run is: the same command started again finds itself in the working directory.
    determinism.set_up(deterministic=deterministic)
    idle = functools.partial(_idle, beat, signals)
    idle()
    cluster = strategies.connect(strategy, worker=worker, start_timeout_s=start_timeout_s, idle=idle)
    strategies.check_precision(cluster, precision)
    if isinstance(cluster.strategy, tf.distribute.TPUStrategy):
        tpu.check_settings(precision=precision, steps_per_call=steps_per_call)
    if xla:
        step_lib.check_xla(cluster.strategy)
    training.check_batch(global_batch, num_replicas=cluster.strategy.num_replicas_in_sync)
    run = run_lib.describe(data, manifest, settings)
    resumes = checkpoints.exist(workdir)
    if resumes:
        run_lib.check_same(workdir, run)

    # What learns, and what it will learn when: phases in epochs become global steps.
    learner = learner_lib.build(manifest=manifest, cluster=cluster, settings=settings, load_weights=not resumes)
    net = learner.net
    if cluster.num_workers == 1:
        idle()
    examples = manifest.split(train_split).examples
    plans = schedule.plan(phases, examples=examples, global_batch=global_batch, peak_lr=optimizer["peak_lr"])
    for plan in plans:
        model_lib.check_trainable(net, trainable=plan.trainable, freeze_batch_norm=plan.freeze_batch_norm)
    if any(plan.cached_features for plan in plans):
        features.check_fits(net, manifest, settings, cluster)
    last_step = min(plans[-1].end_step, max_steps or plans[-1].end_step)
    evaluate_every_steps = max(1, round(evaluate_every_epochs * examples / global_batch))

    # The place in time that the newest checkpoint holds.
    saved = checkpoints.Checkpoints(workdir, content=learner.content, about=run.about(), keep=checkpoints_kept)
    place = Place.from_json(saved.restore())
    rollback = divergence_lib.load_rollback(workdir) if resumes else divergence_lib.Rollback()
    strategies.check_agreement(cluster, (place.step, rollback.times, run_lib.number_of(run)))
    logging.info(
        "train: %s steps %d to %d, %d examples, batch %d, %d replicas", data, place.step, last_step, examples,
        global_batch, cluster.strategy.num_replicas_in_sync,
    )  # fmt: skip

    def asked_to_end() -> bool:
        return strategies.agree(cluster, signals.received)

    @contextlib.contextmanager
    def saving_when_interrupted() -> Iterator[None]:
        try:
            yield
        except preemption.Interrupted:
            settle()
            if cluster.is_chief and saved.last_good_step() != place.step:
                saved.save(place.to_json(), best=False)
            strategies.wait_for_all(cluster)  # or whoever is first to leave may have the chief ended as it saves
            raise preemption.Preempted(place.step) from None

    # What is done around the steps.
    rules = monitor_lib.Rules(**monitor)
    watch = divergence_lib.Watch(spike_factor=divergence["spike_factor"], losses=place.losses)
    evaluate = None
    if validates:
        evaluate = evaluate_lib.make(
            data,
            manifest,
            split=validation_split,
            config=settings,
            cluster=cluster,
            net=net,
            beat=beat,
            asked_to_end=asked_to_end,
        )
    record_dynamics = None
    if logs["dynamics"]:
        record_dynamics = dynamics.make_recorder(
            data,
            manifest,
            workdir=workdir,
            settings=settings,
            cluster=cluster,
            net=net,
            beat=beat,
            asked_to_end=asked_to_end,
        )
    settle = learner_lib.make_settle(cluster, learner)
    deal = strategies.distributor(cluster)
    if cluster.is_chief:
        run_lib.write(workdir, run)
        if not resumes:
            divergence_lib.forget_rollback(workdir)
        dynamics.forget_after(workdir, place.step)
        if place.step == 0 and divergence["rollback"]:
            saved.save(place.to_json(), best=False)  # so that there is something to go back to from the first step on

    phase: schedule.PhasePlan | None = None  # the one that model, input and step were last made ready for
    batches: Iterator[Sequence[tf.Tensor]] = iter(())
    with (
        Progress(
            workdir,
            first_step=place.step,
            last_step=last_step,
            global_batch=global_batch,
            examples=examples,
            steps_per_call=steps_per_call,
            classes=manifest.classes,
            show=cluster.is_chief,
            peak_flops_per_s=_peak_flops_per_s(cluster, precision),
            settings=run.about(),
            **{name: value for name, value in logs.items() if name != "dynamics"},
        ) as progress,
        saving_when_interrupted(),
    ):
        while True:
            step = place.step
            # First of all, because a process that was killed may have saved this step and not evaluated it.
            if evaluate and place.evaluated_step < step and (step % evaluate_every_steps == 0 or step == last_step):
                settle()
                with learner.averaged():
                    sums = evaluate()
                    if record_dynamics:
                        record_dynamics(step)
                measures, before = sums.measures(), schedule.phase_at(plans, step - 1)
                # One that is only due because the run ends here counts as no waiting: a longer run would not have it.
                due = step % evaluate_every_steps == 0
                standing = monitor_lib.after_evaluation(place.standing, rules, measures, step, before, due=due)
                place = place._replace(evaluated_step=step, measures=measures, standing=standing)
                is_best = standing.best_step == step
                progress.evaluated(step, measures, sums.confusion)
                ends = step == last_step or monitor_lib.should_stop(standing, rules, last_phase=plans[-1])
                if cluster.is_chief and (is_best or ends):
                    saved.save(place.to_json(), best=is_best)
            if step >= last_step or monitor_lib.should_stop(place.standing, rules, last_phase=plans[-1]):
                break

            if (entered := schedule.phase_at(plans, step)) is not phase:
                if 0 < step == entered.first_step:
                    settle()  # what was moved so far may be frozen now, and then is what the phase trains with
                    optimizer_lib.restart(learner.optimizer)
                model_lib.set_trainable(net, trainable=entered.trainable, freeze_batch_norm=entered.freeze_batch_norm)
                # A phase that reads what the one before it read goes on with it: its cache is full by now.
                if phase is None or entered.cached_features != phase.cached_features:
                    batches = _open(entered, data, manifest, settings, cluster, net, step, input_service, signals, beat)
                trained = features.head(net) if entered.cached_features else net
                train_step = _compile(trained, settings, cluster, learner, of_images=not entered.cached_features)
                progress.enter_phase(speed.training_flops(trained))
                if step == entered.first_step:
                    watch.restart()
                unseen = not entered.cached_features
                place = place._replace(standing=monitor_lib.enter(place.standing, entered))
                phase = entered
                if asked_to_end():  # before the first step, which has to be compiled
                    raise preemption.Interrupted

            stop = next_stop(
                step, ends=(phase.end_step, last_step), every=(evaluate_every_steps, checkpoint_every_steps)
            )
            factor = place.standing.plateau_factor * rollback.lr_factor
            count = min(steps_per_call, stop - step)
            rates = [factor * schedule.learning_rate(step + ahead, phase) for ahead in range(count)]
            with progress.waiting_for_input():
                taken = [next(batches) for _ in range(count)]
            if unseen:
                progress.samples(step, *_as_trained(taken[0], settings))
                unseen = False
            losses = train_step([deal(batch) for batch in taken], rates)
            step += count
            beat(step)
            place = place._replace(step=step)
            logged = progress.stepped(step, losses, rates[-1])

            # Several workers can only ask each other now and then; one sees its own signal at once.
            ends = (logged or step == stop or cluster.num_workers == 1) and asked_to_end()
            if step == stop or ends:
                logged += progress.log(step, rates[-1])
            found = watch.look(logged)
            place = place._replace(losses=watch.losses)
            if step == stop or ends:
                found = found or divergence_lib.not_finite(net, step)
            if found:
                message = divergence_lib.report(
                    found,
                    workdir=workdir,
                    data=data,
                    manifest=manifest,
                    settings=settings,
                    last_good_step=saved.last_good_step(),
                    is_chief=cluster.is_chief,
                )
                if not divergence["rollback"] or rollback.times:
                    raise divergence_lib.DivergedError(f"{message}: {divergence_lib.advice(rollback)}")
                rate_factor = divergence["rollback_lr_factor"] or divergence_lib.LR_FACTOR
                logging.warning("%s: going back, once, at %g of the rate", message, rate_factor)
                rollback = divergence_lib.roll_back(workdir, rollback, lr_factor=rate_factor, is_chief=cluster.is_chief)
                place = Place.from_json(saved.restore())
                strategies.check_agreement(cluster, (place.step,))
                watch = divergence_lib.Watch(spike_factor=divergence["spike_factor"], losses=place.losses)
                phase = None
                progress.go_back(place.step)
                if cluster.is_chief:
                    dynamics.forget_after(workdir, place.step)
                continue
            if ends:
                raise preemption.Interrupted
            if step == last_step or step % checkpoint_every_steps == 0:
                settle()
                if cluster.is_chief:
                    saved.save(place.to_json(), best=False)

    last_step = place.step
    if evaluate and rules.restore_best:
        strategies.wait_for_all(cluster)  # the chief may still be writing what the others are about to read
        place = Place.from_json(saved.restore_best())
        strategies.check_agreement(cluster, (place.step,))
    found_there = (place.measures or {}) if place.evaluated_step == place.step else {}
    with learner.averaged():
        result = {**found_there, "step": last_step, "weights_sha256": weights_sha256(net)}
    strategies.wait_for_all(cluster)  # one that is left behind would fail, and wait for the others in its next start
    return result


def _idle(beat: Beat, signals: preemption.Signals) -> None:
    """What is done again and again while this process waits, with nothing to save."""
    beat()
    signals.check()


def _open(
    phase: schedule.PhasePlan,
    data: str,
    manifest: manifest_lib.Manifest,
    settings: Mapping[str, Any],
    cluster: strategies.Cluster,
    net: keras.Model,
    step: int,
    input_service: Sequence[str],
    signals: preemption.Signals,
    beat: Beat,
) -> Iterator[Sequence[tf.Tensor]]:
    """What a phase trains on, from exactly the example that comes next after global step `step`."""
    if phase.cached_features:
        # One of several workers can't leave alone: they ask each other when all have what they need.
        alone = cluster.num_workers == 1
        return features.compute(
            net, data, manifest, settings, cluster, beat=beat, asked_to_end=lambda: signals.received and alone
        ).batches(step)
    if input_service:
        own = learner_lib.input_of(settings, cluster)
        return iter(service.batches(input_service, data, manifest, start_step=step, **own))
    return iter(learner_lib.batches(data, manifest, settings, cluster, start_step=step))


def _compile(
    net: keras.Model,
    settings: Mapping[str, Any],
    cluster: strategies.Cluster,
    learner: learner_lib.Learner,
    *,
    of_images: bool,
) -> Callable[[Sequence[Sequence[tf.Tensor]], Sequence[float]], tf.Tensor]:
    """The step over the weights of `net`, the learner's model or a part of it, that are trainable now."""
    augmentation, optimizer = Augment(**settings["augment"]), settings["optimizer"]
    return step_lib.make_train_step(
        cluster.strategy,
        net,
        learner.optimizer,
        learner.loss_fn,
        global_batch=settings["global_batch"],
        augment=functools.partial(augmentation.batch, seed=settings["seed"])
        if augmentation.in_step and of_images
        else None,
        accumulation=optimizer["accumulation"],
        clip_norm=optimizer["clip_norm"],
        ema=learner.ema,
        xla=settings["xla"],
        steps_per_call=settings["steps_per_call"],
        deterministic=settings["deterministic"],
        seed=settings["seed"],
    )


def _as_trained(batch: Sequence[tf.Tensor], settings: Mapping[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
    """(images, labels) of a batch as the model sees them."""
    augmentation, (images, labels, places) = Augment(**settings["augment"]), batch
    if augmentation.in_step:
        images = augmentation.batch(images, places, seed=settings["seed"])
    return images, labels


def _peak_flops_per_s(cluster: strategies.Cluster, precision: str) -> float | None:
    """Of all replicas together, None where the device isn't known."""
    one = speed.peak_flops_per_s(speed.device_name(), precision)
    return None if one is None else one * cluster.strategy.num_replicas_in_sync


def next_stop(step: int, *, ends: Sequence[int], every: Sequence[int]) -> int:
    """The first global step after `step` at which something other than stepping is due.

    Args:
      ends: global steps where something ends; those up to `step` don't count.
      every: periods in steps.
    """
    return min([end for end in ends if end > step] + [(step // period + 1) * period for period in every])


def weights_sha256(model: keras.Model) -> str:
    """One hash over all weights, moving statistics included: equal on all workers, or something is wrong."""
    digest = hashlib.sha256()
    for variable in model.variables:
        digest.update(variable.path.encode())
        digest.update(variable.numpy().tobytes())
    return digest.hexdigest()
