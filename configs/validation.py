"""A config in; nothing out, or one line that names the first field whose value is impossible, and what was expected."""

from __future__ import annotations

import dataclasses
import math
import re
import typing

from configs import schema
from configs.schema import ConfigError


def validate(config: schema.Config) -> None:
    """Raises ConfigError naming the first field whose value is impossible."""
    _check_types(config, "")
    _within("seed", config.seed, 0, 2**32 - 1)  # NumPy's range
    _at_least("global_batch", config.global_batch, 1)
    _one_of("precision", config.precision, schema.PRECISIONS)
    _at_least("steps_per_call", config.steps_per_call, 1)
    _validate_input(config)
    _validate_augment(config.augment)
    _validate_model(config.model)
    _validate_optimizer(config.optimizer, config.global_batch)
    _validate_loss(config.loss)
    if not config.phases:
        raise ConfigError("phases=(): expected at least one")
    for index, phase in enumerate(config.phases):
        _validate_phase(f"phases[{index}]", phase)
        if phase.schedule == "plateau" and config.validation_split == "none":
            raise ConfigError(
                f"phases[{index}].schedule='plateau': validation_split='none' leaves it nothing to follow"
            )
        if phase.cached_features and config.input.sampling != "none":
            raise ConfigError(
                f"phases[{index}].cached_features=True: input.sampling={config.input.sampling!r} shows some images "
                "more often than once an epoch; leave one of the two out"
            )
    if all(phase.cached_features for phase in config.phases) and config.augment != schema.Augment():
        raise ConfigError("augment: no phase sees images, all have cached_features=True; leave it out")
    _validate_monitor(config)
    if config.divergence.spike_factor is not None:
        _within("divergence.spike_factor", config.divergence.spike_factor, 1, math.inf, open_low=True)
    factor = config.divergence.rollback_lr_factor
    if factor is not None:
        if not config.divergence.rollback:
            raise ConfigError(f"divergence.rollback_lr_factor={factor}: rollback=False never uses it; leave it None")
        _within("divergence.rollback_lr_factor", factor, 0, 1, open_low=True, open_high=True)
    _validate_logs(config)
    if config.max_steps is not None:
        _at_least("max_steps", config.max_steps, 1)
    _within("evaluate_every_epochs", config.evaluate_every_epochs, 0, math.inf, open_low=True)
    _at_least("checkpoint_every_steps", config.checkpoint_every_steps, 1)
    _at_least("checkpoints_kept", config.checkpoints_kept, 1)


def _validate_input(config: schema.Config) -> None:
    given = config.input
    _at_least("input.image_size", given.image_size, 32)  # below, five halvings leave nothing
    smallest, largest = given.crop_area
    if not 0 < smallest <= largest <= 1:
        raise ConfigError(f"input.crop_area={given.crop_area}: expected 0 < smallest <= largest <= 1")
    _within("input.crop_fraction", given.crop_fraction, 0, 1, open_low=True)
    _one_of("input.cache", given.cache, schema.CACHES)
    _within("input.shuffle_mib", given.shuffle_mib, 0, math.inf, open_low=True)
    if given.cache_gib is not None:
        _within("input.cache_gib", given.cache_gib, 0, math.inf, open_low=True)
    _one_of("input.sampling", given.sampling, schema.SAMPLINGS)
    if given.sampling != "none" and config.loss.kind == "logit_adjusted":
        raise ConfigError(
            f"input.sampling={given.sampling!r}: loss.kind='logit_adjusted' balances them too; use one of the two"
        )
    if given.sampling != "none" and config.loss.class_weights != "none":
        raise ConfigError(
            f"input.sampling={given.sampling!r}: loss.class_weights={config.loss.class_weights!r} balances the classes "
            "already; use one of the two"
        )


def _validate_augment(augment: schema.Augment) -> None:
    _one_of("augment.policy", augment.policy, schema.POLICIES)
    for name in ("num_ops", "magnitude"):
        value = getattr(augment, name)
        if value is not None and augment.policy != "randaugment":
            raise ConfigError(f"augment.{name}={value}: policy={augment.policy!r} has none; leave it None")
    if augment.num_ops is not None:
        _at_least("augment.num_ops", augment.num_ops, 1)
    if augment.magnitude is not None:
        _within("augment.magnitude", augment.magnitude, 0, 10)
    for name in ("color_jitter", "mixup", "cutmix"):
        _within(f"augment.{name}", getattr(augment, name), 0, math.inf)
    _within("augment.erasing", augment.erasing, 0, 1)
    _one_of("augment.where", augment.where, schema.AUGMENT_WHERE)
    if augment.where == "step":
        if augment.policy not in ("randaugment", "trivialaugment"):
            raise ConfigError(f"augment.where='step': policy={augment.policy!r} has no form for the step; use host")
        if augment.cutmix:
            raise ConfigError(f"augment.cutmix={augment.cutmix}: its labels need where='host'")


