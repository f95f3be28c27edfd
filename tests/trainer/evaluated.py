"""Names of classes in; the metrics of an imagined model on them, by the real code, with history and gallery, out."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainer.evaluation import calibration, slices, summary

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "javascript:alert(3)",
    'it\'s "quoted" & <b>bold</b>',
    "</title></style></svg><svg onload=alert(4)>",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe",
    "{{ 7 * 7 }}{% raw %}",
    "$x^2$ line\nbreak\x01",
    "ünï \N{CJK UNIFIED IDEOGRAPH-8549} \N{ARABIC LETTER BEH}" + "long" * 20,
)


class Found(NamedTuple):
    """As `trainer.predictions.Predictions`, whose module imports TensorFlow."""

    classes: tuple[str, ...]
    ids: tuple[str, ...]
    files: tuple[str, ...]
    groups: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Example:
    """As `trainer.explanation.gallery.Example`, whose module imports TensorFlow."""

    file: str
    truth: str
    predicted: str
    confidence: float
    truth_confidence: float
    image: bytes
    heatmap: bytes
    truth_heatmap: bytes | None


class Gallery(NamedTuple):
    correct: tuple[Example, ...]
    wrong: tuple[Example, ...]
    confused: tuple[Example, ...]


def found(classes: Sequence[str], *, examples: int = 400, skill: float = 3.0, seed: int = 0) -> Found:
    """Classes get rarer and harder in their order, and each is taken for the next one; too sure by the factor 3."""
    generator = np.random.default_rng(seed)
    count = len(classes)
    weights = np.linspace(1.5, 0.5, count)
    labels = generator.choice(count, examples, p=weights / weights.sum())
    labels[:count] = np.arange(count)[:examples]
    logits = generator.normal(size=[examples, count])
    logits[np.arange(examples), labels] += skill * np.linspace(1.2, 0.7, count)[labels]
    logits[np.arange(examples), (labels + 1) % count] += 1.5
    names = tuple(map(str, range(examples)))
    return Found(tuple(classes), names, names, ("",) * examples, labels, (3 * logits).astype(np.float32))


def metrics(classes: Sequence[str], **changes: Any) -> dict[str, Any]:
    """All that metrics.json may hold; `changes` as in `found`."""
    known, validation = found(classes, **changes), found(classes, **{**changes, "seed": 1})
    content = summary.summarize(
        known,  # type: ignore[arg-type]
        k=min(5, max(1, len(classes) // 2)),
        temperature=calibration.fit_temperature(validation.logits, validation.labels),
        fitted_on="validation",
        split="test",
        fingerprint="ab" * 32,
        step=1234,
        dataset_fingerprint="cd" * 32,
    )
    light = {name: (int(name) * 37 % 256, f"camera {int(name) % 3}") for name in known.ids}
    correct = summary.right_of(known)  # type: ignore[arg-type]
    content["slices"] = slices.summarize(
        ("brightness", "key"), light, known.ids, correct, known.groups, keep_single=False
    )
    content["robustness"] = [
        {"corruption": name, "severity": severity, "accuracy": content["accuracy"] * (1 - severity * loss)}
        for name, loss in (
            ("gaussian_noise", 0.12),
            ("gaussian_blur", 0.08),
            ("jpeg_compression", 0.03),
            ("brightness", 0.01),
        )
        for severity in (1, 3, 5)
    ]
    return content


def history(evaluations: int = 16) -> list[dict[str, float | None]]:
    return [
        {
            "step": 100 * (number + 1),
            "epoch": number + 1.0,
            "train_loss": 2 / (number + 1) + 0.3,
            "learning_rate": 1e-3 * (1 - number / evaluations),
            "validation_loss": 1.8 / (number + 1) + 0.4,
            "validation_accuracy": 1 - 0.6 / (number + 1),
        }
        for number in range(evaluations)
    ]


def gallery(classes: Sequence[str], files: Sequence[str], *, side_px: int = 24) -> Gallery:
    """As many examples of each kind as there are `files`."""
    picture, heat, other = (_jpeg(colour, side_px) for colour in ((30, 120, 40), (200, 80, 20), (20, 60, 200)))

    def one(file: str, number: int, wrong: bool) -> Example:
        truth, predicted = classes[number % len(classes)], classes[(number + wrong) % len(classes)]
        sure = 0.93 - 0.01 * number
        return Example(file, truth, predicted, sure, 0.05 if wrong else sure, picture, heat, other if wrong else None)

    kinds = [tuple(one(file, number, wrong) for number, file in enumerate(files)) for wrong in (False, True, True)]
    return Gallery(*kinds)


def _jpeg(colour: tuple[int, int, int], side_px: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side_px, side_px), colour).save(stream, "JPEG")
    return stream.getvalue()
