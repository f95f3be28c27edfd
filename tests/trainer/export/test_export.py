"""`python -m trainer export`, on a run with a real backbone: a version with its card, nothing twice, nothing broken."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import pathlib
import shutil
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline import storage
from pipeline.errors import InputError
from tests.pipeline import shard_files
from tests.trainer.export import tiny
from trainer import checkpoint_files, classifier, model
from trainer import run as run_lib
from trainer.commands import export as command
from trainer.export import export, formats, preparation

SETTINGS = {
    "backbone": "vgg16",  # of few operations, which are what exporting takes time for
    "width": None,
    "weights": "none",
    "head": "linear",
    "dropout": None,
    "drop_path": None,
    "batch_norm_momentum": None,
    "sync_batch_norm": False,
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run that has not learnt anything: its weights are those it began with."""
    root = tmp_path_factory.mktemp("run")
    photos = tiny.photos(24)
    described = shard_files.write(root / "data", {"train": [photos[:12]], "validation": [photos[12:18], photos[18:]]})
    described = dataclasses.replace(described, settings={"storing": tiny.STORING})
    config = {
        "input": {"image_size": 32, "crop_fraction": 0.875},
        "model": SETTINGS,
        "precision": "float32",
        "train_split": "train",
        "validation_split": "validation",
    }
    run = run_lib.describe(str(root / "data"), described, config)
    run_lib.write(str(root), run)
    keras.utils.set_random_seed(0)
    net = model.build(num_classes=3, image_size=32, **SETTINGS)
    checkpoint = tf.train.Checkpoint(model=net)
    about = {**run.about(), "state": {"step": 5}, "best": True, "content": ["model"]}
    checkpoint_files.publish(str(root), checkpoint_files.Name(5, 1), checkpoint.write, about)
    storage.write_json(
        str(root / classifier.CALIBRATION_FILE), {"temperature": 1.5, "step": 5, "fingerprint": run.fingerprint}
    )
    return str(root)


def test_a_version_is_published_once_and_a_broken_one_never(
    workdir: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command.run(["export", f"--workdir={workdir}", "--examples=9"]) == 0
    printed = capsys.readouterr().out
    assert "saved_model" in printed
    assert "top-1 the same on 100.00% of 9 images" in printed
    folder = pathlib.Path(workdir, "exports/1")
    card = storage.read_json(str(folder / "export.json"))
    trained = classifier.load(workdir)
    assert {name: card[name] for name in ("format", "name", "version", "classes", "step", "temperature")} == {
        "format": 1,
        "name": "tiny",
        "version": 1,
        "classes": list(shard_files.CLASSES),
        "step": 5,
        "temperature": 1.5,
    }
    assert card["fingerprint"] == trained.fingerprint == trained.run.fingerprint
    assert card["preprocessing"] == {
        "version": preparation.VERSION,
        "image_size": 32,
        "crop_fraction": 0.875,
        "storing": tiny.STORING,
        "not_in_the_graph": list(preparation.NOT_IN_THE_GRAPH),
    }
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {*card["files"], "export.json"}
    for name, described in card["files"].items():
        content = (folder / name).read_bytes()
        assert described == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert card["reference"]["examples"] == 12
    assert set(card["parity"]) == {"saved_model", "keras"}

    served = tf.saved_model.load(str(folder)).signatures["serving_default"]
    photo = tiny.photos(24)[20].image
    answer = served(image_bytes=tf.constant([photo]))
    expected = trained.probabilities(trained.prepare(photo)[None])
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)
    assert answer["label"].numpy()[0].decode() == shard_files.CLASSES[int(np.argmax(expected))]

    assert command.run(["export", f"--workdir={workdir}", "--examples=9"]) == 0
    assert "version 1 is already of these weights" in capsys.readouterr().out

    monkeypatch.setattr(preparation, "_on_white", lambda encoded: tf.io.decode_png(encoded, channels=3)[::-1])
    assert command.run(["export", f"--workdir={workdir}", "--formats=saved_model", "--examples=12"]) == 1
    assert "saved_model: the stage 'decode' is the first that is not the trainer's" in capsys.readouterr().err
    assert os.listdir(pathlib.Path(workdir, "exports")) == ["1"]


@pytest.mark.parametrize(("budget", "judged"), [(0.5, 24), (8.0, 24), (9.0, 12), (0.0, 12)])
def test_int8_is_judged_on_training_images_too_where_held_out_ones_cannot_show_its_budget(
    workdir: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, budget: float, judged: int
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(formats, "check", tuple)  # whatever is installed
    monkeypatch.setattr(export, "_tflite", lambda folder, model, about, material, *rest: seen.append(material) or {})
    copy = shutil.copytree(workdir, tmp_path / "run", ignore=shutil.ignore_patterns("exports"))
    made = export.export(workdir=str(copy), formats=("saved_model", "tflite_int8"), int8_budget=budget)
    (material,) = seen
    assert len(material.labels) == len(material.measured) == len(material.probabilities) == judged
    model = classifier.load(workdir)
    np.testing.assert_allclose(material.probabilities, model.probabilities(material.measured), atol=1e-5)
    assert made.card["reference"]["examples"] == 12  # of which only held-out ones say what is usual


def test_confidences_that_were_not_calibrated_are_said_to_be_so() -> None:
    card = {"parity": {}, "files": {}, "temperature": 1.0}
    (line,) = export.summary(export.Exported(1, True, card))
    assert "run `python -m trainer evaluate`" in line
    assert export.summary(export.Exported(1, True, {**card, "temperature": 0.9})) == []


def test_what_can_not_be_written_is_refused_before_any_work(workdir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--formats: tflite is unknown"):
        command.run(["export", f"--workdir={workdir}", "--formats=keras,tflite"])
    with pytest.raises(InputError, match="--int8_budget is for tflite_int8"):
        command.run(["export", f"--workdir={workdir}", "--int8_budget=1"])
    with pytest.raises(InputError, match="holds no run"):
        export.export(workdir=os.path.join(workdir, "data"))
    assert formats.check(["onnx", "keras"]) == ("saved_model", "keras", "onnx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, package in (("onnx", "tf2onnx"), ("tflite_int8", "ai_edge_litert")):
        with pytest.raises(InputError, match=rf"{package}.*pip install 'shardline\[export\]'"):
            formats.check([name])
