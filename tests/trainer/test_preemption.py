"""Signals that are noted and not obeyed at once, in every part of a run; and workers that end when one was told."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import tensorflow as tf

from configs import schema
from pipeline import training
from tests.trainer import replicas
from tests.trainer.commands import REPOSITORY, TIMEOUT_S, command, end, start_two_workers
from trainer import evaluate, preemption, strategies, train

# As the command and the loop use it: they ask each other every third step. Says when it has begun.
WORKER = """
import sys
from trainer import preemption, strategies

step = 0
with preemption.Signals() as signals:
    cluster = strategies.connect("multi_worker")
    while True:
        step += 1
        if step % 3 == 0:
            if strategies.agree(cluster, signals.received):
                break
            if step == 3:
                print("running", flush=True)
print("ended", step, signals.received, flush=True)
sys.exit(preemption.EXIT_STATUS)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_handlers_come_back(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with preemption.Signals() as signals:
        assert not signals.received
        signal.raise_signal(number)
        assert signals.received
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    said = capfd.readouterr().err.splitlines()  # TensorFlow's threads of earlier tests may write between
    assert said.count(f"{number.name}: ending soon, with a checkpoint") == 1


def test_only_a_second_interrupt_ends_at_once() -> None:
    with preemption.Signals():
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):  # launchers repeat themselves
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("received", [False, True])
def test_replicas_add_up_what_was_received(received: bool) -> None:
    cluster = strategies.Cluster(replicas.cluster(2).strategy, worker=0, num_workers=2)
    assert strategies.agree(cluster, received) is received


@pytest.mark.parametrize("received", [False, True])
def test_one_process_asks_nobody(received: bool) -> None:
    assert strategies.agree(strategies.Cluster(None, worker=0, num_workers=1), received) is received


def test_what_has_nothing_to_save_ends_by_checking() -> None:
    with preemption.Signals() as signals:
        signals.check()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(preemption.Preempted, match="before the first step of this start: start the same command"):
            signals.check()


@pytest.mark.parametrize(("every", "left_after"), [(1, 3), (2, 4)])
def test_an_evaluation_is_left_where_it_asks_for_that(every: int, left_after: int) -> None:
    beats: list[int] = []

    def step(batch: list[int]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return tf.ones([2, 2], tf.int64), tf.constant(1), tf.constant(0.5)

    sums = evaluate.accumulate(step, [[0]] * 10, 2, beat=lambda: beats.append(1))
    assert (sums.top_k_correct, len(beats)) == (10, 10)
    beats.clear()
    with pytest.raises(preemption.Interrupted):
        evaluate.accumulate(
            step,
            [[0]] * 10,
            2,
            beat=lambda: beats.append(1),
            asked_to_end=lambda: len(beats) >= 3,
            every_batches=every,
        )
    assert len(beats) == left_after


def test_a_signal_before_the_first_step_ends_with_the_status_that_asks_for_another_start(
    digits: str, tmp_path: pathlib.Path
) -> None:
    """While TensorFlow is imported, long before there is anything to save."""
    arguments = ["--config=configs/digits_mobilenetv2.py", f"--data={digits}", f"--workdir={tmp_path / 'run'}"]
    with subprocess.Popen(
        command("train", *arguments), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + TIMEOUT_S
        while not _catches(process.pid, signal.SIGTERM):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 42, stderr
    assert stdout == "ended by a signal before the first step of this start: start the same command to go on\n"
    assert not (tmp_path / "run").exists()


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler of its own for that signal."""
    [caught] = re.findall(r"^SigCgt:\s+([0-9a-f]+)$", pathlib.Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> (number - 1) & 1)


def _train(digits: str, workdir: pathlib.Path, **keywords: Any) -> dict[str, Any]:
    config = schema.Config(
        global_batch=8,
        max_steps=4,
        checkpoint_every_steps=100,
        evaluate_every_epochs=0.085,  # 2 of its 24 steps
        input=schema.Input(image_size=32),
        model=schema.Model(width=0.35),
        logs=schema.Logs(tensorboard=False),
    )
    found = {"data": digits, "workdir": str(workdir), "strategy": "one", "input_service": (), **keywords}
    return train.train(**found, **dataclasses.asdict(config))


def test_a_signal_in_an_evaluation_ends_it_and_what_came_before_is_saved(digits: str, tmp_path: pathlib.Path) -> None:
    """Its step was not due for a checkpoint; the next start begins with the evaluation that was left."""
    signals, calls = preemption.Signals(), []

    def beat(step: int | None = None) -> None:
        calls.append(step)
        signals.received = calls[-2:] == [2, None]  # after the first batch of the first evaluation

    with pytest.raises(preemption.Preempted, match="at global step 2, which is saved"):
        _train(digits, tmp_path, signals=signals, beat=beat)
    assert calls[-2:] == [2, None]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    assert not (tmp_path / "history.jsonl").read_text()

    assert _train(digits, tmp_path)["step"] == 4
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == [2, 4]


def test_a_signal_before_the_first_step_is_compiled_ends_there(
    digits: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals = preemption.Signals()
    read = training.batches

    def opened(*arguments: Any, **keywords: Any) -> Any:
        signals.received = True
        return read(*arguments, **keywords)

    monkeypatch.setattr(training, "batches", opened)
    with pytest.raises(preemption.Preempted, match="at global step 0"):
        _train(digits, tmp_path, signals=signals)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000000"]


def test_two_workers_end_at_the_same_step_when_one_of_them_gets_a_signal() -> None:
    processes = start_two_workers([sys.executable, "-c", WORKER])
    for process in processes:
        assert process.stdout.readline() == "running\n"
    processes[1].send_signal(signal.SIGTERM)
    outputs = [output for output, _ in end(processes, status=42)]
    (step, received), (other_step, other_received) = (output.split()[-2:] for output in outputs)
    assert step == other_step
    assert (received, other_received) == ("False", "True")
