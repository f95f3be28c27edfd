"""What an export says of itself: in every format's own file, and with more in `export.json`, which is written last."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from trainer import classifier
from trainer import run as run_lib
from trainer.export import preparation

FORMAT = 1
KEY = "shardline"  # of the entry that ONNX, TFLite and .keras files hold `About` under, as JSON
_CONVERTERS = ("ai-edge-litert", "onnx", "onnxruntime", "tf2onnx")


@dataclasses.dataclass(frozen=True)
class About:
    """Of the model, whatever the format. The number of the version is `export.json`'s alone."""

    format: int
    name: str  # the dataset's
    classes: Sequence[str]  # in the order of the outputs
    fingerprint: str  # of the run: `trainer.run.Run.fingerprint`
    dataset_fingerprint: str
    step: int
    code: str
    temperature: float
    preprocessing: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def describe(model: classifier.Classifier, name: str) -> About:
    settings = model.run.config["input"]
    return About(
        format=FORMAT,
        name=name,
        classes=list(model.run.classes),
        fingerprint=model.fingerprint,
        dataset_fingerprint=model.run.dataset_fingerprint,
        step=model.step,
        code=run_lib.code_version(),
        temperature=model.temperature,
        preprocessing={
            "version": preparation.VERSION,
            "image_size": settings["image_size"],
            "crop_fraction": settings["crop_fraction"],
            "storing": dict(model.run.storing),
            "not_in_the_graph": list(preparation.NOT_IN_THE_GRAPH),
        },
    )


def package_versions() -> dict[str, str]:
    versions = run_lib.package_versions()
    for package in _CONVERTERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
