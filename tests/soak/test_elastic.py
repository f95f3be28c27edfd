"""Stopped with 4 workers, gone on with 2, ended with 1: losses and order are those of one run that nobody stopped."""

from __future__ import annotations

import pathlib
import re
import signal
import time

import pytest

from pipeline import training
from tests.trainer import equivalence
from tests.trainer.commands import command, end, start_workers

pytestmark = pytest.mark.soak
STEPS, FIRST_STOP, SECOND_STOP, TOLERANCE = 50, 10, 35, 1e-5


def test_four_two_and_one_workers_go_on_where_the_others_stopped(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four end by a signal, two by their last step. Dropout, averages and moments go on."""
    data, config = tmp_path / "data", equivalence.config(tmp_path, STEPS)
    manifest = equivalence.dataset(data, train=[27] * 3 + [26] * 5, validation=[6] * 5 + [1])
    workdir = tmp_path / "elastic"
    equivalence.train(tmp_path / "whole", data, config, workers=1)

    arguments = command("train", f"--config={config}", f"--data={data}", f"--workdir={workdir}")
    processes = start_workers([*arguments, "--strategy=multi_worker", "--config.checkpoint_every_steps=5"], 4)
    _wait_for(workdir / "checkpoints", f"step-{FIRST_STOP:08d}*")
    processes[2].send_signal(signal.SIGTERM)
    [stopped] = {
        int(re.search(r"at global step (\d+), which is saved", out)[1])
        for out, _ in end(processes, status=42, timeout_s=equivalence.TIMEOUT_S)
    }
    assert FIRST_STOP <= stopped < SECOND_STOP
    equivalence.train(
        workdir, data, config, f"--config.max_steps={SECOND_STOP}", "--config.checkpoint_every_steps=5", workers=2
    )
    equivalence.train(workdir, data, config, "--config.checkpoint_every_steps=5", workers=1)
    difference = equivalence.assert_equal(workdir, tmp_path / "whole", steps=STEPS, tolerance=TOLERANCE)

    def ids(first: int, last: int, workers: int) -> list[list[bytes]]:
        parts = [
            training.sample_ids(
                str(data), manifest, split="train", seed=42, global_batch=16, shuffle_mib=256.0, start_step=first,
                worker=worker, num_workers=workers,
            ).take(last - first).as_numpy_iterator()
            for worker in range(workers)
        ]  # fmt: skip
        return [[example for part in step for example in part] for step in zip(*parts, strict=True)]

    assert ids(0, stopped, 4) + ids(stopped, SECOND_STOP, 2) + ids(SECOND_STOP, STEPS, 1) == ids(0, STEPS, 1)
    with capsys.disabled():
        print(f"\n4 workers to {stopped}, 2 to {SECOND_STOP}, 1 to {STEPS}: largest difference {difference:.1e}")


def _wait_for(folder: pathlib.Path, pattern: str) -> None:
    deadline = time.monotonic() + equivalence.TIMEOUT_S
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
