"""Every format says what the trainer says; and where it was made not to, the gate names the stage that was broken."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys
import zipfile
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import tensorflow as tf

from pipeline import decode
from pipeline import images as images_lib
from tests.trainer.export import tiny
from trainer import backbones
from trainer.classifier import Classifier
from trainer.export import about as about_lib
from trainer.export import exif, gate, golden, keras_file, onnx_file, parity, saved_model, tflite_file
from trainer.export.parity import Observed

PHOTOS = tiny.photos()
BATCH = 5  # does not divide the photos
PERMUTED = ["bée", "cat", "ant"]


@pytest.fixture(scope="module")
def model() -> Classifier:
    return tiny.classifier()


@pytest.fixture(scope="module")
def wanted(model: Classifier) -> Observed:
    return gate.expected(model, PHOTOS)


@pytest.fixture(scope="module")
def about(model: Classifier) -> about_lib.About:
    return about_lib.describe(model, "photos")


@pytest.fixture(scope="module")
def images(wanted: Observed) -> np.ndarray:
    return gate.images(wanted)


def of_records(folder: pathlib.Path, wanted: Observed) -> parity.Report:
    found = saved_model.observe(str(folder), [photo.image for photo in PHOTOS], BATCH)
    return parity.compare(wanted, found, parity.TOLERANCES["saved_model"])


def of_files(folder: pathlib.Path, model: Classifier) -> parity.Report:
    files = golden.files(PHOTOS[:8], images_lib.Storing(**tiny.STORING))
    return parity.compare_files(gate.expected_of_files(model, files), saved_model.observe(str(folder), files, BATCH))


def test_the_saved_model_is_the_trainer(
    model: Classifier, about: about_lib.About, wanted: Observed, tmp_path: pathlib.Path
) -> None:
    saved_model.write(str(tmp_path), model, about)
    report = of_records(tmp_path, wanted)
    assert report.first is None, report
    assert report.decisions == 0
    assert [report.stages[stage][0] for stage in parity.PIXELS] == [0, 0, 0]
    report = of_files(tmp_path, model)
    assert report.first is None, report

    signatures = tf.saved_model.load(str(tmp_path)).signatures
    pixels = signatures["pixels"](images=tf.constant(gate.images(wanted)))
    assert {name: value.dtype for name, value in pixels.items()} == dict.fromkeys(
        ("logits", "probabilities", "embedding"), tf.float32
    )
    heatmap = signatures["heatmap"](
        images=tf.constant(gate.images(wanted)[:2]), class_index=tf.constant([0, 2], tf.int64)
    )
    assert (heatmap["heatmap"].shape[0], heatmap["heatmap"].dtype) == (2, tf.float32)
    for broken in (b"", b"no image", PHOTOS[0].image[:200]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            signatures["serving_default"](image_bytes=tf.constant([PHOTOS[0].image, broken]))
    assert signatures["prepare"](image_bytes=tf.constant([], tf.string))["images"].shape == (0, 32, 32, 3)


def test_lost_exif_and_permuted_labels_are_found(
    model: Classifier,
    about: about_lib.About,
    wanted: Observed,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exif, "orientation", lambda encoded: tf.constant(1))
    saved_model.write(str(tmp_path), model, dataclasses.replace(about, classes=PERMUTED))
    assert of_files(tmp_path, model).first == "orientation"
    assert of_records(tmp_path, wanted).first == "classes"


def another_crop(crop: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    return lambda image, *, image_size, crop_fraction: crop(image, image_size=image_size, crop_fraction=1.0)


def swapped(decoder: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    return lambda encoded, **how: decoder(encoded, **how)[..., ::-1]


@pytest.mark.parametrize(
    ("function", "broken", "stage"), [("central_crop", another_crop, "crop"), ("decode", swapped, "decode")]
)
def test_another_crop_and_swapped_channels_are_found(
    model: Classifier,
    about: about_lib.About,
    wanted: Observed,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    broken: Callable[..., object],
    stage: str,
) -> None:
    monkeypatch.setattr(decode, function, broken(getattr(decode, function)))
    saved_model.write(str(tmp_path), model, about)
    monkeypatch.undo()
    assert of_records(tmp_path, wanted).first == stage


def test_scaling_twice_is_found(
    about: about_lib.About, wanted: Observed, images: np.ndarray, tmp_path: pathlib.Path
) -> None:
    faulty = tiny.classifier(scalings=2)
    saved_model.write(str(tmp_path / "saved_model"), faulty, about)
    assert of_records(tmp_path / "saved_model", wanted).first == "scaling"
    path = str(tmp_path / "model.keras")
    keras_file.write(path, faulty, about)
    report = parity.compare(wanted, keras_file.observe(path, images, BATCH), parity.TOLERANCES["keras"])
    assert report.first == "scaling"
    with pytest.raises(gate.ParityError, match="keras: the stage 'scaling' is the first"):
        gate.check("keras", report)


def test_a_keras_file_has_layers_of_keras_only(
    model: Classifier,
    about: about_lib.About,
    wanted: Observed,
    images: np.ndarray,
    tmp_path: pathlib.Path,
) -> None:
    path = str(tmp_path / "model.keras")
    kinds = [type(layer) for layer in backbones.leaves(model.net)]
    keras_file.write(path, model, about)
    assert [type(layer) for layer in backbones.leaves(model.net)] == kinds  # the trainer's has its own again
    report = parity.compare(wanted, keras_file.observe(path, images, BATCH), parity.TOLERANCES["keras"])
    assert report.first is None, report
    config = zipfile.ZipFile(path).read("config.json").decode()
    assert not [name for name in ("trainer", "Fused", "Placed") if name in config]


def test_onnx_and_faults_in_its_graph(
    model: Classifier,
    about: about_lib.About,
    wanted: Observed,
    images: np.ndarray,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = str(tmp_path / "model.onnx")
    monkeypatch.delitem(sys.modules, "tf2onnx.convert", raising=False)
    monkeypatch.delattr("tf2onnx.convert", raising=False)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")
    onnx_file.write(path, model, about)
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "1"  # which the converter's import changes

    def first() -> str | None:
        return parity.compare(wanted, onnx_file.observe(path, images, BATCH), parity.TOLERANCES["onnx"]).first

    assert first() is None
    made = onnx.load(path)
    (given,) = made.graph.input
    assert given.type.tensor_type.shape.dim[0].dim_param == "batch"
    sound = made.SerializeToString()

    onnx.helper.set_model_props(made, {about_lib.KEY: json.dumps({**about.to_json(), "classes": PERMUTED})})
    onnx.save(made, path)
    assert first() == "classes"

    made = onnx.ModelProto.FromString(sound)
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 1, 0]), "order"))
    swap_channels = onnx.helper.make_node("Gather", ["images", "order"], ["swapped"], axis=3)
    _insert(made, swap_channels, "images", "swapped")
    onnx.save(made, path)
    assert first() == "scaling"

    made = onnx.ModelProto.FromString(sound)
    scaled = onnx_file._entry(made)
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1 / 127.5), "factor"))
    _insert(made, onnx.helper.make_node("Mul", [scaled, "factor"], ["again"]), scaled, "again")
    onnx.save(made, path)
    assert first() == "scaling"


def _insert(model: onnx.ModelProto, node: onnx.NodeProto, before: str, after: str) -> None:
    """Puts `node`, which makes `after` of `before`, in front of all that took `before`."""
    takers = [index for index, taker in enumerate(model.graph.node) if before in taker.input]
    for index in takers:
        taker = model.graph.node[index]
        taker.input[:] = [after if name == before else name for name in taker.input]
    model.graph.node.insert(takers[0], node)


def test_tflite_of_every_kind(model: Classifier, about: about_lib.About, wanted: Observed, images: np.ndarray) -> None:
    with tflite_file.source(model, about) as source:
        for kind in ("float32", "float16", "dynamic", "int8", "int16"):
            content = tflite_file.convert(source, kind, images)
            name = "tflite_int8" if kind == "int16" else f"tflite_{kind}"
            report = parity.compare(wanted, tflite_file.observe(content, images), parity.TOLERANCES[name])
            assert report.first is None, (kind, report)
            assert tflite_file.read_about(content) == json.loads(json.dumps(about.to_json()))
            given = tflite_file.litert.Interpreter(model_content=content).get_input_details()[0]
            assert given["dtype"] == (np.float32 if kind == "int16" else np.uint8)
    with tflite_file.source(tiny.classifier(scalings=2), about) as source:
        content = tflite_file.convert(source, "float32")
        assert (
            parity.compare(wanted, tflite_file.observe(content, images), parity.TOLERANCES["onnx"]).first == "scaling"
        )
