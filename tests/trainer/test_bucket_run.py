"""Every address in a bucket: shards, weights and losses are those of a local run, and the report is there."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from pipeline import storage
from tests.trainer import bucket_run


def upload(folder: pathlib.Path, target: str) -> str:
    for name in storage.files_under(str(folder)):
        storage.copy(str(folder / name), storage.join(target, name))
    return target


def test_a_run_in_a_bucket_ends_as_a_local_one(
    serve_bucket: Callable[..., str], digits: str, digit_folders: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """On `digits`, what preparation makes of `digit_folders` on a disk; the soak compares the other commands, too."""
    here = str(tmp_path / "local")
    local = bucket_run.succeeded(bucket_run.train(here, tmp_path, digits))
    bucket = serve_bucket("--failures=0.02", "--cuts=0.02", "--flips=0.02")
    photos, run = upload(digit_folders, f"{bucket}/photos"), f"{bucket}/run"
    bucket_run.succeeded(bucket_run.prepare(photos, bucket))
    assert bucket_run.shards(f"{bucket}/data/digits/1.0.0") == bucket_run.shards(digits)
    remote = bucket_run.succeeded(bucket_run.train(bucket, tmp_path))
    assert bucket_run.weights(remote) == bucket_run.weights(local)
    losses = bucket_run.losses(run)
    assert losses == bucket_run.losses(f"{here}/run")
    assert [step for step, _ in losses] == [2, 3, 4, 6, 8, 9, 10, 12]  # also before each checkpoint
    bucket_run.succeeded(bucket_run.evaluate(bucket))
    assert bucket_run.measures(run)["examples"] == 20

    written = [name for name, is_folder in storage.children(run) if not is_folder]
    assert written == ["calibration.json", "history.csv", "history.jsonl", "run.json"]
    for name in storage.files_under(f"{run}/tensorboard"):
        storage.copy(f"{run}/tensorboard/{name}", str(tmp_path / "events" / name))
    events = EventAccumulator(str(tmp_path / "events"), tensor_size_guidance={"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Tensors("train/loss")] == [step for step, _ in losses]
    assert not list(bucket_run.REPOSITORY.glob("gs:*"))  # nobody took the address for a path
