"""Looks at the training split: what they measure, who stands where in them, and what an interrupted run leaves."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from pipeline import evaluation
from pipeline import manifest as manifest_lib
from pipeline.errors import InputError
from tests.trainer.label_errors.conftest import Recorded
from trainer import classifier
from trainer.label_errors import dynamics
from trainer.label_errors.dynamics import Look

FOUND = Look(
    np.array([0, 1], np.int32),
    np.array([0.5, 2], np.float32),
    np.array([1, -3], np.float32),
    np.array([2, 0], np.int32),
)


def test_a_look_is_loss_margin_and_the_other_class() -> None:
    # By hand: of logits 2, 0, 1 the loss of class 0 is log(1 + e^-2 + e^-1), that of class 1 is 2 more.
    labels, logits = tf.constant([0, 1], tf.int64), tf.constant([[2.0, 0, 1], [2, 0, 1]])
    same, losses, margins, others = dynamics.measure(labels, logits)
    assert same.numpy().tolist() == [0, 1]
    np.testing.assert_allclose(losses, [0.4076060, 2.4076060], atol=1e-6)
    assert margins.numpy().tolist() == [1, -2]
    assert others.numpy().tolist() == [2, 0]


def test_looks_come_back_in_the_order_of_their_steps(tmp_path: pathlib.Path) -> None:
    workdir = str(tmp_path)
    for step in (20, 3, 100):
        dynamics.write(workdir, step, FOUND, fingerprint="f")
    dynamics.write(workdir, 20, FOUND._replace(margins=-FOUND.margins), fingerprint="f")  # taken again
    (tmp_path / "dynamics/notes.txt").write_text("mine")
    found = dynamics.read(workdir, fingerprint="f", examples=2)
    assert found.labels.tolist() == [0, 1]
    assert found.margins.tolist() == [[1, -3], [-1, 3], [1, -3]]
    assert found.others.dtype == np.int32
    dynamics.forget_after(workdir, 20)
    assert dynamics.steps(workdir) == [3, 20]
    with pytest.raises(InputError, match="is of another dataset"):
        dynamics.read(workdir, fingerprint="g", examples=2)
    with pytest.raises(InputError, match="is of another dataset"):
        dynamics.read(workdir, fingerprint="f", examples=3)
    path = tmp_path / "dynamics/step-00000020.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"step-00000020\.npz is damaged"):
        dynamics.read(workdir, fingerprint="f", examples=2)
    with pytest.raises(InputError, match=r"--config.logs.dynamics=true"):
        dynamics.read(str(tmp_path / "elsewhere"), fingerprint="f", examples=2)


def test_a_run_that_a_signal_ends_in_a_look_goes_on_with_it(digits: str, recorded: Recorded) -> None:
    """The looks are then those of the weights of their steps, example by example in stored order."""
    assert "at global step 2, which is saved" in recorded.message
    assert recorded.left == []
    assert dynamics.steps(recorded.workdir) == [2, 4]
    manifest = manifest_lib.load(digits)
    examples = manifest.split("train").examples
    found = dynamics.read(recorded.workdir, fingerprint=manifest.fingerprint, examples=examples)
    trained = classifier.load(recorded.workdir, checkpoint="newest")
    own = evaluation.batches(digits, manifest, split="train", batch=8, image_size=32, crop_fraction=1.0)
    losses, labels = [], []
    for images, truth, mask in own:
        probabilities = trained.probabilities(images)[mask.numpy()]
        labels.append(truth.numpy()[mask.numpy()])
        losses.append(-np.log(probabilities[np.arange(len(probabilities)), labels[-1]]))
    assert trained.step in (2, 4)  # the best one is restored in the end
    of_step = found.losses[[2, 4].index(trained.step)]
    np.testing.assert_allclose(of_step, np.concatenate(losses), rtol=1e-3, atol=1e-4)
    assert found.labels.tolist() == np.concatenate(labels).tolist()
    assert (found.others[-1] != found.labels).all()


def test_without_evaluations_there_is_nothing_to_record() -> None:
    config = schema.Config(validation_split="none", logs=schema.Logs(dynamics=True))
    with pytest.raises(schema.ConfigError, match=r"logs.dynamics=True: validation_split='none'"):
        config.validate()
