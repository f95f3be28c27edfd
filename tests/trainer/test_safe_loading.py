"""What the trainer exports is loaded with care, and nothing is loaded without."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.export import tiny
from trainer import model, safe_loading
from trainer.export import about, saved_model

REPOSITORY = pathlib.Path(__file__).parents[2]


def test_an_export_is_loaded(tmp_path: pathlib.Path) -> None:
    """All that `python -m trainer export` has in its graphs, gradients for the heatmap included."""
    classifier = tiny.classifier()
    saved_model.write(str(tmp_path), classifier, about.describe(classifier, "photos"))
    photos = tiny.photos(3)
    images = tf.stack([classifier.prepare(photo.image) for photo in photos])
    loaded = safe_loading.saved_model(str(tmp_path))
    found = loaded.signatures["pixels"](images=images)
    np.testing.assert_allclose(found["probabilities"], classifier.probabilities(images), atol=1e-6)
    heatmap = loaded.signatures["heatmap"](images=images, class_index=tf.constant([0, 1, 2], tf.int64))["heatmap"]
    assert heatmap.shape[0] == 3
    encoded = tf.constant([photo.image for photo in photos])
    assert loaded.signatures["serving_default"](image_bytes=encoded)["label"].shape == [3]


@pytest.mark.soak
@pytest.mark.parametrize(
    "backbone",
    ["mobilenetv2", "efficientnet_b0", "efficientnet_b7", "efficientnetv2_b0", "efficientnetv2_s", "resnet50", "vgg16"],
)
def test_every_backbone_s_export_is_loaded(tmp_path: pathlib.Path, backbone: str) -> None:
    net = model.build(
        backbone=backbone,
        num_classes=3,
        image_size=tiny.IMAGE_SIZE,
        width=None,
        weights="none",
        head="mlp",
        dropout=None,
        drop_path=None,
        batch_norm_momentum=None,
        sync_batch_norm=False,
    )
    small = tiny.classifier()
    run = dataclasses.replace(small.run, config={**small.run.config, "model": {"backbone": backbone}})
    classifier = dataclasses.replace(small, run=run, net=net)
    saved_model.write(str(tmp_path), classifier, about.describe(classifier, "photos"))
    images = tf.stack([classifier.prepare(photo.image) for photo in tiny.photos(2)])
    found = safe_loading.saved_model(str(tmp_path)).signatures["pixels"](images=images)
    np.testing.assert_allclose(found["probabilities"], classifier.probabilities(images), atol=1e-5)


def test_nothing_else_opens_what_may_hold_code() -> None:
    """Pickle stands where Beam's own workers hand facts to each other, and nowhere that a file from outside comes."""
    forbidden = re.compile(
        r"\b(pickle\.loads?|dill|cloudpickle|joblib|marshal|shelve|yaml\.(load|unsafe_load|full_load)\(|torch\.load"
        r"|allow_pickle=True|(?<!\.)\beval\(|(?<!\.)\bexec\(|saved_model\.load\(|load_model\(|TFSMLayer|pd\.read_pickle)"
    )
    found = {(file, match[1]) for file, text in _sources().items() for match in forbidden.finditer(text)}
    allowed = {
        ("preprocess/partitions.py", "pickle.loads"),
        ("trainer/safe_loading.py", "saved_model.load("),
        # What the same process has written a moment before.
        ("trainer/export/keras_file.py", "load_model("),
        ("trainer/export/saved_model.py", "saved_model.load("),
        ("trainer/safe_loading.py", "load_model("),
    }
    assert found <= allowed


def test_numpy_s_files_are_read_without_pickle() -> None:
    calls = [(file, call) for file, text in _sources().items() for call in re.findall(r"\bnp\.load\(.*", text)]
    assert calls
    assert [found for found in calls if "allow_pickle=False" not in found[1]] == []


def _sources() -> dict[str, str]:
    folders = ("configs", "infra", "pipeline", "preprocess", "trainer")
    files = [file for folder in folders for file in (REPOSITORY / folder).rglob("*.py")]
    return {str(file.relative_to(REPOSITORY)): file.read_text() for file in files}