def _validate_model(model: schema.Model) -> None:
    _one_of("model.backbone", model.backbone, schema.BACKBONES)
    if model.width is not None:
        if model.backbone != "mobilenetv2":
            raise ConfigError(f"model.width={model.width}: {model.backbone} has one width; leave it None")
        _within("model.width", model.width, 0, 2, open_low=True)
    _one_of("model.head", model.head, schema.HEADS)
    if model.dropout is not None:
        _within("model.dropout", model.dropout, 0, 1, open_high=True)
    if model.drop_path is not None:
        if not model.backbone.startswith("efficientnet"):
            raise ConfigError(f"model.drop_path={model.drop_path}: {model.backbone} has no such layers; leave it None")
        _within("model.drop_path", model.drop_path, 0, 1, open_high=True)
    if model.batch_norm_momentum is not None:
        _within("model.batch_norm_momentum", model.batch_norm_momentum, 0, 1, open_low=True, open_high=True)


def _validate_optimizer(optimizer: schema.Optimizer, global_batch: int) -> None:
    _one_of("optimizer.name", optimizer.name, schema.OPTIMIZERS)
    _within("optimizer.peak_lr", optimizer.peak_lr, 0, math.inf, open_low=True)
    if optimizer.momentum is not None:
        if optimizer.name not in ("sgd", "rmsprop"):
            raise ConfigError(f"optimizer.momentum={optimizer.momentum}: {optimizer.name} has none; leave it None")
        _within("optimizer.momentum", optimizer.momentum, 0, 1, open_high=True)
    _within("optimizer.weight_decay", optimizer.weight_decay, 0, math.inf)
    if optimizer.name == "adam" and optimizer.weight_decay:
        raise ConfigError(
            f"optimizer.weight_decay={optimizer.weight_decay}: adam has none; adamw is Adam with decoupled decay"
        )
    if optimizer.layer_decay is not None:
        _within("optimizer.layer_decay", optimizer.layer_decay, 0, 1, open_low=True)
    if optimizer.clip_norm is not None:
        _within("optimizer.clip_norm", optimizer.clip_norm, 0, math.inf, open_low=True)
    _at_least("optimizer.accumulation", optimizer.accumulation, 1)
    if global_batch % optimizer.accumulation:
        raise ConfigError(
            f"optimizer.accumulation={optimizer.accumulation}: global_batch={global_batch} does not divide into so "
            "many equal parts"
        )
    if optimizer.ema is not None:
        _within("optimizer.ema", optimizer.ema, 0, 1, open_low=True, open_high=True)


def _validate_loss(loss: schema.Loss) -> None:
    _one_of("loss.kind", loss.kind, schema.LOSSES)
    _within("loss.label_smoothing", loss.label_smoothing, 0, 1, open_high=True)
    _one_of("loss.class_weights", loss.class_weights, schema.CLASS_WEIGHTS)
    if bool(loss.given_weights) != (loss.class_weights == "given"):
        raise ConfigError(
            f"loss.given_weights={loss.given_weights}: class_weights={loss.class_weights!r}; give one weight per class "
            "with class_weights='given', and none otherwise"
        )
    for weight in loss.given_weights:
        _within("loss.given_weights", weight, 0, math.inf)
    if loss.kind == "logit_adjusted" and loss.class_weights != "none":
        raise ConfigError(
            f"loss.class_weights={loss.class_weights!r}: kind='logit_adjusted' balances the classes too; use one of "
            "the two"
        )
    for name, value, switch, needed in (
        ("effective_beta", loss.effective_beta, "class_weights", "effective"),
        ("focal_gamma", loss.focal_gamma, "kind", "focal"),
        ("logit_tau", loss.logit_tau, "kind", "logit_adjusted"),
    ):
        if value is not None and getattr(loss, switch) != needed:
            raise ConfigError(f"loss.{name}={value}: {switch}={getattr(loss, switch)!r} has none; leave it None")
    if loss.effective_beta is not None:
        _within("loss.effective_beta", loss.effective_beta, 0, 1, open_high=True)
    if loss.focal_gamma is not None:
        _within("loss.focal_gamma", loss.focal_gamma, 0, math.inf)
    if loss.logit_tau is not None:
        _within("loss.logit_tau", loss.logit_tau, 0, math.inf, open_low=True)


_OF_SCHEDULE = {
    "final_lr_fraction": ("cosine", "plateau"),
    "decay_rate": ("exponential", "step", "plateau"),
    "decay_epochs": ("exponential", "step"),
    "patience": ("plateau",),
}


