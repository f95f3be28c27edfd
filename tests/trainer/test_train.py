"""The commands as a user runs them: real processes, a real kill, real sockets between two workers."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline import manifest as manifest_lib
from tests.trainer.commands import (
    ENVIRONMENT,
    REPOSITORY,
    TIMEOUT_S,
    command,
    end,
    run,
    start_two_workers,
    weights,
)
from trainer import predictions

CONFIG = "--config=configs/digits_mobilenetv2.py"
# Two phases on a tenth of the digits: what is learned is not what is tested here.
SHORT_CONFIG = """
from configs.schema import Config, Input, Model, Optimizer, Phase

def get_config():
    return Config(
        global_batch=32,
        input=Input(image_size=32, crop_area=(0.8, 1.0), flip=False),
        model=Model(width=0.35, batch_norm_momentum=0.9),
        optimizer=Optimizer(name="adamw", peak_lr=1e-3),
        phases=(Phase(epochs=1, trainable="head"), Phase(epochs=2, freeze_batch_norm=True)),
    )
"""


def _scalars(workdir: pathlib.Path, tag: str) -> list[tuple[int, float]]:
    """(step, value) as TensorBoard reads them."""
    events = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    return [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The flag that names the short experiment."""
    path = tmp_path_factory.mktemp("configs") / "short.py"
    path.write_text(SHORT_CONFIG)
    return f"--config={path}"


