"""What an experiment may say: typed fields with their reasons, each of them a keyword of the part that it configures.

`config_flags` overrides single fields from the command line (`--config.optimizer.peak_lr=3e-4`). It knows int, float,
bool, str, tuple and Optional, and reads annotations as objects: hence neither `X | None` nor
`from __future__ import annotations` here. It writes past `__post_init__`, so commands call `Config.validate()`.
"""

import dataclasses
import math
import typing
from typing import Optional

BACKBONES = ("mobilenetv2", "efficientnet_b0")
OPTIMIZERS = ("sgd", "rmsprop", "adamw")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
CACHES = ("auto", "none", "encoded", "decoded", "disk")
SAMPLINGS = ("none", "sqrt", "uniform")
CLASS_WEIGHTS = ("none", "balanced")
TRAINABLE = ("head", "all")
POLICIES = ("none", "randaugment", "trivialaugment", "classic")
AUGMENT_WHERE = ("host", "step")


class ConfigError(ValueError):
    """A field has an impossible value; the message begins with the field's name."""


# slots: assigning to a misspelt field raises instead of making a new one.
@dataclasses.dataclass(slots=True)
class Input:
    """Keywords of `pipeline.training.batches`, and of `pipeline.evaluation.batches` for what evaluation needs."""

    image_size: int = 224
    crop_area: tuple[float, float] = (0.08, 1.0)  # Inception's, right for ImageNet; small sets want a gentler one
    flip: bool = True
    crop_fraction: float = 0.875  # at evaluation: 224 out of 256, as every ImageNet report since AlexNet
    cache: str = "auto"
    cache_dir: Optional[str] = None  # noqa: UP045  for disk (auto takes it only if either is set) and copies of remote shards
    cache_gib: Optional[float] = None  # noqa: UP045  its bound; None is half of what the disk has free
    # All workers together draw from so much at random, of stored bytes: 2,400 of ImageNet's photos, and the whole of
    # smaller sets. Preparation has shuffled already, and with batch, model and TensorFlow it stays below 1 GiB.
    shuffle_mib: float = 256
    sampling: str = "none"  # sqrt, uniform: rare classes come more often, instead of loss.class_weights


@dataclasses.dataclass(slots=True)
class Augment:
    """Keywords of `pipeline.augmentations.augment.Augment`, which says what each means.

    All off: how much a dataset takes is for its experiment to say. The crop and the flip stand in `Input`.
    """

    policy: str = "none"
    num_ops: Optional[int] = None  # noqa: UP045  randaugment only; None is 2
    magnitude: Optional[float] = None  # noqa: UP045  randaugment only; None is 9
    color_jitter: float = 0.0  # strength; 0.4 is usual
    erasing: float = 0.0  # probability; 0.25 is usual
    mixup: float = 0.0  # alpha; 0.2 for small models, 0.8 beside CutMix
    cutmix: float = 0.0  # alpha; 1.0 is the paper's
    where: str = "host"  # step: the policy runs where the model runs, for hosts that can't feed their accelerators


@dataclasses.dataclass(slots=True)
class Model:
    """Keywords of `trainer.model.build`."""

    backbone: str = "mobilenetv2"
    width: Optional[float] = None  # noqa: UP045  MobileNetV2's alpha; None is the backbone's own
    weights: str = "none"  # none, imagenet (downloaded once), or the path of a .h5 file
    dropout: float = 0.2  # as both papers train their heads
    # None keeps the backbone's own (0.999, 0.99), which need thousands of steps to arrive; short runs want 0.9.
    batch_norm_momentum: Optional[float] = None  # noqa: UP045
    sync_batch_norm: bool = False  # normalise over the global batch instead of each replica's part


@dataclasses.dataclass(slots=True)
class Optimizer:
    """Keywords of `trainer.optimizer.build`, and the peak that the schedule scales."""

    name: str = "sgd"
    peak_lr: float = 0.05
    momentum: Optional[float] = None  # noqa: UP045  sgd and rmsprop only; None is 0.9
    weight_decay: float = 0.0  # decoupled, not on biases and norms


@dataclasses.dataclass(slots=True)
class Loss:
    """Keywords of `trainer.loss`."""

    label_smoothing: float = 0.1  # https://arxiv.org/abs/1512.00567, section 7
    class_weights: str = "none"


@dataclasses.dataclass(slots=True)
class Phase:
    """One stretch of training; two-phase transfer is two of them."""

    epochs: float = 1.0
    trainable: str = "all"  # head: the backbone is frozen, its batch norm too
    freeze_batch_norm: bool = False  # keep pretrained moving statistics while weights train
    lr_scale: float = 1.0  # times optimizer.peak_lr
    warmup_epochs: float = 0.0
    final_lr_fraction: float = 0.0  # where the cosine ends, as a share of this phase's peak


