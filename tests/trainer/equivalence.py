"""A dataset and a number of workers in; a real training's losses and evaluations, step by step, out."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline import manifest as manifest_lib
from tests.pipeline import shard_files
from tests.trainer.commands import command, end, start_workers

TIMEOUT_S = 900  # four processes on two cores
# Everything that is random or has a state: crops, a policy, erasing, dropout, moments, averages. Gradient descent,
# since Adam divides by the gradient, and what is rounding in it would become a whole step.
#
# Batch norm is frozen. Synchronised it is the same function of the global batch (see `test_step`), but a layer that
# divides by the deviation of few, similar numbers blows up what is rounding: in MobileNetV2 from 1e-7 to 1e-2 within
# three steps, and a gradient by as much where one process takes its batch in another order.
CONFIG = """
from configs.schema import Augment, Config, Input, Logs, Model, Optimizer, Phase

def get_config():
    return Config(
        global_batch=16,
        input=Input(image_size=32, crop_area=(0.5, 1.0)),
        augment=Augment(policy="trivialaugment", erasing=0.25),
        model=Model(width=0.35),
        optimizer=Optimizer(name="sgd", peak_lr=0.01, ema=0.9, clip_norm=1.0),
        phases=(Phase(steps=STEPS, warmup_epochs=1.0, freeze_batch_norm=True),),
        evaluate_every_epochs=2.0,
        checkpoint_every_steps=1000,
        logs=Logs(every_steps=1, sample_images=0),
    )
"""


def config(folder: pathlib.Path, steps: int) -> pathlib.Path:
    path = folder / "config.py"
    path.write_text(CONFIG.replace("STEPS", str(steps)))
    return path


def dataset(folder: pathlib.Path, *, train: Sequence[int], validation: Sequence[int]) -> manifest_lib.Manifest:
    """Of so many examples in each shard."""
    numbers = iter(range(sum(train) + sum(validation)))
    lists = [
        [[shard_files.record(next(numbers)) for _ in range(size)] for size in split] for split in (train, validation)
    ]
    return shard_files.write(folder, {"train": lists[0], "validation": lists[1]})


def train(workdir: pathlib.Path, data: pathlib.Path, path: pathlib.Path, *overrides: str, workers: int) -> None:
    arguments = command("train", f"--config={path}", f"--data={data}", f"--workdir={workdir}", *overrides)
    end(start_workers([*arguments, *strategy(workers)], workers), status=0, timeout_s=TIMEOUT_S)


def strategy(workers: int) -> list[str]:
    return ["--strategy=multi_worker"] if workers > 1 else []


def losses(workdir: pathlib.Path) -> list[float]:
    """Of each step from the first on, as TensorBoard has them: the history rounds."""
    events = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    found = {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("train/loss")}
    assert list(found) == list(range(1, len(found) + 1))
    return list(found.values())


def evaluations(workdir: pathlib.Path) -> dict[int, tuple[float, float]]:
    """(accuracy, loss) by step."""
    rows = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    return {row["step"]: (row["validation_accuracy"], row["validation_loss"]) for row in rows}


def assert_equal(workdir: pathlib.Path, expected: pathlib.Path, *, steps: int, tolerance: float) -> float:
    """The same losses to `tolerance`, and the same accuracy at the same steps to the last example.

    Returns:
      The largest difference of a training loss.
    """
    found = losses(workdir)
    assert len(found) == steps
    assert found == pytest.approx(losses(expected), rel=0, abs=tolerance)
    evaluated = evaluations(workdir)  # where a run was stopped, one more
    for step, (accuracy, loss) in evaluations(expected).items():
        assert evaluated[step][0] == accuracy
        assert evaluated[step][1] == pytest.approx(loss, abs=tolerance)
    return max(abs(one - other) for one, other in zip(found, losses(expected), strict=True))
