"""What happens where one phase ends and the next begins."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import keras
import numpy as np
import pytest

from configs.schema import Augment, Config, Input, Logs, Model, Optimizer, Phase
from tests.trainer import replicas
from trainer import model as model_lib
from trainer import strategies, train


def _train(digits: str, workdir: pathlib.Path, strategy: str, **settings: Any) -> dict[str, Any]:
    config = Config(
        global_batch=32,
        input=Input(image_size=32, crop_area=(0.8, 1.0)),
        model=Model(width=0.35, batch_norm_momentum=0.9),
        optimizer=Optimizer(peak_lr=0.01),
        validation_split="none",
        logs=Logs(tensorboard=False),
        **settings,
    )
    config.validate()
    return train.train(
        data=digits, workdir=str(workdir), strategy=strategy, input_service=[], **dataclasses.asdict(config)
    )


def test_replicas_agree_about_what_a_phase_freezes(
    digits: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each moves its own statistics, and neither a checkpoint nor an evaluation averages them at this phase's end."""
    apart: list[float] = []

    def set_trainable(net: keras.Model, **given: Any) -> None:
        moved = [layer.moving_variance.value.values for layer in model_lib.batch_norms(net)]
        apart.append(max(float(np.abs(one.numpy() - other.numpy()).max()) for one, other in moved))
        really_set(net, **given)

    really_set = model_lib.set_trainable
    monkeypatch.setattr(model_lib, "set_trainable", set_trainable)
    monkeypatch.setattr(strategies, "connect", lambda *_, **__: replicas.cluster(2))
    phases = (Phase(steps=3), Phase(steps=1, freeze_batch_norm=True))
    assert _train(digits, tmp_path, "mirrored", phases=phases)["step"] == 4
    assert apart[-1] == 0


def test_a_policy_in_the_step_leaves_cached_features_alone(digits: str, tmp_path: pathlib.Path) -> None:
    phases = (Phase(steps=2, trainable="head", cached_features=True), Phase(steps=1))
    policy = Augment(policy="randaugment", where="step")
    assert _train(digits, tmp_path, "one", phases=phases, augment=policy)["step"] == 3
