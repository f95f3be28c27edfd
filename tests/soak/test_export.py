"""All formats of every kind of backbone, and by the command of a trained run; the .keras file where nothing is ours."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.commands import run
from tests.trainer.export import tiny
from trainer import model as model_lib
from trainer.export import about as about_lib
from trainer.export import formats, gate, keras_file, onnx_file, parity, saved_model, tflite_file

pytestmark = pytest.mark.soak
CONFIG = "configs/digits_mobilenetv2.py"
# -I leaves the current folder and PYTHONPATH out: what is not in the file is not there.
ALONE = """
import sys
import keras
import numpy as np
assert not [name for name in sys.modules if name.startswith("trainer")]
try:
    import trainer
except ImportError:
    pass
else:
    raise AssertionError("ours is there")
answers = keras.saving.load_model(sys.argv[1])(np.load(sys.argv[2]))
np.save(sys.argv[3], np.asarray(answers["probabilities"]))
"""


def test_all_formats_of_a_trained_run(digits: str, tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "run"
    trained = run("train", f"--config={CONFIG}", "--config.max_steps=60", f"--data={digits}", f"--workdir={workdir}")
    assert trained.returncode == 0, trained.stderr
    exported = run("export", f"--workdir={workdir}", f"--formats={','.join(formats.FILES)}", "--int8_budget=5")
    assert exported.returncode == 0, exported.stderr
    folder = workdir / "exports/1"
    card = json.loads((folder / "export.json").read_text())
    assert set(card["parity"]) == set(formats.FILES)
    for report in card["parity"].values():
        assert report["first_difference"] is None
        assert (folder / report.get("file", "saved_model.pb")).is_file()

    side = card["preprocessing"]["image_size"]
    images = np.random.default_rng(0).integers(0, 256, [4, side, side, 3]).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            ALONE,
            *(str(tmp_path / name) for name in ("run/exports/1/model.keras", "images.npy", "found.npy")),
        ],
        check=True,
        cwd=tmp_path,
        timeout=240,
    )
    expected = tf.saved_model.load(str(folder)).signatures["pixels"](images=tf.constant(images))["probabilities"]
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("backbone", "head"),
    [("efficientnet_b0", "linear"), ("efficientnetv2_b0", "linear"), ("resnet50", "linear"), ("vgg16", "mlp")],
)
def test_all_formats_of_a_backbone(tmp_path: pathlib.Path, backbone: str, head: str) -> None:
    """MobileNetV2 is above. These scale inside of themselves, or centre and swap channels; some pad."""
    keras.utils.set_random_seed(0)
    net = model_lib.build(
        backbone=backbone,
        num_classes=len(tiny.CLASSES),
        image_size=tiny.IMAGE_SIZE,
        width=None,
        weights="none",
        head=head,
        dropout=None,
        drop_path=None,
        batch_norm_momentum=None,
        sync_batch_norm=False,
    )
    small = tiny.classifier()
    settings = {**small.run.config, "model": {"backbone": backbone}}
    model = dataclasses.replace(small, net=net, run=dataclasses.replace(small.run, config=settings))
    about, photos = about_lib.describe(model, "photos"), tiny.photos(8)
    wanted = gate.expected(model, photos)
    images = gate.images(wanted)
    saved_model.write(str(tmp_path / "saved_model"), model, about)
    keras_file.write(str(tmp_path / "model.keras"), model, about)
    onnx_file.write(str(tmp_path / "model.onnx"), model, about)
    found = {
        "saved_model": saved_model.observe(str(tmp_path / "saved_model"), [photo.image for photo in photos], 8),
        "keras": keras_file.observe(str(tmp_path / "model.keras"), images, 8),
        "onnx": onnx_file.observe(str(tmp_path / "model.onnx"), images, 8),
    }
    with tflite_file.source(model, about) as source:
        for kind in ("float32", "float16", "dynamic", "int8"):
            found[f"tflite_{kind}"] = tflite_file.observe(tflite_file.convert(source, kind, images), images)
    reports = {name: parity.compare(wanted, each, parity.TOLERANCES[name]) for name, each in found.items()}
    assert {name: report.first for name, report in reports.items()} == dict.fromkeys(formats.FILES), reports
