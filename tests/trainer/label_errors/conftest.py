"""A short run that recorded its dynamics, and that a signal ended in the middle of its first look."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, NamedTuple

import numpy as np
import pytest

from configs import schema
from pipeline import evaluation
from pipeline import manifest as manifest_lib
from trainer import preemption, train
from trainer.label_errors import dynamics


class Recorded(NamedTuple):
    workdir: str
    left: list[int]  # steps of the looks that were there after the signal
    message: str  # with which it ended then


def _train(digits: str, workdir: pathlib.Path, **keywords: Any) -> dict[str, Any]:
    config = schema.Config(
        global_batch=8,
        max_steps=4,
        evaluate_every_epochs=0.085,  # 2 of its 24 steps
        input=schema.Input(image_size=32, crop_fraction=1.0),
        model=schema.Model(width=0.35),
        logs=schema.Logs(tensorboard=False, dynamics=True),
    )
    found = {"data": digits, "workdir": str(workdir), "strategy": "one", "input_service": (), **keywords}
    return train.train(**found, **dataclasses.asdict(config))


@pytest.fixture(scope="session")
def recorded(digits: str, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Four steps and two looks, in two starts."""
    workdir, signals = tmp_path_factory.mktemp("recorded"), preemption.Signals()
    calls: list[int | None] = []
    validation = manifest_lib.load(digits).split("validation").examples
    batches = evaluation.num_steps(validation, batch=8, num_workers=1)

    def beat(step: int | None = None) -> None:
        calls.append(step)
        signals.received = calls[-batches - 2 :] == [2, *[None] * (batches + 1)]  # the first batch of the first look

    values = np.zeros(1, np.float32)
    look = dynamics.Look(values.astype(np.int32), values, values, values.astype(np.int32))
    dynamics.write(str(workdir), 7, look, fingerprint="of a run that was here before")
    with pytest.raises(preemption.Preempted) as ended:
        _train(digits, workdir, signals=signals, beat=beat)
    left = dynamics.steps(str(workdir))
    assert _train(digits, workdir)["step"] == 4
    return Recorded(str(workdir), left, str(ended.value))
