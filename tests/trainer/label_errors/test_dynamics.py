"""Looks at the training split: what they measure, who stands where in them, and what an interrupted run leaves."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from pipeline import evaluation
from pipeline import manifest as manifest_lib
from pipeline.errors import InputError
from trainer import classifier, preemption, train
from trainer.label_errors import dynamics
from trainer.label_errors.dynamics import Look

FOUND = Look(np.array([0.5, 2], np.float32), np.array([1, -3], np.float32), np.array([2, 0], np.int32))


def test_a_look_is_loss_margin_and_the_other_class() -> None:
    # By hand: of logits 2, 0, 1 the loss of class 0 is log(1 + e^-2 + e^-1), that of class 1 is 2 more.
    labels, logits = tf.constant([0, 1], tf.int64), tf.constant([[2.0, 0, 1], [2, 0, 1]])
    losses, margins, others = dynamics.measure(labels, logits)
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
    assert found.steps == (3, 20, 100)
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


def _train(digits: str, workdir: pathlib.Path, **keywords: Any) -> dict[str, Any]:
    config = schema.Config(
        global_batch=8,
        max_steps=4,
        evaluate_every_epochs=0.085,  # 2 of its 24 steps
        input=schema.Input(image_size=32, crop_fraction=1.0),
        model=schema.Model(width=0.35),
        monitor=schema.Monitor(restore_best=False),
        logs=schema.Logs(tensorboard=False, dynamics=True),
    )
    found = {"data": digits, "workdir": str(workdir), "strategy": "one", "input_service": (), **keywords}
    return train.train(**found, **dataclasses.asdict(config))


def test_a_run_that_a_signal_ends_in_a_look_goes_on_with_it(digits: str, tmp_path: pathlib.Path) -> None:
    """The looks are then those of the weights of their steps, example by example in stored order."""
    signals, calls = preemption.Signals(), []
    manifest = manifest_lib.load(digits)
    batches = evaluation.num_steps(manifest.split("validation").examples, batch=8, num_workers=1)

    def beat(step: int | None = None) -> None:
        calls.append(step)
        signals.received = calls[-batches - 2 :] == [2, *[None] * (batches + 1)]  # the first batch of the first look

    dynamics.write(str(tmp_path), 7, FOUND, fingerprint="of a run that was here before")
    with pytest.raises(preemption.Preempted, match="at global step 2, which is saved"):
        _train(digits, tmp_path, signals=signals, beat=beat)
    assert dynamics.steps(str(tmp_path)) == []
    assert _train(digits, tmp_path)["step"] == 4

    examples = manifest.split("train").examples
    found = dynamics.read(str(tmp_path), fingerprint=manifest.fingerprint, examples=examples)
    assert found.steps == (2, 4)
    trained = classifier.load(str(tmp_path), checkpoint="newest")
    assert trained.step == 4
    own = evaluation.batches(digits, manifest, split="train", batch=8, image_size=32, crop_fraction=1.0)
    losses, labels = [], []
    for images, truth, mask in own:
        probabilities = trained.probabilities(images)[mask.numpy()]
        labels.append(truth.numpy()[mask.numpy()])
        losses.append(-np.log(probabilities[np.arange(len(probabilities)), labels[-1]]))
    np.testing.assert_allclose(found.losses[-1], np.concatenate(losses), rtol=1e-3, atol=1e-4)
    agrees = found.margins[-1] > 0
    assert ((found.others[-1] != np.concatenate(labels)) | agrees).all()


def test_without_evaluations_there_is_nothing_to_record() -> None:
    config = schema.Config(validation_split="none", logs=schema.Logs(dynamics=True))
    with pytest.raises(schema.ConfigError, match=r"logs.dynamics=True: validation_split='none'"):
        config.validate()