@dataclasses.dataclass(slots=True)
class Config:
    """An experiment. Every field is a keyword of `trainer.train.train`."""

    seed: int = 42
    global_batch: int = 32
    train_split: str = "train"
    validation_split: str = "validation"  # none: train without looking
    precision: str = "float32"
    input: Input = dataclasses.field(default_factory=Input)
    augment: Augment = dataclasses.field(default_factory=Augment)
    model: Model = dataclasses.field(default_factory=Model)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    loss: Loss = dataclasses.field(default_factory=Loss)
    phases: tuple[Phase, ...] = dataclasses.field(default_factory=lambda: (Phase(),))
    max_steps: Optional[int] = None  # noqa: UP045  stop earlier than the phases say; the schedule stays as it is
    evaluate_every_epochs: float = 1.0
    checkpoint_every_steps: int = 500
    log_every_steps: int = 20

    def validate(self) -> None:
        """Raises ConfigError naming the first field whose value is impossible."""
        _check_types(self, "")
        _within("seed", self.seed, 0, 2**32 - 1)  # NumPy's range
        _at_least("global_batch", self.global_batch, 1)
        _one_of("precision", self.precision, PRECISIONS)
        _at_least("input.image_size", self.input.image_size, 32)  # below, five halvings leave nothing
        smallest, largest = self.input.crop_area
        if not 0 < smallest <= largest <= 1:
            raise ConfigError(f"input.crop_area={self.input.crop_area}: expected 0 < smallest <= largest <= 1")
        _within("input.crop_fraction", self.input.crop_fraction, 0, 1, open_low=True)
        _one_of("input.cache", self.input.cache, CACHES)
        _within("input.shuffle_mib", self.input.shuffle_mib, 0, math.inf, open_low=True)
        if self.input.cache_gib is not None:
            _within("input.cache_gib", self.input.cache_gib, 0, math.inf, open_low=True)
        _one_of("input.sampling", self.input.sampling, SAMPLINGS)
        if self.input.sampling != "none" and self.loss.class_weights != "none":
            raise ConfigError(
                f"input.sampling={self.input.sampling!r}: loss.class_weights={self.loss.class_weights!r} balances the "
                "classes already; use one of the two"
            )
        _validate_augment(self.augment)
        self._validate_model_and_optimizer()
        _within("loss.label_smoothing", self.loss.label_smoothing, 0, 1, open_high=True)
        _one_of("loss.class_weights", self.loss.class_weights, CLASS_WEIGHTS)
        if not self.phases:
            raise ConfigError("phases=(): expected at least one")
        for index, phase in enumerate(self.phases):
            _validate_phase(f"phases[{index}]", phase)
        if self.max_steps is not None:
            _at_least("max_steps", self.max_steps, 1)
        _within("evaluate_every_epochs", self.evaluate_every_epochs, 0, float("inf"), open_low=True)
        _at_least("checkpoint_every_steps", self.checkpoint_every_steps, 1)
        _at_least("log_every_steps", self.log_every_steps, 1)

    def _validate_model_and_optimizer(self) -> None:
        model, optimizer = self.model, self.optimizer
        _one_of("model.backbone", model.backbone, BACKBONES)
        if model.width is not None:
            if model.backbone != "mobilenetv2":
                raise ConfigError(f"model.width={model.width}: {model.backbone} has one width; leave it None")
            _within("model.width", model.width, 0, 2, open_low=True)
        _within("model.dropout", model.dropout, 0, 1, open_high=True)
        if model.batch_norm_momentum is not None:
            _within("model.batch_norm_momentum", model.batch_norm_momentum, 0, 1, open_low=True, open_high=True)
        _one_of("optimizer.name", optimizer.name, OPTIMIZERS)
        _within("optimizer.peak_lr", optimizer.peak_lr, 0, float("inf"), open_low=True)
        if optimizer.momentum is not None:
            if optimizer.name == "adamw":
                raise ConfigError(f"optimizer.momentum={optimizer.momentum}: adamw has none; leave it None")
            _within("optimizer.momentum", optimizer.momentum, 0, 1, open_high=True)
        _within("optimizer.weight_decay", optimizer.weight_decay, 0, float("inf"))


def _validate_augment(augment: Augment) -> None:
    _one_of("augment.policy", augment.policy, POLICIES)
    for name in ("num_ops", "magnitude"):
        value = getattr(augment, name)
        if value is not None and augment.policy != "randaugment":
            raise ConfigError(f"augment.{name}={value}: policy={augment.policy!r} has none; leave it None")
    if augment.num_ops is not None:
        _at_least("augment.num_ops", augment.num_ops, 1)
    if augment.magnitude is not None:
        _within("augment.magnitude", augment.magnitude, 0, 10)
    for name in ("color_jitter", "mixup", "cutmix"):
        _within(f"augment.{name}", getattr(augment, name), 0, float("inf"))
    _within("augment.erasing", augment.erasing, 0, 1)
    _one_of("augment.where", augment.where, AUGMENT_WHERE)
    if augment.where == "step":
        if augment.policy not in ("randaugment", "trivialaugment"):
            raise ConfigError(f"augment.where='step': policy={augment.policy!r} has no form for the step; use host")
        if augment.cutmix:
            raise ConfigError(f"augment.cutmix={augment.cutmix}: its labels need where='host'")


def _validate_phase(name: str, phase: Phase) -> None:
    _within(f"{name}.epochs", phase.epochs, 0, float("inf"), open_low=True)
    _one_of(f"{name}.trainable", phase.trainable, TRAINABLE)
    if phase.trainable == "head" and phase.freeze_batch_norm:
        raise ConfigError(f"{name}.freeze_batch_norm=True: trainable='head' already freezes it; leave it False")
    _within(f"{name}.lr_scale", phase.lr_scale, 0, float("inf"), open_low=True)
    _within(f"{name}.warmup_epochs", phase.warmup_epochs, 0, phase.epochs)
    _within(f"{name}.final_lr_fraction", phase.final_lr_fraction, 0, 1)


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
