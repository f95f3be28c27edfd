"""SIGKILL at random moments of the real command: what stands is whole, and the next run gives the same bytes."""

from __future__ import annotations

import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from pipeline import manifest
from tests.preprocess.folders import REPOSITORY
from tests.preprocess.test_publish import assert_whole

SEED = 7


def make_images(root: pathlib.Path, count: int) -> pathlib.Path:
    """Small JPEGs of noise, no two alike."""
    noise = np.random.default_rng(0)
    for number in range(count):
        folder = root / f"class{number % 5}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{number:05d}.jpg")
    return root


def start(source: pathlib.Path, output: pathlib.Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "preprocess", f"--input={source}", f"--output={output}", "--name=storm", *more],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> manifest.Manifest:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    (directory,) = [line.removeprefix("dataset: ") for line in out.splitlines() if line.startswith("dataset: ")]
    return manifest.load(directory)


def folders(output: pathlib.Path) -> set[str]:
    """What stands beside the dataset, without the names of jobs."""
    return {path.name.partition("-")[0] for path in output.glob("storm/*")}


def assert_nothing_half_done(output: pathlib.Path) -> list[manifest.Manifest]:
    """Returns what stands in the dataset's place: nothing or one manifest."""
    for path in output.rglob(manifest.FILE):
        assert_whole(str(path.parent))
    assert folders(output) <= {"1.0.0", "1.0.0.incomplete", "1.0.0.discarded"}
    directory = output / "storm/1.0.0"
    return [manifest.load(str(directory))] if directory.exists() else []


def storm(tmp_path: pathlib.Path, images: int, kills: int) -> None:
    """Half of the kills hit a first run, half one that replaces a dataset of other settings."""
    source = make_images(tmp_path / "in", images)
    began = time.monotonic()
    expected = finish(start(source, tmp_path / "undisturbed"))
    duration = time.monotonic() - began
    old = finish(start(source, tmp_path / "old", "--seed=1"))
    assert {expected.ledger["seen"], old.ledger["written"]} == {images}
    chance = random.Random(SEED)
    moments = [chance.uniform(0.0, 1.1) * duration for _ in range(kills)]
    killed = 0
    for number, moment in enumerate(moments):
        output = tmp_path / f"out{number}"
        replacing = ["--overwrite"] if number % 2 else []
        if replacing:
            shutil.copytree(tmp_path / "old", output)
        process = start(source, output, *replacing)
        try:
            process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += process.returncode == -signal.SIGKILL
        standing = assert_nothing_half_done(output)
        assert not standing or standing[0] in ([old, expected] if replacing else [expected])
        if expected not in standing:
            finish(start(source, output, *replacing))
        elif folders(output) != {"1.0.0"}:  # killed between publishing and tidying up
            finish(start(source, output, "--overwrite"))
        assert assert_nothing_half_done(output) == [expected]
        assert folders(output) == {"1.0.0"}
    assert killed > kills / 2


@pytest.mark.soak
def test_thirty_kills_of_a_job_over_5000_images(tmp_path: pathlib.Path) -> None:
    storm(tmp_path, images=5_000, kills=30)


@pytest.mark.soak
def test_a_killed_worker_process_ends_the_job_and_the_next_run_gives_the_same(tmp_path: pathlib.Path) -> None:
    psutil = pytest.importorskip("psutil")
    source = make_images(tmp_path / "in", 3_000)
    expected = finish(start(source, tmp_path / "undisturbed"))
    two = "--beam_args=--runner=DirectRunner --direct_num_workers=2 --direct_running_mode=multi_processing"
    output = tmp_path / "out"
    process = start(source, output, two)
    deadline = time.monotonic() + 120
    while not list(output.glob("storm/*/dataset/*.tfrecord-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    children = psutil.Process(process.pid).children(recursive=True)
    next(child for child in children if "sdk_worker" in " ".join(child.cmdline()) and not child.children()).kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.splitlines()[-1].startswith("error: a worker process ended in the middle of the job")
    assert folders(output) == set()
    assert finish(start(source, output)) == expected
