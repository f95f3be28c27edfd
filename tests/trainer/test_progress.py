"""Progress as the loop uses it; what it wrote is read back by TensorBoard's and the profiler's own readers."""

from __future__ import annotations

import csv
import io
import json
import math
import pathlib
import time
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from trainer.progress import Progress

CLASSES = ("cat", "dog", "eel")
METRICS = {"examples": 30, "loss": 0.5, "accuracy": 0.75, "macro_f1": 0.7, "per_class": {}}


def _progress(workdir: pathlib.Path, **changes: Any) -> Progress:
    options: dict[str, Any] = {
        "first_step": 0,
        "last_step": 100,
        "global_batch": 32,
        "examples": 320,
        "steps_per_call": 1,
        "classes": CLASSES,
        "show": True,
        "every_steps": 10,
        "tensorboard": True,
        "sample_images": 4,
        "profile_steps": (),
        "mlflow": None,
    }
    return Progress(str(workdir), **{**options, **changes})


def _take(progress: Progress, first: int, last: int, *, steps_per_call: int = 1, loss: float | None = None) -> Any:
    """Takes the steps after `first` up to `last`; each one's loss is its number, or `loss`."""
    reported = []
    for step in range(first + steps_per_call, last + 1, steps_per_call):
        with progress.waiting_for_input():
            numbers = np.arange(step - steps_per_call + 1, step + 1, dtype=np.float32)
        losses = tf.constant(numbers if loss is None else np.full_like(numbers, loss))
        reported.append(progress.stepped(step, losses, 0.1))
    return reported


def _events(workdir: pathlib.Path) -> EventAccumulator:
    events = EventAccumulator(str(workdir / "tensorboard"), tensor_size_guidance={"scalars": 0})
    events.Reload()
    return events


def _scalars(workdir: pathlib.Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in _events(workdir).Tensors(tag)]


