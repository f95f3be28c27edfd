"""The commands as a user runs them: real processes, a real kill, real sockets between two workers."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from pipeline import manifest as manifest_lib

REPOSITORY = pathlib.Path(__file__).parents[2]
CONFIG = "--config=configs/digits_mobilenetv2.py"
# The demo's experiment on a tenth of its data, made short: what it learns is not what is tested here.
SHORT = [
    CONFIG,
    "--config.input.image_size=32",
    "--config.model.width=0.35",
    "--config.phases[0].epochs=3",
    "--config.evaluate_every_epochs=1",
]
TIMEOUT_S = 240


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "trainer", *arguments]


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(*arguments),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, **environment},
    )


def _weights(stdout: str) -> tuple[int, str]:
    step, weights = re.search(r"finished at step (\d+).*weights ([0-9a-f]{64})", stdout).groups()
    return int(step), weights


@pytest.fixture(scope="module")
def trained(digits: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, str]:
    """(workdir, output) of an uninterrupted run of the short experiment."""
    workdir = tmp_path_factory.mktemp("trained")
    result = _run("train", *SHORT, f"--data={digits}", f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    return workdir, result.stdout


def test_killed_and_started_again_ends_where_the_uninterrupted_run_did(
    digits: str, trained: tuple[pathlib.Path, str], tmp_path: pathlib.Path
) -> None:
    command = _command(
        "train", *SHORT, "--config.checkpoint_every_steps=4", f"--data={digits}", f"--workdir={tmp_path}"
    )
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + TIMEOUT_S
        while not list(tmp_path.glob("checkpoints/step-4.index")):
            assert process.poll() is None, "ended before its first checkpoint"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    again = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert again.returncode == 0, again.stderr
    resumed_at = int(re.search(r"steps (\d+) to", again.stderr).group(1))
    assert resumed_at >= 4
    assert _weights(again.stdout) == _weights(trained[1])
    step = _weights(again.stdout)[0]
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == sorted({row["step"] for row in history})
    assert history[-1]["step"] == step


def test_a_finished_run_says_so_and_trains_no_further(digits: str, trained: tuple[pathlib.Path, str]) -> None:
    workdir, output = trained
    again = _run("train", *SHORT, f"--data={digits}", f"--workdir={workdir}")
    assert again.returncode == 0, again.stderr
    assert _weights(again.stdout) == _weights(output)


def test_another_config_in_the_same_workdir_is_refused(digits: str, trained: tuple[pathlib.Path, str]) -> None:
    result = _run("train", *SHORT, "--config.optimizer.peak_lr=0.5", f"--data={digits}", f"--workdir={trained[0]}")
    assert result.returncode == 2
    assert re.search(r"config\.optimizer\.peak_lr was [\d.]+, now 0\.5", result.stderr.splitlines()[-1])


def test_two_workers_end_with_the_same_weights(digits: str, tmp_path: pathlib.Path) -> None:
    """The demo's own config, 20 steps, two processes over loopback."""
    with socket.socket() as first, socket.socket() as second:  # both open, so that the ports differ
        for sock in (first, second):
            sock.bind(("127.0.0.1", 0))
        hosts = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in (first, second)]
    processes = []
    for index in range(2):
        config = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        processes.append(
            subprocess.Popen(
                _command(
                    "train",
                    CONFIG,
                    "--config.max_steps=20",
                    f"--data={digits}",
                    f"--workdir={tmp_path}",
                    "--strategy=multi_worker",
                ),
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
            )
        )
    try:
        outputs = [process.communicate(timeout=TIMEOUT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], [stderr[-2000:] for _, stderr in outputs]
    (first_step, first_weights), (second_step, second_weights) = (_weights(stdout) for stdout, _ in outputs)
    assert first_step == second_step == 20
    assert first_weights == second_weights
    assert "2 replicas" in outputs[0][1]


def test_evaluate_counts_every_test_example(digits: str, trained: tuple[pathlib.Path, str]) -> None:
    workdir = trained[0]
    result = _run("evaluate", f"--workdir={workdir}", "--split=test")
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
    result = _run("predict", f"--workdir={trained[0]}", "--format=json", str(folder), str(good[0]))
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

    table = _run("predict", f"--workdir={trained[0]}", str(good[0]))
    assert table.returncode == 0
    best = rows["a.png"]["top"][0]
    assert f"{best['class']} {best['confidence']:.1%}" in table.stdout


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_shard_is_named_before_the_first_step(digits: str, tmp_path: pathlib.Path, damage: str) -> None:
    copy = tmp_path / "digits" / "1.0.0"
    shutil.copytree(digits, copy)
    shard = sorted(copy.glob("digits-train*"))[3]
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-100])
    result = _run("train", *SHORT, f"--data={copy}", f"--workdir={tmp_path / 'work'}")
    assert result.returncode == 2
    assert f"shard {shard}" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "work").exists()


def test_a_folder_without_a_manifest_is_no_dataset(digits: str, tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "digits" / "1.0.0"
    shutil.copytree(digits, copy)
    (copy / "manifest.json").unlink()
    result = _run("train", *SHORT, f"--data={copy}", f"--workdir={tmp_path / 'work'}")
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
    result = _run("evaluate", f"--workdir={trained[0]}", f"--data={copy}")
    assert result.returncode == 2
    line = result.stderr.splitlines()[-1]
    assert "['0', '1', '2'" in line
    assert "['1', '0', '2'" in line
