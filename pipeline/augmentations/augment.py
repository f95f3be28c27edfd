"""What happens to training images: settings in; functions of an image, and of a batch, with its place out.

The order is policy, colour jitter, random erasing, then MixUp and CutMix on the batch, as in torchvision's and timm's
recipes. Each draws from a seed of its own: switching one on or off changes nothing in what the others draw.
"""

from __future__ import annotations

import dataclasses
import enum

import tensorflow as tf

from pipeline.augmentations import batched, classic, erasing, jitter, mixing, policies
from pipeline.errors import InputError

POLICIES = ("none", "randaugment", "trivialaugment", "classic")
WHERE = ("host", "step")
# With what RandAugment's authors train ResNet-50 on ImageNet: https://arxiv.org/abs/1909.13719, section 4.4.
NUM_OPS, MAGNITUDE = 2, 9
MAX_MAGNITUDE = 10  # where the paper's ranges end


class _Part(enum.IntEnum):
    """What separates the draws of one part from another's, and all from the crop's, which takes the seed as it is.

    The flip has 1 << 32 (`pipeline.decode`), dropout 5 << 32 (`trainer.dropout`).
    """

    JITTER = 2 << 32  # above any run's seed
    ERASING = 3 << 32
    MIXING = 4 << 32
    POLICY = 6 << 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """Settings that fit each other, or an InputError that names the field.

    Attributes:
      policy: none, randaugment, trivialaugment (see `policies`) or classic (see `classic`).
      num_ops, magnitude: randaugment's, None for `NUM_OPS` and `MAGNITUDE`.
      color_jitter: strength, see `jitter.color_jitter`; 0 is off.
      erasing: probability, see `erasing.erase`; 0 is off.
      mixup, cutmix: alphas, see `mixing.mix`; 0 is off, and of two that are on each example gets one.
      where: host, or step for the policy's batched form inside the training step, where the model runs. It then comes
        after jitter, erasing and MixUp instead of before. CutMix's labels count pixels that a policy could move out of
        the image: it needs host.
    """

    policy: str = "none"
    num_ops: int | None = None
    magnitude: float | None = None
    color_jitter: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    where: str = "host"

    def __post_init__(self) -> None:
        _check(self, "policy", self.policy in POLICIES, f"one of {', '.join(POLICIES)}")
        for name in ("num_ops", "magnitude"):
            applies = self.policy == "randaugment" or getattr(self, name) is None
            _check(self, name, applies, f"None, because policy={self.policy} has none")
        _check(self, "num_ops", self.num_ops is None or self.num_ops >= 1, "at least 1, or None")
        fits = self.magnitude is None or 0 <= self.magnitude <= MAX_MAGNITUDE
        _check(self, "magnitude", fits, f"[0, {MAX_MAGNITUDE}], or None")
        for name in ("color_jitter", "mixup", "cutmix"):
            _check(self, name, 0 <= getattr(self, name) < float("inf"), "[0, inf)")
        _check(self, "erasing", 0 <= self.erasing <= 1, "[0, 1]")
        _check(self, "where", self.where in WHERE, f"one of {', '.join(WHERE)}")
        if self.where == "step":
            has_form = self.policy in ("randaugment", "trivialaugment")
            _check(self, "where", has_form, f"host, because policy={self.policy} has no form for the step")
            _check(self, "cutmix", not self.cutmix, "0 with where=step, which would move pixels that labels count")

    @property
    def mixes(self) -> bool:
        """Whether `mix` is to be called, and labels become distributions."""
        return bool(self.mixup or self.cutmix)

    @property
    def in_step(self) -> bool:
        """Whether `batch` is to be called in the training step."""
        return self.where == "step"

    @tf.autograph.experimental.do_not_convert
    def image(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """What one image gets on the host: the policy, unless it runs in the step, then jitter, then erasing.

        Args:
          image: uint8 [S, S, 3].
          seed: int64 [2], [the run's seed, below 2**32, the example's place].

        Returns:
          uint8 [S, S, 3].
        """
        if not self.in_step:
            image = self._apply_policy(image, _of(seed, _Part.POLICY))
        if self.color_jitter:
            image = jitter.color_jitter(image, _of(seed, _Part.JITTER), strength=self.color_jitter)
        if self.erasing:
            image = erasing.erase(image, _of(seed, _Part.ERASING), probability=self.erasing)
        return image

    @tf.autograph.experimental.do_not_convert
    def mix(
        self, images: tf.Tensor, labels: tf.Tensor, places: tf.Tensor, *, seed: int, num_classes: int, block: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """MixUp or CutMix of a batch: see `mixing.mix` for arguments, results and errors.

        Raises:
          InputError: where neither is on.
        """
        if not self.mixes:
            raise InputError("mixup=0 and cutmix=0: expected one above 0 where a batch is to be mixed")
        return mixing.mix(
            images,
            labels,
            places,
            seed=seed + _Part.MIXING,
            num_classes=num_classes,
            block=block,
            mixup=self.mixup,
            cutmix=self.cutmix,
        )

    @tf.autograph.experimental.do_not_convert
    def batch(self, images: tf.Tensor, places: tf.Tensor, *, seed: int) -> tf.Tensor:
        """What the training step does to a batch: the policy, drawn for each image as `image` draws it on the host.

        Args:
          images: uint8 [b, S, S, 3].
          places: int64 [b], each example's place in the global sequence.
          seed: the run's, below 2**32.

        Returns:
          uint8 [b, S, S, 3].

        Raises:
          InputError: where the policy runs on the host.
        """
        if not self.in_step:
            raise InputError(f"where={self.where}: expected step where the training step is to augment")
        if self.policy == "trivialaugment":
            return batched.trivial_augment(images, places, seed=seed + _Part.POLICY)
        num_ops, magnitude = self._strength()
        return batched.rand_augment(images, places, seed=seed + _Part.POLICY, num_ops=num_ops, magnitude=magnitude)

    def _apply_policy(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        if self.policy == "randaugment":
            num_ops, magnitude = self._strength()
            return policies.rand_augment(image, seed, num_ops=num_ops, magnitude=magnitude)
        if self.policy == "trivialaugment":
            return policies.trivial_augment(image, seed)
        return classic.classic(image, seed) if self.policy == "classic" else image

    def _strength(self) -> tuple[int, float]:
        return (
            NUM_OPS if self.num_ops is None else self.num_ops,
            MAGNITUDE if self.magnitude is None else self.magnitude,
        )


def _of(seed: tf.Tensor, part: _Part) -> tf.Tensor:
    return seed + tf.constant([part, 0], tf.int64)


def _check(augment: Augment, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise InputError(f"{name}={getattr(augment, name)!r}: expected {expected}")
