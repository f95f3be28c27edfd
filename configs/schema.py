"""What an experiment may say: typed fields with their reasons, each of them a keyword of the part that it configures.

`config_flags` overrides single fields from the command line (`--config.optimizer.peak_lr=3e-4`). It knows int, float,
bool, str, tuple and Optional, and reads annotations as objects: hence neither `X | None` nor
`from __future__ import annotations` here. It writes past `__post_init__`, so commands call `Config.validate()`.
"""

import dataclasses
from typing import Optional

BACKBONES = (
    "mobilenetv2",
    *(f"efficientnet_b{size}" for size in range(8)),
    *(f"efficientnetv2_{size}" for size in ("b0", "b1", "b2", "b3", "s", "m", "l")),
    "resnet50",
    "vgg16",
)
HEADS = ("linear", "mlp")
OPTIMIZERS = ("sgd", "adam", "adamw", "lamb", "rmsprop")
SCHEDULES = ("cosine", "exponential", "step", "constant", "plateau")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
CACHES = ("auto", "none", "encoded", "decoded", "disk")
SAMPLINGS = ("none", "sqrt", "uniform")
LOSSES = ("cross_entropy", "focal", "logit_adjusted")
CLASS_WEIGHTS = ("none", "balanced", "effective", "given")
POLICIES = ("none", "randaugment", "trivialaugment", "classic")
AUGMENT_WHERE = ("host", "step")
METRICS = ("accuracy", "loss", "top_k_accuracy", "balanced_accuracy", "macro_f1")


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
    weights: str = "none"  # none, imagenet (downloaded once), the path of a .h5 file, or an earlier run's --workdir
    head: str = "linear"  # mlp: batch norm, 512 and 256 units, batch norm, dropout
    # None is 0.2 for linear, as MobileNetV2 and EfficientNet train theirs, and 0.3 for mlp.
    dropout: Optional[float] = None  # noqa: UP045
    drop_path: Optional[float] = None  # noqa: UP045  stochastic depth at the last block; None is the backbone's own
    # None keeps the backbone's own (0.999, 0.99), which need thousands of steps to arrive; short runs want 0.9.
    batch_norm_momentum: Optional[float] = None  # noqa: UP045
    sync_batch_norm: bool = False  # normalise over the global batch instead of each replica's part


@dataclasses.dataclass(slots=True)
class Optimizer:
    """Keywords of `trainer.optimizer.build`, and what the step does with gradients and weights around it."""

    name: str = "sgd"
    peak_lr: float = 0.05
    momentum: Optional[float] = None  # noqa: UP045  sgd and rmsprop only; None is 0.9
    weight_decay: float = 0.0  # decoupled, not on biases and norms
    layer_decay: Optional[float] = None  # noqa: UP045  each block's rate is so much of the next one's; 0.75 is usual
    clip_norm: Optional[float] = None  # noqa: UP045  of all gradients together; 1.0 is usual
    accumulation: int = 1  # parts of the global batch that pass through the model one after the other, for its memory
    ema: Optional[float] = None  # noqa: UP045  decay of averaged weights, which are then evaluated; 0.9999 is usual


@dataclasses.dataclass(slots=True)
class Loss:
    """Keywords of `trainer.loss.make`."""

    kind: str = "cross_entropy"
    label_smoothing: float = 0.1  # https://arxiv.org/abs/1512.00567, section 7
    class_weights: str = "none"
    given_weights: tuple[float, ...] = ()  # class_weights='given' only: one per class, in the order of their names
    effective_beta: Optional[float] = None  # noqa: UP045  class_weights='effective' only; None is 0.999
    focal_gamma: Optional[float] = None  # noqa: UP045  focal only; None is 2
    logit_tau: Optional[float] = None  # noqa: UP045  logit_adjusted only; None is 1