@pytest.fixture(scope="module")
def trained(digits: str, short: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, str]:
    """(workdir, output) of an uninterrupted run of the short experiment."""
    workdir = tmp_path_factory.mktemp("trained")
    result = run("train", short, f"--data={digits}", f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    return workdir, result.stdout


@pytest.mark.parametrize(
    ("kill_after", "damage"), [(2, False), (8, True)], ids=["head phase", "second phase, newest checkpoint damaged"]
)
def test_killed_and_started_again_ends_where_the_uninterrupted_run_did(
    digits: str, short: str, trained: tuple[pathlib.Path, str], tmp_path: pathlib.Path, kill_after: int, damage: bool
) -> None:
    arguments = command(
        "train", short, "--config.checkpoint_every_steps=2", f"--data={digits}", f"--workdir={tmp_path}"
    )
    folder = tmp_path / "checkpoints"
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(arguments, cwd=REPOSITORY, env=ENVIRONMENT, **pipes) as process:
        deadline = time.monotonic() + TIMEOUT_S
        while not list(folder.glob(f"step-{kill_after:08d}*")):
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    steps = sorted({int(path.name.split("-")[1]) for path in folder.glob("step-*")})
    if damage:
        for data in folder.glob(f"step-{steps.pop():08d}*/content.data*"):
            data.write_bytes(data.read_bytes()[:-1])
    again = subprocess.run(
        arguments, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert again.returncode == 0, again.stderr
    resumed_at, last_step = map(int, re.search(r"steps (\d+) to (\d+)", again.stderr).groups())
    assert resumed_at == steps[-1] < last_step
    assert ("is damaged (content.data" in again.stderr) == damage
    # Not only as many steps: the same ones, to the last bit.
    assert weights(again.stdout) == weights(trained[1])
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == sorted({row["step"] for row in history})
    assert history[-1]["step"] == last_step


def test_a_finished_run_says_so_and_trains_no_further(
    digits: str, short: str, trained: tuple[pathlib.Path, str]
) -> None:
    workdir, output = trained
    again = run("train", short, f"--data={digits}", f"--workdir={workdir}")
    assert again.returncode == 0, again.stderr
    assert weights(again.stdout) == weights(output)


def test_what_was_logged_can_be_read_back(trained: tuple[pathlib.Path, str]) -> None:
    workdir, output = trained
    history = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == [6, 12, 16]  # 190 examples are 5.9 steps of 32: 5 and 11
    for tag, key in (("validation/accuracy", "validation_accuracy"), ("train/learning_rate", "learning_rate")):
        logged = dict(_scalars(workdir, tag))  # the rate also where the first phase ends
        assert [logged[row["step"]] for row in history] == pytest.approx([row[key] for row in history])
    assert all(rate > 0 for _, rate in _scalars(workdir, "speed/examples_per_s"))
    assert all(0 <= share <= 1 for _, share in _scalars(workdir, "speed/input_wait_share"))
    assert f"{history[-1]['validation_accuracy']:.2%}" in output


@pytest.mark.parametrize(
    ("trainable", "message"),
    [("all", r"the loss became (nan|inf) in the step to \d+"), ("head", r"is no longer finite in the step to \d+")],
)
def test_what_is_no_number_stops_the_run_and_is_not_saved(
    digits: str, short: str, tmp_path: pathlib.Path, trainable: str, message: str
) -> None:
    result = run(
        "train",
        short,
        "--config.optimizer.peak_lr=1e30",
        f"--config.phases[0].trainable={trainable}",
        "--config.logs.every_steps=1",
        f"--data={digits}",
        f"--workdir={tmp_path}",
    )
    assert result.returncode == 2
    assert re.search(message, result.stderr.splitlines()[-1])
    assert not list(tmp_path.glob("checkpoints/step-*"))


def test_another_config_in_the_same_workdir_is_refused(
    digits: str, short: str, trained: tuple[pathlib.Path, str]
) -> None:
    result = run("train", short, "--config.optimizer.peak_lr=0.5", f"--data={digits}", f"--workdir={trained[0]}")
    assert result.returncode == 2
    assert re.search(r"config\.optimizer\.peak_lr was [\d.]+, now 0\.5", result.stderr.splitlines()[-1])


def _two_workers(*arguments: str) -> list[tuple[str, str]]:
    """(stdout, stderr) of both processes."""
    return end(start_two_workers(command("train", *arguments, "--strategy=multi_worker")), status=0)


def test_a_signal_to_one_worker_ends_both_at_one_step(digits: str, short: str, tmp_path: pathlib.Path) -> None:
    """Not the chief is told, and the chief saves; both then go on from there."""
    arguments = [
        short,
        "--config.optimizer.ema=0.9",
        "--config.logs.every_steps=2",
        "--config.checkpoint_every_steps=2",
        f"--data={digits}",
        f"--workdir={tmp_path}",
    ]
    processes = start_two_workers(command("train", *arguments, "--strategy=multi_worker"))
    deadline = time.monotonic() + TIMEOUT_S
    while not list(tmp_path.glob("checkpoints/step-*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    said = [re.search(r"at global step (\d+), which is saved", out) for out, _ in end(processes, status=42)]
    [step] = {int(match[1]) for match in said}
    assert list(tmp_path.glob(f"checkpoints/step-{step:08d}*"))
    first, second = _two_workers(*arguments)
    assert f"steps {step} to 16" in first[1]
    assert "2 replicas" in first[1]
    assert weights(first[0])[0] == 16
    assert weights(first[0]) == weights(second[0])


def test_evaluate_counts_every_test_example(digits: str, trained: tuple[pathlib.Path, str]) -> None:
    workdir = trained[0]
    result = run("evaluate", f"--workdir={workdir}", "--split=test", "--slice=brightness", "--robustness")
    assert result.returncode == 0, result.stderr
    metrics = json.loads((workdir / "report" / "metrics.json").read_text())
    manifest = manifest_lib.load(digits)
    counts = manifest.class_counts("test")
    assert metrics["examples"] == manifest.split("test").examples
    assert [sum(row) for row in metrics["confusion"]] == counts
    assert {name: row["support"] for name, row in metrics["per_class"].items()} == dict(
        zip(manifest.classes, counts, strict=True)
    )
    assert metrics["dataset_fingerprint"] == manifest.fingerprint
    assert (workdir / "report" / "index.html").stat().st_size > 10_000

    found = predictions.read(str(workdir / "report" / "predictions.npz"))
    assert np.mean(found.logits.argmax(axis=1) == found.labels) == metrics["accuracy"]
    calibration = json.loads((workdir / "calibration.json").read_text())
    assert (calibration["split"], calibration["examples"]) == ("validation", manifest.split("validation").examples)
    assert (calibration["step"], calibration["fingerprint"]) == (metrics["step"], metrics["fingerprint"])
    assert calibration["temperature"] == metrics["calibration"]["temperature"] != 1.0
    assert metrics["calibration"]["fitted_on"] == "validation"
    assert {part["column"] for part in metrics["slices"]} == {"brightness"}
    assert sum(part["examples"] for part in metrics["slices"]) == metrics["examples"]
    assert len(metrics["robustness"]) == 12


def test_predict_names_what_it_cannot_read_and_goes_on(
    digit_folders: pathlib.Path, trained: tuple[pathlib.Path, str], tmp_path: pathlib.Path
) -> None:
    good = sorted((digit_folders / "3").glob("*.png"))[:2]
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(good[0], folder / "a.png")
    (folder / "b.jpg").write_text("not a picture")
    (folder / "c.png").write_bytes(b"")
    shutil.copy(good[1], folder / "d.png")
    result = run("predict", f"--workdir={trained[0]}", "--format=json", str(folder), str(good[0]))
    assert result.returncode == 1
    rows = {pathlib.Path(row["file"]).name: row for row in json.loads(result.stdout)}
    assert list(rows) == ["a.png", "b.jpg", "c.png", "d.png", good[0].name]
    assert "not_an_image" in rows["b.jpg"]["error"]
    assert "empty_file" in rows["c.png"]["error"]
    assert len(rows["d.png"]["top"]) == 3
    confidences = [one["confidence"] for one in rows["a.png"]["top"]]
    assert confidences == sorted(confidences, reverse=True)
    assert 0 < sum(confidences) <= 1 + 1e-6
    assert rows["a.png"]["top"] == rows[good[0].name]["top"]

    table = run("predict", f"--workdir={trained[0]}", str(good[0]))
    assert table.returncode == 0
    best = rows["a.png"]["top"][0]
    assert f"{best['class']} {best['confidence']:.1%}" in table.stdout


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_shard_is_named_before_the_first_step(
    digits: str, short: str, tmp_path: pathlib.Path, damage: str
) -> None:
    copy = tmp_path / "digits" / "1.0.0"
    shutil.copytree(digits, copy)
    shard = sorted(copy.glob("digits-train*"))[3]
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-100])
    result = run("train", short, f"--data={copy}", f"--workdir={tmp_path / 'work'}")
    assert result.returncode == 2
    assert f"shard {shard}" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "work").exists()


def test_a_folder_without_a_manifest_is_no_dataset(digits: str, short: str, tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "digits" / "1.0.0"
    shutil.copytree(digits, copy)
    (copy / "manifest.json").unlink()
    result = run("train", short, f"--data={copy}", f"--workdir={tmp_path / 'work'}")
    assert result.returncode == 2
    assert "holds no finished dataset" in result.stderr.splitlines()[-1]


def test_other_classes_are_refused_with_both_lists(
    digits: str, trained: tuple[pathlib.Path, str], tmp_path: pathlib.Path
) -> None:
    copy = tmp_path / "digits" / "1.0.0"
    shutil.copytree(digits, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["classes"][:2] = ["1", "0"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    result = run("evaluate", f"--workdir={trained[0]}", f"--data={copy}")
    assert result.returncode == 2
    line = result.stderr.splitlines()[-1]
    assert "['0', '1', '2'" in line
    assert "['1', '0', '2'" in line
