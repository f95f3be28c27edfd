"""A run in; `WORKDIR/exports/N` with its model in the formats asked for, compared with the trainer, out."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from pipeline import images, records, storage
from pipeline import manifest as manifest_lib
from trainer import classifier
from trainer import run as run_lib
from trainer.export import about as about_lib
from trainer.export import (
    bias_correction,
    gate,
    golden,
    keras_file,
    parity,
    publish,
    quantization,
    reference,
    saved_model,
)
from trainer.export import formats as formats_lib
from trainer.export.about import About
from trainer.export.gate import BATCH
from trainer.export.parity import Observed, Report

if TYPE_CHECKING:
    from trainer.export import tflite_file

GOLDEN = 64  # images that every format is compared on: of most datasets some of every class
INT8_BUDGET = 0.5  # points of accuracy: below what two trainings of one recipe differ by
_SEED = 0  # of what is chosen
_FILES = 16  # every EXIF orientation twice
_CALIBRATION = 300  # 100 to 500, says https://ai.google.dev/edge/litert/models/post_training_integer_quant
_OF_SAVED_MODEL = ("saved_model.pb", "variables/", "assets/")
_MEASURED = 2000  # of the validation split, for the budget and for drift: 0.7 points are one standard error at 90 %


class Exported(NamedTuple):
    version: int
    new: bool  # False: the newest version is already what was asked for
    card: dict[str, Any]


class _Material(NamedTuple):
    """What formats are judged by."""

    golden: Observed  # what the trainer makes of some records
    measured: npt.NDArray[np.uint8]  # [n, image_size, image_size, 3], see `_fill`
    labels: npt.NDArray[np.int64]  # [n]
    probabilities: npt.NDArray[np.float32]  # [n, classes], of the SavedModel
    budget: float  # of int8


def export(
    *,
    workdir: str,
    formats: Sequence[str] = formats_lib.DEFAULT,
    checkpoint: str = "best",
    data: str | None = None,
    int8_budget: float = INT8_BUDGET,
    examples: int = GOLDEN,
) -> Exported:
    """Writes a version, unless the newest one is of the same weights, code, packages and arguments.

    Args:
      formats: see `formats.check`.
      checkpoint: see `checkpoints.load_weights`.
      data: the dataset's folder, None for where the run had it.
      int8_budget: see `quantization.choose`.
      examples: records of the validation split that every format is compared on, as many of each class.

    Raises:
      InputError: where the run, its dataset or a package is missing, or a format is unknown.
      gate.ParityError: naming the format and the first stage that is not the trainer's.
    """
    formats = formats_lib.check(formats)
    run = run_lib.load(workdir)
    data = data or run.data
    manifest = manifest_lib.load(data)
    run_lib.check_classes(run, tuple(manifest.classes), data)
    split = run.config["validation_split"]
    if split == "none":
        split = run.config["train_split"]
        logging.warning("the run had no validation split: parity, int8's budget and drift are of %r", split)
    model = classifier.load(workdir, checkpoint=checkpoint)
    about = about_lib.describe(model, manifest.name)
    settings = {"formats": list(formats), "int8_budget": int8_budget, "examples": examples, "split": split}
    card = {**about.to_json(), "packages": about_lib.package_versions(), "settings": settings}
    newest = publish.newest(workdir)
    if newest is not None and all(newest.get(name) == value for name, value in card.items()):
        return Exported(newest["version"], False, newest)

    with publish.scratch(workdir) as folder:
        parts = _write(
            folder, model, about, manifest, data, formats=formats, split=split, budget=int8_budget, examples=examples
        )
        version = publish.publish(folder, workdir, {**card, **parts})
    return Exported(version, True, publish.read(workdir, version))


def _write(
    folder: str,
    model: classifier.Classifier,
    about: About,
    manifest: manifest_lib.Manifest,
    data: str,
    *,
    formats: Sequence[str],
    split: str,
    budget: float,
    examples: int,
) -> dict[str, Any]:
    """Writes all formats into a local folder, each one judged as soon as it is there; `parity` and `reference`."""

    def sample(split: str, count: int, *, by_class: bool) -> list[records.Record]:
        return golden.sample(data, manifest, split=split, count=count, by_class=by_class, seed=_SEED)

    logging.info("export: saved_model")
    saved_model.write(folder, model, about)
    train_split = model.run.config["train_split"]
    chosen, measured = sample(split, examples, by_class=True), sample(split, _MEASURED, by_class=False)
    wanted = gate.expected(model, chosen)
    reports = {"saved_model": _check_saved_model(folder, model, chosen, wanted)}
    more = _fill(len(measured), budget) if "tflite_int8" in formats and split != train_split else 0
    judged = measured + (sample(train_split, more, by_class=False) if more else [])
    images = _pixels(model, judged)
    answers = saved_model.answers(folder, images, BATCH)
    labels = np.array([record.label for record in judged])
    material = _Material(wanted, images, labels, answers["probabilities"], budget)
    portable = _in_float32(model)
    for name, write in (("keras", _keras), ("onnx", _onnx)):
        if name in formats:
            reports[name] = write(folder, portable, about, material)
    if kinds := [name.removeprefix("tflite_") for name in formats if name.startswith("tflite_")]:
        trained_on = sample(train_split, _CALIBRATION, by_class=True) if "int8" in kinds else []
        reports |= _tflite(folder, portable, about, material, kinds, trained_on)
    sizes = reference.sizes(data, split, [record.id for record in measured])
    held_out = {name: values[: len(measured)] for name, values in answers.items()}
    return {"parity": reports, "reference": reference.reference(images[: len(measured)], held_out, sizes)}


def _fill(measured: int, budget: float) -> int:
    """How many training examples int8 is judged on besides, where held-out ones are too few to see its budget in.

    At the default of 0.5 points, one wrong answer of fewer than 200 is over it, whatever the format is like.
    """
    return _MEASURED - measured if 0 < budget * measured < 100 else 0


def summary(made: Exported) -> list[str]:
    """What a person has to know of an export, in lines."""
    card = made.card
    if not made.new:
        return [f"version {made.version} is already of these weights, settings and packages: nothing was written"]
    lines = []
    for name, report in card["parity"].items():
        files = card["files"]
        size = sum(
            entry["bytes"]
            for file, entry in files.items()
            if (file == report["file"] if "file" in report else file.startswith(_OF_SAVED_MODEL))
        )
        apart = report["stages"]["probabilities"]["difference"]
        lines.append(
            f"{name:15} {size / 1e6:7.2f} MB, probabilities at most {apart:.1e} from the trainer's, top-1 the same on "
            f"{report['top_1_agreement']:.2%} of {report['examples']} images"
        )
        if report.get("note"):
            lines.append(f"{'':15} {report['note']}")
    if card["temperature"] == 1:
        lines.append(
            "note: no temperature was fitted to these weights, so confidences are as trained: run `python -m trainer "
            "evaluate`, then export again"
        )
    return lines


def _check_saved_model(
    folder: str, model: classifier.Classifier, chosen: Sequence[records.Record], wanted: Observed
) -> dict[str, Any]:
    found = saved_model.observe(folder, [record.image for record in chosen], BATCH)
    report = gate.check("saved_model", parity.compare(wanted, found, parity.TOLERANCES["saved_model"]))
    turned = [chosen[number % len(chosen)] for number in range(_FILES)]
    files = golden.files(turned, images.Storing(**model.run.storing))
    by_pillow = gate.expected_of_files(model, files)
    of_files = parity.compare_files(by_pillow, saved_model.observe(folder, files, BATCH))
    return {**report.to_json(), "files": gate.check("saved_model, of files", of_files).to_json()}


def _keras(folder: str, model: classifier.Classifier, about: About, material: _Material) -> dict[str, Any]:
    logging.info("export: keras")
    path = os.path.join(folder, formats_lib.FILES["keras"])
    keras_file.write(path, model, about)
    report = _check("keras", model, material, keras_file.observe(path, gate.images(material.golden), BATCH))
    return {"file": formats_lib.FILES["keras"], **report.to_json()}


def _onnx(folder: str, model: classifier.Classifier, about: About, material: _Material) -> dict[str, Any]:
    from trainer.export import onnx_file  # of the extra `export`

    logging.info("export: onnx")
    path = os.path.join(folder, formats_lib.FILES["onnx"])
    onnx_file.write(path, model, about)
    report = _check("onnx", model, material, onnx_file.observe(path, gate.images(material.golden), BATCH))
    return {"file": formats_lib.FILES["onnx"], **report.to_json()}


def _tflite(
    folder: str,
    model: classifier.Classifier,
    about: About,
    material: _Material,
    kinds: Sequence[str],
    trained_on: Sequence[records.Record],
) -> dict[str, dict[str, Any]]:
    from trainer.export import tflite_file  # of the extra `export`

    reports = {}
    with tflite_file.source(model, about) as source:
        for kind in kinds:
            name, more = f"tflite_{kind}", {}
            logging.info("export: %s", name)
            if kind == "int8":
                chosen = _quantized(source, model, about, material, trained_on)
                kind, content = chosen.kind, chosen.content
                more = {"kind": kind, "tried": list(chosen.tried), "note": chosen.note}
            else:
                content = tflite_file.convert(source, kind)
            report = _check(name, model, material, tflite_file.observe(content, gate.images(material.golden)))
            file = f"model_{kind}.tflite"
            storage.write_bytes(os.path.join(folder, file), content)
            reports[name] = {"file": file, **report.to_json(), **more}
    return reports


def _quantized(
    source: tflite_file.Source,
    model: classifier.Classifier,
    about: About,
    material: _Material,
    trained_on: Sequence[records.Record],
) -> quantization.Chosen:
    """int8, or what it gives way to; kinds without floats are made of weights that are corrected for rounding."""
    from trainer.export import tflite_file

    calibration = _pixels(model, trained_on)
    with bias_correction.corrected(model.net, calibration), tflite_file.source(model, about) as corrected:
        return quantization.choose(
            lambda kind: tflite_file.convert(corrected if kind in tflite_file.INTEGER else source, kind, calibration),
            lambda content: tflite_file.answers(content, material.measured)["probabilities"],
            probabilities=material.probabilities,
            labels=material.labels,
            budget=material.budget,
        )


def _check(name: str, model: classifier.Classifier, material: _Material, found: Observed) -> Report:
    tolerance = parity.tolerance(name, precision=model.run.config["precision"])
    return gate.check(name, parity.compare(material.golden, found, tolerance))


def _pixels(model: classifier.Classifier, chosen: Sequence[records.Record]) -> npt.NDArray[np.uint8]:
    settings = model.run.config["input"]
    return golden.pixels(chosen, image_size=settings["image_size"], crop_fraction=settings["crop_fraction"])


def _in_float32(model: classifier.Classifier) -> classifier.Classifier:
    """The same weights, computing in float32: most runtimes on phones and elsewhere know no mixed precision."""
    if model.run.config["precision"] == "float32":
        return model
    try:
        run = dataclasses.replace(model.run, config={**model.run.config, "precision": "float32"})
        net = classifier.restore_model(run)
        net.set_weights(model.net.get_weights())
    finally:
        keras.mixed_precision.set_global_policy(model.run.config["precision"])
    return dataclasses.replace(model, net=net)
