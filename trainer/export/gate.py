"""A classifier, records and files in; what the trainer makes of them, to hold every export against, out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline import decode, records
from trainer import classifier, predictions
from trainer.export import golden, networks, parity
from trainer.export.parity import Observed, Report

BATCH = 32  # enough to fill a core's vector units; more only adds memory


class ParityError(RuntimeError):
    """An export says something else than the trainer, beyond its format's tolerance; nothing was published."""


def expected(model: classifier.Classifier, chosen: Sequence[records.Record]) -> Observed:
    """What the trainer makes of records, stage by stage."""
    settings = model.run.config["input"]
    decoded = [decode.decode(record.image).numpy() for record in chosen]
    cropped = golden.pixels(chosen, image_size=settings["image_size"], crop_fraction=settings["crop_fraction"])
    entry = networks.entry(model.net)
    batches = [cropped[start : start + BATCH] for start in range(0, len(cropped), BATCH)]
    logits = np.concatenate([model.logits(batch) for batch in batches])
    ways: dict[str, parity.Values] = {
        "decode": decoded,
        "orientation": decoded,  # what is stored is upright
        "crop": list(cropped),
        "scaling": np.concatenate([np.asarray(entry(batch, training=False), np.float32) for batch in batches]),
        "logits": logits,
        "probabilities": predictions.softmax(logits, model.temperature),
    }
    return Observed({stage: [values] for stage, values in ways.items()}, order=model.run.classes)


def expected_of_files(model: classifier.Classifier, files: Sequence[bytes]) -> Observed:
    """What Pillow and preparation make of files, up to the model's input."""
    read = [golden.read_by_pillow(file) for file in files]
    ways = {
        "decode": [decoded for decoded, _ in read],
        "orientation": [upright for _, upright in read],
        "crop": [model.prepare(file).numpy() for file in files],
    }
    return Observed({stage: [values] for stage, values in ways.items()}, order=model.run.classes)


def images(wanted: Observed) -> npt.NDArray[np.uint8]:
    """Of the stage `crop`, uint8 [n, image_size, image_size, 3]: what formats without preparation are given."""
    (cropped,) = wanted.ways["crop"]
    return np.asarray(cropped)


def check(name: str, report: Report) -> Report:
    """Raises ParityError where `report`, of the format `name`, is out of tolerance."""
    if report.first is None:
        return report
    apart, allowed = report.stages[report.first]
    found = f"differs by {apart:.3g}, {allowed:g} is allowed"
    if apart <= allowed:
        found = f"{report.decisions:.1%} of the decisions are others"
    raise ParityError(
        f"{name}: the stage {report.first!r} is the first that is not the trainer's ({found}, on {report.examples} "
        "images); nothing was published"
    )