def _validate_phase(name: str, phase: schema.Phase) -> None:
    if (phase.epochs is None) == (phase.steps is None):
        raise ConfigError(f"{name}: epochs={phase.epochs} and steps={phase.steps}: expected exactly one of the two")
    if phase.epochs is not None:
        _within(f"{name}.epochs", phase.epochs, 0, math.inf, open_low=True)
        _within(f"{name}.warmup_epochs", phase.warmup_epochs, 0, phase.epochs)
    if phase.steps is not None:
        _at_least(f"{name}.steps", phase.steps, 1)
        _within(f"{name}.warmup_epochs", phase.warmup_epochs, 0, math.inf)
    if not re.fullmatch(r"all|head|last:[1-9]\d*|from:[\w/.-]+", phase.trainable):
        raise ConfigError(f"{name}.trainable={phase.trainable!r}: expected all, head, last:N or from:LAYER")
    if phase.trainable == "head" and phase.freeze_batch_norm:
        raise ConfigError(f"{name}.freeze_batch_norm=True: trainable='head' already freezes it; leave it False")
    if phase.cached_features and phase.trainable != "head":
        raise ConfigError(f"{name}.cached_features=True: trainable={phase.trainable!r} changes the features; use head")
    _within(f"{name}.lr_scale", phase.lr_scale, 0, math.inf, open_low=True)
    _one_of(f"{name}.schedule", phase.schedule, schema.SCHEDULES)
    for field, schedules in _OF_SCHEDULE.items():
        value = getattr(phase, field)
        if value is not None and phase.schedule not in schedules:
            raise ConfigError(f"{name}.{field}={value}: schedule={phase.schedule!r} has none; leave it None")
    if phase.final_lr_fraction is not None:
        _within(f"{name}.final_lr_fraction", phase.final_lr_fraction, 0, 1)
    if phase.decay_rate is not None:
        _within(f"{name}.decay_rate", phase.decay_rate, 0, 1, open_low=True, open_high=True)
    if phase.decay_epochs is not None:
        _within(f"{name}.decay_epochs", phase.decay_epochs, 0, math.inf, open_low=True)
    if phase.patience is not None:
        _at_least(f"{name}.patience", phase.patience, 1)


def _validate_monitor(config: schema.Config) -> None:
    monitor = config.monitor
    _one_of("monitor.metric", monitor.metric, schema.METRICS)
    _within("monitor.min_delta", monitor.min_delta, 0, math.inf)
    if config.validation_split == "none" and monitor != schema.Monitor():
        raise ConfigError("monitor: validation_split='none' gives it nothing to follow; leave it out")
    if monitor.patience is not None:
        _at_least("monitor.patience", monitor.patience, 1)


def _validate_logs(config: schema.Config) -> None:
    logs = config.logs
    _at_least("logs.every_steps", logs.every_steps, 1)
    _within("logs.sample_images", logs.sample_images, 0, 256)
    if logs.profile_steps and not (len(logs.profile_steps) == 2 and 0 < logs.profile_steps[0] <= logs.profile_steps[1]):
        raise ConfigError(f"logs.profile_steps={logs.profile_steps}: expected () or (first, last), counted from 1")
    if logs.profile_steps and not logs.tensorboard:
        raise ConfigError(f"logs.profile_steps={logs.profile_steps}: logs.tensorboard=False has nowhere to show them")
    if logs.dynamics and config.validation_split == "none":
        raise ConfigError(
            "logs.dynamics=True: validation_split='none' never evaluates, which is when they are recorded"
        )


def _check_types(value: object, prefix: str) -> None:
    """Compares each field with its annotation, which Python itself doesn't: a file may say `epochs="3"`."""
    hints = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        name, found, hint = f"{prefix}{field.name}", getattr(value, field.name), hints[field.name]
        if dataclasses.is_dataclass(hint):
            _check_group(name, found, hint)
        elif typing.get_origin(hint) is tuple:
            _check_tuple(name, found, typing.get_args(hint))
        elif not _is_a(found, hint):
            raise ConfigError(f"{name}={found!r}: expected {_type_name(hint)}, got {type(found).__name__}")


def _check_group(name: str, found: object, group: object) -> None:
    if type(found) is not group:
        raise ConfigError(f"{name}={found!r}: expected {_type_name(group)}, got {type(found).__name__}")
    _check_types(found, f"{name}.")


def _check_tuple(name: str, found: object, items: tuple[object, ...]) -> None:
    if not isinstance(found, tuple):
        raise ConfigError(f"{name}={found!r}: expected a tuple, got {type(found).__name__}")
    if items[-1] is not Ellipsis and len(found) != len(items):
        raise ConfigError(f"{name}={found!r}: expected {len(items)} values, got {len(found)}")
    for index, item in enumerate(found):
        if dataclasses.is_dataclass(items[0]):
            _check_group(f"{name}[{index}]", item, items[0])
        elif not _is_a(item, items[0]):
            raise ConfigError(f"{name}[{index}]={item!r}: expected {_type_name(items[0])}, got {type(item).__name__}")


def _is_a(value: object, hint: object) -> bool:
    allowed = typing.get_args(hint) or (hint,)
    if isinstance(value, bool):  # a bool is an int to Python, not to a reader
        return bool in allowed
    return isinstance(value, allowed) or (float in allowed and isinstance(value, int))


def _type_name(hint: object) -> str:
    return getattr(hint, "__name__", str(hint).replace("typing.", ""))


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}={value!r}: expected one of {', '.join(allowed)}")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name}={value}: expected at least {least}")


def _within(
    name: str, value: float, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> None:
    above = low < value if open_low else low <= value
    below = value < high if open_high or high == math.inf else value <= high
    if not (above and below):
        closing = ")" if open_high or high == math.inf else "]"
        raise ConfigError(f"{name}={value}: expected {'(' if open_low else '['}{low}, {high}{closing}")
