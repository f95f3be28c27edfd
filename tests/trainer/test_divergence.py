"""Losses that go wrong, found at the very step, with the images of its batch; and the one way back."""

from __future__ import annotations

import json
import math
import pathlib

import keras
import pytest
import tensorflow as tf

from configs import loading
from pipeline import manifest as manifest_lib
from pipeline import records
from trainer import divergence, train

STEADY = [(step, 2.0) for step in range(1, 31)]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_the_first_loss_that_is_no_number_is_named(loss: float) -> None:
    watch = divergence.Watch(spike_factor=None)
    assert watch.look(STEADY) is None
    found = watch.look([(31, 2.0), (32, loss), (33, math.nan)])
    assert found == divergence.Divergence(32, f"the loss became {loss}")


def test_a_spike_is_so_many_times_the_median() -> None:
    watch = divergence.Watch(spike_factor=3.0)
    assert watch.look([*STEADY, (31, 6.0)]) is None  # three times is not more than three times
    found = watch.look([(32, 6.1)])
    assert found is not None
    assert found.step == 32
    assert "jumped to 6.1, 3.05 times the median" in found.what


def test_losses_of_nothing_are_compared_with_next_to_nothing() -> None:
    watch = divergence.Watch(spike_factor=3.0)
    assert watch.look([(step, 0.0) for step in range(1, 31)]) is None
    assert watch.look([(31, 0.02)]) is None
    found = watch.look([(32, 1.0)])
    assert found is not None
    assert found.what == "the loss jumped to 1, 100 times the median of those before it"


def test_first_losses_and_another_phases_say_nothing_about_spikes() -> None:
    watch = divergence.Watch(spike_factor=3.0)
    assert watch.look([(step, 2.0 if step < 10 else 100.0) for step in range(1, 15)]) is None
    watch = divergence.Watch(spike_factor=3.0)
    assert watch.look(STEADY) is None
    watch.restart()
    assert watch.look([(31, 100.0)]) is None


def test_without_a_factor_only_numbers_are_asked_for() -> None:
    assert divergence.Watch(spike_factor=None).look([*STEADY, (31, 1e9)]) is None


def test_weights_that_broke_are_found() -> None:
    net = keras.Sequential([keras.Input([2]), keras.layers.Dense(3, name="head")])
    assert divergence.not_finite(net, 5) is None
    net.get_layer("head").kernel.assign([[0.0, math.nan, 0.0]] * 2)
    assert divergence.not_finite(net, 5) == divergence.Divergence(5, f"{net.name}/head/kernel is no longer finite")


def test_going_back_is_remembered_on_disk(tmp_path: pathlib.Path) -> None:
    none = divergence.load_rollback(str(tmp_path))
    assert none == divergence.Rollback(0, 1.0)
    once = divergence.roll_back(str(tmp_path), none, lr_factor=0.5, is_chief=True)
    assert once == divergence.load_rollback(str(tmp_path)) == divergence.Rollback(1, 0.5)


def test_the_batch_is_what_all_workers_read(digits: str) -> None:
    """Against the records themselves: the labels that training gives for a step belong to the ids that are named."""
    import dataclasses

    from trainer import learner, strategies

    settings = dataclasses.asdict(loading.read("configs/digits_mobilenetv2.py", ["--config.input.image_size=32"]))
    manifest = manifest_lib.load(digits)
    label_of = {}
    for file in sorted(pathlib.Path(digits).glob("digits-train*")):
        for serialized in tf.data.TFRecordDataset(str(file)):
            example = records.parse(serialized, ("id", "label"))
            label_of[example["id"].numpy().decode()] = int(example["label"])
    ids = divergence.batch_ids(digits, manifest, settings, step=4)
    assert len(ids) == 32
    batches = learner.batches(digits, manifest, settings, strategies.connect("one"), start_step=3)
    _, labels, _ = next(iter(batches))
    assert [label_of[name] for name in ids] == labels.numpy().tolist()


def test_the_report_names_images_file_and_checkpoint(digits: str, tmp_path: pathlib.Path) -> None:
    import dataclasses

    settings = dataclasses.asdict(loading.read("configs/digits_mobilenetv2.py"))
    message = divergence.report(
        divergence.Divergence(4, "the loss became nan"),
        workdir=str(tmp_path),
        data=digits,
        manifest=manifest_lib.load(digits),
        settings=settings,
        last_good_step=2,
        is_chief=True,
    )
    written = json.loads((tmp_path / "divergence.json").read_text())
    assert (written["step"], written["last_good_step"], len(written["ids"])) == (4, 2, 32)
    assert message.startswith("the loss became nan in the step to 4, on images ")
    assert written["ids"][0][:12] in message
    assert "checkpoint 2 is good" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 4), (3, 4), (4, 6), (8, 9), (9, 10), (10, 12), (11, 12), (12, 14), (13, 14)]
)
def test_next_stop(step: int, expected: int) -> None:
    """Saved every 6, evaluated every 4 steps, phases ending at 9 and 10, the run at 14: by hand."""
    assert train.next_stop(step, ends=(9, 10, 14), every=(4, 6)) == expected