def _csv(workdir: pathlib.Path) -> list[dict[str, str]]:
    with (workdir / "history.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_scalars_go_to_tensorboard_and_both_files(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    with _progress(tmp_path, settings={"optimizer": {"peak_lr": 0.1}}) as progress:
        progress.enter_phase()
        _take(progress, 0, 25)
        progress.log(25, 0.1)
        progress.evaluated(25, METRICS)
    means = [(10, 5.5), (20, 15.5), (25, 23.0)]  # of 1 to 10, 11 to 20, 21 to 25
    assert _scalars(tmp_path, "train/loss") == means
    assert [(int(row["step"]), float(row["train_loss"])) for row in _csv(tmp_path)] == means
    assert _scalars(tmp_path, "validation/accuracy") == [(25, 0.75)]
    assert _scalars(tmp_path, "validation/macro_f1") == [(25, pytest.approx(0.7))]
    [row] = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert row["epoch"] == 2.5
    assert {name: row[f"validation_{name}"] for name in ("loss", "accuracy", "macro_f1")} == {
        "loss": 0.5,
        "accuracy": 0.75,
        "macro_f1": 0.7,
    }
    tags = _events(tmp_path).Tags()["tensors"]
    assert {"train/learning_rate", "speed/examples_per_s", "speed/input_wait_share", "speed/share_of_ceiling"} <= set(
        tags
    )
    [settings] = _events(tmp_path).Tensors("settings")
    assert "`optimizer.peak_lr`" in tf.make_ndarray(settings.tensor_proto).item().decode()
    shown = capsys.readouterr().err
    assert "epoch 2.5, step 25: validation accuracy 75.00%, loss 0.500 on 30 examples" in shown
    assert "25/100" in shown
    for part in ("loss 23.000", "examples/s", "input wait", "of the step's ceiling"):
        assert part in shown.splitlines()[-1]


def test_each_loss_comes_back_where_a_log_is_due(tmp_path: pathlib.Path) -> None:
    with _progress(tmp_path, steps_per_call=4) as progress:
        reported = _take(progress, 0, 24, steps_per_call=4)
        # Calls end at 4, 8, 12, …: the logs of steps 10 and 20 are due at 12 and 20.
        assert [len(pairs) for pairs in reported] == [0, 0, 12, 0, 8, 0]
        assert reported[2] == [(step, float(step)) for step in range(1, 13)]
        assert reported[4] == [(step, float(step)) for step in range(13, 21)]
        assert progress.log(24, 0.1) == [(step, float(step)) for step in range(21, 25)]
        assert progress.log(24, 0.1) == []


def test_a_loss_that_is_no_number_is_reported_and_raises_nothing(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with _progress(tmp_path, every_steps=3) as progress:
        _take(progress, 0, 2)
        [[*_, last]] = _take(progress, 2, 3, loss=math.inf)
        assert last == (3, math.inf)
        [*_, pairs] = _take(progress, 3, 6, loss=math.nan)
        assert [step for step, loss in pairs if math.isnan(loss)] == [4, 5, 6]
        progress.evaluated(6, {**METRICS, "loss": None})  # as `metrics` says it of one that is not finite
    assert [row["train_loss"] for row in _csv(tmp_path)] == ["inf", "nan"]
    assert "validation accuracy 75.00%, loss not finite on 30 examples" in capsys.readouterr().err


class OnTheDevice:
    """A loss that counts how often it is waited for."""

    reads = 0

    def __tf_tensor__(self, dtype: Any = None, name: Any = None) -> tf.Tensor:
        OnTheDevice.reads += 1
        return tf.constant([1.0])


def test_the_device_is_waited_for_only_where_a_log_is_due(tmp_path: pathlib.Path) -> None:
    with _progress(tmp_path) as progress:
        for step in range(1, 10):
            progress.stepped(step, OnTheDevice(), 0.1)
        assert OnTheDevice.reads == 0
        assert len(progress.stepped(10, OnTheDevice(), 0.1)) == 10
        assert OnTheDevice.reads == 10


def test_a_resumed_run_logs_no_step_twice(tmp_path: pathlib.Path) -> None:
    killed = _progress(tmp_path)
    _take(killed, 0, 40, loss=1.0)
    killed.log(40, 0.1)
    second = int(time.time())
    while int(time.time()) == second:  # readers take files in the order of their names, which hold seconds
        time.sleep(0.01)
    with _progress(tmp_path, first_step=25) as progress:  # where the last checkpoint was
        _take(progress, 25, 50, loss=3.0)
    expected = [(10, 1.0), (20, 1.0), (30, 3.0), (40, 3.0), (50, 3.0)]
    assert [(int(row["step"]), float(row["train_loss"])) for row in _csv(tmp_path)] == expected
    assert _scalars(tmp_path, "train/loss") == expected


def test_a_rollback_takes_steps_again(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    with _progress(tmp_path) as progress:
        _take(progress, 0, 35, loss=9.0)
        progress.go_back(20)
        assert len(_take(progress, 20, 30, loss=1.0)[-1]) == 10  # and none of steps 31 to 35
    assert "30/100" in capsys.readouterr().err
    expected = [(10, 9.0), (20, 9.0), (30, 1.0)]
    assert [(int(row["step"]), float(row["train_loss"])) for row in _csv(tmp_path)] == expected
    assert _scalars(tmp_path, "train/loss") == expected


def _image(events: EventAccumulator, tag: str) -> tuple[int, Image.Image]:
    [event] = events.Tensors(tag)
    width, height, png = tf.make_ndarray(event.tensor_proto)
    image = Image.open(io.BytesIO(png))
    assert image.size == (int(width), int(height))
    assert events.SummaryMetadata(tag).plugin_data.plugin_name == "images"
    return event.step, image


def test_an_evaluation_shows_its_confusion_and_a_phase_its_images(tmp_path: pathlib.Path) -> None:
    confusion = np.array([[8, 2, 0], [0, 10, 0], [5, 0, 5]])
    images = tf.random.stateless_uniform([6, 64, 64, 3], [1, 2], 0, 256, tf.int32)
    with _progress(tmp_path) as progress:
        progress.samples(0, tf.cast(images, tf.uint8), tf.constant([0, 1, 2, 0, 1, 2], tf.int64))
        _take(progress, 0, 10)
        progress.evaluated(10, METRICS, confusion)
    events = _events(tmp_path)
    step, matrix = _image(events, "validation/confusion")
    assert step == 10
    blue = np.asarray(matrix.convert("RGB")).astype(int)
    assert ((blue[:, :, 2] - blue[:, :, 0]) > 50).sum() > 1000  # the diagonal
    step, sheet = _image(events, "train/samples")
    assert step == 0
    assert sheet.size == (2 * (128 + 8) + 8, 2 * (128 + 28))  # four of the six, twice as large


def test_without_tensorboard_there_is_none(tmp_path: pathlib.Path) -> None:
    with _progress(tmp_path, tensorboard=False) as progress:
        progress.samples(0, tf.zeros([1, 8, 8, 3], tf.uint8), tf.constant([0], tf.int64))
        _take(progress, 0, 10)
        progress.evaluated(10, METRICS, np.eye(3, dtype=np.int64))
    assert {path.name for path in tmp_path.iterdir()} == {"history.csv", "history.jsonl"}


def test_only_the_chief_writes_and_shows(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    with _progress(tmp_path, show=False, profile_steps=(2, 3), mlflow=f"file:{tmp_path}/mlruns") as progress:
        progress.samples(0, tf.zeros([1, 8, 8, 3], tf.uint8), tf.constant([0], tf.int64))
        [*_, pairs] = _take(progress, 0, 10)
        assert len(pairs) == 10  # what the watch on every worker needs to agree
        progress.log(10, 0.1)
        progress.evaluated(10, METRICS, np.eye(3, dtype=np.int64))
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == ""


def _profiled(workdir: pathlib.Path) -> list[int]:
    """The first step of each call that the profiler marked."""
    [path] = workdir.glob("tensorboard/plugins/profile/*/*.xplane.pb")
    space = xplane_pb2.XSpace.FromString(path.read_bytes())
    steps = set()
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            if plane.event_metadata[event.metadata_id].name == "train":
                names = {plane.stat_metadata[stat.metadata_id].name: stat.int64_value for stat in event.stats}
                steps.add(names["step_num"])
    return sorted(steps)


@pytest.mark.parametrize(
    ("first_step", "last_step", "steps_per_call", "expected"),
    [
        (0, 12, 1, [5, 6, 7]),
        (5, 12, 1, [6, 7]),  # resumed inside
        (0, 12, 4, [5]),  # the call of 5 to 8 holds them all
        (2, 11, 3, [3, 6]),  # 3 to 5, 6 to 8
        (0, 6, 1, [5, 6]),  # the run ends inside
    ],
)
def test_the_profiler_records_the_chosen_steps(
    tmp_path: pathlib.Path, first_step: int, last_step: int, steps_per_call: int, expected: list[int]
) -> None:
    with _progress(tmp_path, first_step=first_step, profile_steps=(5, 7), steps_per_call=steps_per_call) as progress:
        _take(progress, first_step, last_step, steps_per_call=steps_per_call)
    assert _profiled(tmp_path) == expected


def test_a_run_past_the_chosen_steps_profiles_nothing(tmp_path: pathlib.Path) -> None:
    with _progress(tmp_path, first_step=7, profile_steps=(5, 7)) as progress:
        _take(progress, 7, 9)
    assert not list(tmp_path.glob("tensorboard/plugins"))


def test_logs_that_cannot_be_written_do_not_end_training(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    with _progress(tmp_path) as progress:
        (tmp_path / "history.csv").mkdir()
        (tmp_path / "history.csv" / "in the way").touch()
        for step in (10, 20):
            _take(progress, step - 10, step)
            progress.log(step, 0.1)
            progress.evaluated(step, METRICS, np.eye(3, dtype=np.int64))
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert warnings[0].startswith("TensorBoard can't be written (")
    assert warnings[1].startswith("History can't be written (")
