"""What the trainer and an export make of the same images in; how far they are apart, stage by stage, out.

The gate before publishing: an export that differs by more than its format's tolerance is not published, and the first
stage that differs is named, since all behind it differ with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

PIXELS = ("decode", "orientation", "crop")  # of uint8; only the SavedModel has them, the others begin with pixels
STAGES = (*PIXELS, "scaling", "logits", "probabilities", "classes")

Values = Sequence[npt.NDArray[Any]] | npt.NDArray[Any]  # one of each example


@dataclasses.dataclass(frozen=True)
class Observed:
    """What one model makes of some images.

    A model may offer several ways to the same thing, as a SavedModel's signatures do; each of them counts.
    """

    ways: Mapping[str, Sequence[Values]]  # stage -> values by each way; without `classes`
    labels: Sequence[Sequence[str]] = ()  # the likeliest class of each example by each way, by name
    order: Sequence[str] = ()  # of the classes, as the file itself says it


class Tolerance(NamedTuple):
    """What may differ. Scaling and logits are shares of the range that the trainer's have over all examples."""

    scaling: float
    logits: float
    probabilities: float  # absolute, at most
    decisions: float  # the share of examples whose likeliest class is another, apart from ties
    levels: float = 0.0  # of 255, at most; an image that is stored comes out as it is


# The same operations in the same precision differ by rounding alone: on 500 images 2e-6 was seen, see tests/bench.
_SAME = Tolerance(scaling=1e-6, logits=1e-5, probabilities=1e-5, decisions=0)
# Other kernels, with batch norm folded into convolutions.
_FLOAT32 = Tolerance(scaling=1e-5, logits=1e-3, probabilities=1e-3, decisions=0)
# Weights of 11 bits, and sums too on processors that can: 0.08 of probability and 2 of 64 decisions were seen to turn.
_FLOAT16 = Tolerance(scaling=1e-3, logits=0.05, probabilities=0.2, decisions=0.05)
# Weights of 8 bits, and activations: here is found only what is no rounding; decisions have a budget of their own, see
# `trainer.export.quantization`.
_EIGHT_BITS = Tolerance(scaling=0.05, logits=0.25, probabilities=0.5, decisions=0.1)
TOLERANCES = {
    "saved_model": _SAME,
    "keras": _FLOAT32,
    "tflite_float32": _FLOAT32,
    "tflite_float16": _FLOAT16,
    "tflite_dynamic": _EIGHT_BITS,
    "tflite_int8": _EIGHT_BITS,
    "onnx": _FLOAT32,
}
_TIE = 1e-4  # where the two likeliest probabilities are no farther apart, rounding decides
# Beside a trainer that computes in 16 bits, bfloat16 having 8 of them, whatever an export in float32 does.
_BESIDE_16_BITS = Tolerance(scaling=1e-2, logits=0.1, probabilities=0.1, decisions=0.05)
# Of files that preparation would turn, scale or compress: the mean over an image. Pillow and TensorFlow turn and
# compress alike, and scale alike up to rounding: 0.03 was seen, and 0.9 where a step of the scaling was another.
FILE_LEVELS = 0.5


def tolerance(name: str, *, precision: str) -> Tolerance:
    """Of a format, for a run of `configs.schema.Config.precision`."""
    own = TOLERANCES[name]
    if precision == "float32" or name == "saved_model":  # which computes as the trainer does
        return own
    return Tolerance(*map(max, own, _BESIDE_16_BITS))


class Report(NamedTuple):
    examples: int
    stages: Mapping[str, tuple[float, float]]  # stage -> largest difference, tolerance
    decisions: float  # the share of examples whose likeliest class is another
    first: str | None  # the first stage that is out of tolerance

    def to_json(self) -> dict[str, Any]:
        return {
            "examples": self.examples,
            "top_1_agreement": 1 - self.decisions,
            "stages": {
                stage: {"difference": float(f"{found:.3g}"), "tolerance": allowed}
                for stage, (found, allowed) in self.stages.items()
            },
            "first_difference": self.first,
        }