@dataclasses.dataclass(slots=True)
class Phase:
    """One stretch of training; two-phase transfer is two of them. Exactly one of `epochs` and `steps` is set."""

    epochs: Optional[float] = None  # noqa: UP045
    steps: Optional[int] = None  # noqa: UP045
    # all; head (the backbone is frozen, its batch norm too); last:N (layers with weights); from:LAYER (to the end)
    trainable: str = "all"
    freeze_batch_norm: bool = False  # keep pretrained moving statistics while weights train
    cached_features: bool = False  # trainable='head' only: run the frozen backbone once, over images as evaluated
    lr_scale: float = 1.0  # times optimizer.peak_lr is this phase's peak
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    # cosine: where it ends, as a share of this phase's peak, None is 0; plateau: where it stops falling, None is 0.001
    final_lr_fraction: Optional[float] = None  # noqa: UP045
    decay_rate: Optional[float] = None  # noqa: UP045  exponential, step and plateau: the factor; None is 0.97, 0.1, 0.1
    # exponential and step: how far apart the factors come; None is 2.4 (EfficientNet's), and a third of what comes
    # after the warmup.
    decay_epochs: Optional[float] = None  # noqa: UP045
    patience: Optional[int] = None  # noqa: UP045  plateau: evaluations without gain before the rate falls; None is 5


@dataclasses.dataclass(slots=True)
class Monitor:
    """Keywords of `trainer.monitor.Rules`: which evaluation is the best one, and when to stop waiting for a better."""

    metric: str = "accuracy"  # of the validation split
    min_delta: float = 0.0  # what counts as a gain
    # Evaluations without gain, in the last phase, before training stops; None never stops.
    patience: Optional[int] = None  # noqa: UP045
    restore_best: bool = True  # end with the best evaluation's weights; evaluate and predict take them in any case


@dataclasses.dataclass(slots=True)
class Divergence:
    """Keywords of `trainer.divergence.Watch`: a loss that is no number, or a spike, ends the run or rolls it back."""

    # A step's loss above so many times the median of the steps before it. None only looks for what is no number.
    spike_factor: Optional[float] = None  # noqa: UP045
    rollback: bool = False  # once: go back to the last good checkpoint and on with a lower rate
    rollback_lr_factor: Optional[float] = None  # noqa: UP045  with rollback only; None is 0.5


@dataclasses.dataclass(slots=True)
class Logs:
    """Keywords of `trainer.progress.Progress` and the loop: what is written while training, besides its history."""

    every_steps: int = 20
    tensorboard: bool = True
    sample_images: int = 16  # augmented training images shown in TensorBoard, 0 for none
    profile_steps: tuple[int, ...] = ()  # (first, last): global steps that TensorFlow's profiler records
    mlflow: Optional[str] = None  # noqa: UP045  tracking address; needs the mlflow extra
    # How each training example stands, at every evaluation, for `python -m trainer label_errors`. Costs a pass over the
    # training split each time, a third of an epoch and more where little trains.
    dynamics: bool = False


@dataclasses.dataclass(slots=True)
class Config:
    """An experiment. Every field is a keyword of `trainer.train.train`."""

    seed: int = 42
    global_batch: int = 32
    train_split: str = "train"
    validation_split: str = "validation"  # none: train without looking
    precision: str = "float32"
    xla: bool = False  # compile the step with XLA: worth it on accelerators, ten times slower on CPU
    steps_per_call: int = 1  # steps between two returns to Python; TPUs want tens
    deterministic: bool = False  # the same command gives the same weights to the last bit; slower
    input: Input = dataclasses.field(default_factory=Input)
    augment: Augment = dataclasses.field(default_factory=Augment)
    model: Model = dataclasses.field(default_factory=Model)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    loss: Loss = dataclasses.field(default_factory=Loss)
    phases: tuple[Phase, ...] = dataclasses.field(default_factory=lambda: (Phase(epochs=1),))
    monitor: Monitor = dataclasses.field(default_factory=Monitor)
    divergence: Divergence = dataclasses.field(default_factory=Divergence)
    logs: Logs = dataclasses.field(default_factory=Logs)
    max_steps: Optional[int] = None  # noqa: UP045  stop earlier than the phases say; the schedule stays as it is
    evaluate_every_epochs: float = 1.0
    checkpoint_every_steps: int = 500
    checkpoints_kept: int = 2  # newest ones, beside the best: one more in case a disk fills up or a copy is cut off

    def validate(self) -> None:
        """Raises ConfigError naming the first field whose value is impossible."""
        from configs import validation  # it reads this file's classes

        validation.validate(self)
