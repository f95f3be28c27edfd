"""One batch, learned by heart or not: real steps on digits."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest

from configs import schema
from pipeline import manifest as manifest_lib
from trainer import learner, overfit, strategies


def _settings(trainable: str = "all", **changed: Any) -> dict[str, Any]:
    config = schema.Config(
        global_batch=8,
        input=schema.Input(image_size=32, crop_area=(0.8, 1.0)),
        # All that is in the way of learning by heart, so that a test notices what stays on.
        augment=schema.Augment(policy="randaugment", magnitude=10.0, mixup=0.8),
        model=schema.Model(width=0.35, dropout=0.9),
        optimizer=schema.Optimizer(**{"name": "adamw", "peak_lr": 3e-3, "weight_decay": 1.0, **changed}),
        loss=schema.Loss(label_smoothing=0.9),
        phases=(schema.Phase(epochs=1, trainable=trainable),),
    )
    return dataclasses.asdict(config)


def test_digits_are_learned_by_heart(digits: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert overfit.run(data=digits, settings=_settings(), strategy="one", steps=60) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"step 20: loss \d+\.\d{4}, accuracy \d+\.\d%", lines[0])
    losses = [float(re.search(r"loss ([\d.]+)", line)[1]) for line in lines[:-1]]
    # Cross-entropy of labels as they are: with smoothing it could not fall below 2.2.
    assert losses[-1] < 0.5
    assert "accuracy 100.0%" in lines[-2]
    assert "learned the 8 examples" in lines[-1]


def test_a_rate_that_moves_nothing_is_told_with_advice(digits: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert overfit.run(data=digits, settings=_settings("head", peak_lr=1e-9), strategy="one", steps=2) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step 2: loss ")
    assert (
        "did not learn the 8 examples of one batch in 2 steps: try another optimizer.peak_lr (it was 1e-09" in lines[1]
    )


def test_the_batch_is_the_first_of_training_without_augmentation(digits: str) -> None:
    def first(settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        batches = learner.batches(digits, manifest_lib.load(digits), settings, strategies.connect("one"))
        images, labels, _ = next(iter(batches))
        batches.close()
        return images.numpy(), labels.numpy()

    augmented = _settings()
    images, labels = first(overfit.without_regularisation(augmented))
    expected_images, expected_labels = first({**augmented, "augment": dataclasses.asdict(schema.Augment())})
    np.testing.assert_array_equal(images, expected_images)
    np.testing.assert_array_equal(labels, expected_labels)
    assert (first(augmented)[0] != images).any()


def test_only_efficientnets_are_told_about_stochastic_depth() -> None:
    settings = _settings()
    assert overfit.without_regularisation(settings)["model"]["drop_path"] is None
    settings["model"]["backbone"] = "efficientnetv2_s"
    assert overfit.without_regularisation(settings)["model"]["drop_path"] == 0.0


def test_an_exploded_loss_and_a_frozen_backbone_have_advice_of_their_own() -> None:
    exploded = overfit.Outcome(step=20, loss=math.nan, accuracy=1.0)
    assert not exploded.learned
    assert "the loss became nan: lower optimizer.peak_lr (it was 0.3 here)" in overfit.describe(exploded, 8, "all", 0.3)
    stuck = overfit.Outcome(step=200, loss=1.0, accuracy=0.9)
    assert "phases[0].trainable='head'" in overfit.describe(stuck, 8, "head", 0.3)
    assert "trainable" not in overfit.describe(stuck, 8, "all", 0.3)