def compare(expected: Observed, found: Observed, tolerance: Tolerance) -> Report:
    """Holds an export against the trainer, over the same examples in the same order."""
    differences: dict[str, tuple[float, float]] = {}
    for stage in STAGES[:-1]:
        if stage in found.ways:
            (wanted,) = expected.ways[stage]
            allowed = tolerance.levels if stage in PIXELS else getattr(tolerance, stage)
            apart = [_difference(stage, wanted, way) for way in found.ways[stage]]
            differences[stage] = float(np.max(apart)), allowed  # NaN stays NaN, and is within no tolerance
    (wanted,) = expected.ways["probabilities"]
    chosen = [np.argmax(np.asarray(way), axis=-1) for way in found.ways["probabilities"]]
    turned = [way != np.argmax(np.asarray(wanted), axis=-1) for way in chosen]
    decided = np.ptp(np.sort(np.asarray(wanted), axis=-1)[:, -2:], axis=-1) > _TIE
    differences["classes"] = _misnamed(expected.order, found, chosen), 0.0
    # Converters move factors from in front of a convolution into its weights, which changes nothing behind it.
    before = {stage: differences[stage] for stage in ("scaling", "logits")}
    if _first(before) == "scaling" and _first({"logits": before["logits"]}) is None:
        del differences["scaling"]
    first = _first(differences)
    # Of few examples one is a large share, and what may turn at all may turn once.
    allowed = max(tolerance.decisions * len(wanted), float(tolerance.decisions > 0))
    if first in (None, "classes") and max(np.sum(way & decided) for way in turned) > allowed:
        first = "probabilities"
    return Report(len(wanted), differences, max(float(np.mean(way)) for way in turned), first)


def compare_files(expected: Observed, found: Observed) -> Report:
    """The same for files that preparation would change, of which only pixels are compared, by their mean difference."""
    differences = {}
    for stage in PIXELS:
        (wanted,) = expected.ways[stage]
        apart = max(_levels(one, other, np.mean) for way in found.ways[stage] for one, other in _pairs(wanted, way))
        differences[stage] = apart, FILE_LEVELS
    return Report(len(wanted), differences, 0.0, _first(differences))


def _first(differences: Mapping[str, tuple[float, float]]) -> str | None:
    return next((stage for stage, (apart, allowed) in differences.items() if not apart <= allowed), None)


def _difference(stage: str, wanted: Values, found: Values) -> float:
    if stage in PIXELS:
        return max(_levels(one, other, np.max) for one, other in _pairs(wanted, found))
    one, other = np.asarray(wanted).astype(np.float64), np.asarray(found).astype(np.float64)
    if stage == "scaling" and len(other):
        one = one[: len(other)]  # some formats show it for the first few only
    if one.shape != other.shape:
        return np.inf
    scale = 1.0 if stage == "probabilities" else max(float(np.ptp(one)), np.finfo(np.float32).tiny)
    return float(np.abs(one - other).max()) / scale


def _levels(wanted: npt.NDArray[Any], found: npt.NDArray[Any], over: Any) -> float:
    if wanted.shape != found.shape:
        return 255.0
    return float(over(np.abs(wanted.astype(np.int16) - found.astype(np.int16))))


def _misnamed(order: Sequence[str], found: Observed, chosen: Sequence[npt.NDArray[np.int64]]) -> float:
    """The share of examples, or of all classes where that is more, that go by another name than the trainer's."""
    wrong = [float(list(found.order) != list(order)) and _share(order, found.order)]
    wrong += [_share([order[index] for index in way], names) for way, names in zip(chosen, found.labels, strict=False)]
    return max(wrong)


def _share(wanted: Sequence[str], found: Sequence[str]) -> float:
    if len(wanted) != len(found):
        return 1.0
    return sum(one != other for one, other in zip(wanted, found, strict=True)) / len(wanted)


def _pairs(wanted: Values, found: Values) -> Any:
    return zip(wanted, found, strict=True)
