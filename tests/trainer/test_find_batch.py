"""The batch-size finder: its choice by hand, what it says of memory beside the kernel's own count, and real trials."""

from __future__ import annotations

import dataclasses
import resource
import subprocess
import sys
from typing import Any

import pytest
import tensorflow as tf

from configs import schema
from pipeline.errors import InputError
from trainer import batch_trial, find_batch


def _settings(**changed: Any) -> dict[str, Any]:
    config = schema.Config(
        input=schema.Input(image_size=32),
        model=schema.Model(width=0.35, weights="none"),
        augment=schema.Augment(policy="randaugment", where="step", mixup=0.2),
        optimizer=schema.Optimizer(accumulation=3),
        global_batch=3,
    )
    return {**dataclasses.asdict(config), **changed}


def test_sizes_double() -> None:
    assert find_batch.sizes(8, 100) == [8, 16, 32, 64]
    assert find_batch.sizes(6, 6) == [6]
    with pytest.raises(InputError, match="from 8 to 4"):
        find_batch.sizes(8, 4)


def test_the_smallest_within_five_percent_of_the_best_rate_is_taken() -> None:
    trials = [
        find_batch.Trial(*row) for row in ((8, 50.0, 1), (16, 94.9, 2), (32, 95.1, 3), (64, 100.0, 4), (128, 90.0, 5))
    ]
    advice = find_batch.advise(trials)
    assert (advice.smallest.batch, advice.largest.batch) == (32, 128)


@pytest.mark.parametrize(
    ("phases", "expected"),
    [(("head", "all"), "all"), (("head", "last:3"), "last:3"), (("from:block_9", "last:3"), "from:block_9")],
)
def test_the_phase_that_trains_most_is_tried(phases: tuple[str, ...], expected: str) -> None:
    assert batch_trial.largest_phase([{"trainable": name} for name in phases])["trainable"] == expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux' process table")
def test_a_process_holds_what_it_says() -> None:
    """Against the kernel's other account of it, which is right for a process that grew after it began."""
    code = (
        "import os, resource, sys; sys.path.insert(0, '.'); from trainer import find_batch\n"
        "held = bytearray(os.urandom(1 << 20) * 200); now = find_batch.memory_bytes(os.getpid(), 'VmRSS')\n"
        "del held; print(now, find_batch.memory_bytes(os.getpid(), 'VmHWM'), "
        "find_batch.memory_bytes(os.getpid(), 'VmRSS'), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    held, peak, after, expected_peak = map(int, result.stdout.split())
    assert held > 200 << 20
    assert after < held - (190 << 20)
    assert peak >= held
    # Python's parent here is larger than it, and its size would be the kernel's maximum.
    assert expected_peak >= peak - resource.getpagesize() * 64


def test_a_device_that_refuses_is_out_of_memory_and_a_wrong_shape_is_not() -> None:
    with pytest.raises(tf.errors.ResourceExhaustedError) as refused:
        tf.zeros([1 << 58], tf.uint8)
    assert batch_trial.is_about_memory(refused.value)
    with pytest.raises(tf.errors.InvalidArgumentError) as wrong:
        tf.reshape(tf.zeros([6]), [4])
    assert not batch_trial.is_about_memory(wrong.value)


def test_a_trial_says_how_fast_and_how_large(digits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what a step may hold beside its model: the policy inside it, mixed labels, parts that don't divide."""
    monkeypatch.setattr(batch_trial, "_MEASURED_S", 0)
    settings = _settings()
    settings["phases"] = ({**settings["phases"][0], "trainable": "head"},)
    images_per_s, peak_bytes = batch_trial.measure(digits, settings, "one", 4)
    assert images_per_s > 0
    # TensorFlow alone takes 200 MiB, and this model next to nothing.
    assert 200 << 20 < peak_bytes < 4 << 30


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux' process table")
def test_a_trial_that_holds_too_much_is_ended(digits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_batch, "_MEMORY_SHARE", 1e-9)
    (outcome,) = find_batch.attempts(digits, _settings(), "one", [8, 16])
    assert isinstance(outcome, find_batch.Failure)
    assert outcome.batch == 8
    assert "holds more than 0 MiB" in outcome.reason
    with pytest.raises(InputError, match="a batch of 8 for each replica does not fit"):
        find_batch.run(data=digits, settings=_settings(), strategy="one")


def test_settings_that_cannot_train_are_told_as_such(digits: str) -> None:
    settings = _settings(phases=({**_settings()["phases"][0], "trainable": "all"},), precision="float32")
    settings["model"] = {**settings["model"], "backbone": "unheard_of"}
    with pytest.raises(InputError, match="unheard_of"):
        find_batch.run(data=digits, settings=settings, strategy="one", smallest=8, largest=8)
    with pytest.raises(InputError, match="multi_worker"):
        find_batch.run(data=digits, settings=settings, strategy="multi_worker")
