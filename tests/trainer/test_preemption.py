"""Signals that are noted and not obeyed at once, and workers that end together when only one of them was told."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.trainer import replicas
from tests.trainer.commands import REPOSITORY, TIMEOUT_S
from trainer import preemption, strategies

# As the loop uses it: they ask each other every third step. Says when it has begun.
WORKER = """
import sys
from trainer import preemption, strategies

cluster = strategies.connect("multi_worker")
step = 0
with preemption.Signals() as signals:
    while True:
        step += 1
        if step % 3 == 0:
            if preemption.agree(cluster, signals.received):
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
    assert capfd.readouterr().err == f"{number.name}: ending after this step, with a checkpoint\n"


def test_only_a_second_interrupt_ends_at_once() -> None:
    with preemption.Signals():
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):  # launchers repeat themselves
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("received", [False, True])
def test_replicas_add_up_what_was_received(received: bool) -> None:
    cluster = strategies.Cluster(replicas.cluster(2).strategy, worker=0, num_workers=2)
    assert preemption.agree(cluster, received) is received


@pytest.mark.parametrize("received", [False, True])
def test_one_process_asks_nobody(received: bool) -> None:
    assert preemption.agree(strategies.Cluster(None, worker=0, num_workers=1), received) is received


def test_two_workers_end_at_the_same_step_when_one_of_them_gets_a_signal() -> None:
    with socket.socket() as first, socket.socket() as second:  # both open, so that the ports differ
        for sock in (first, second):
            sock.bind(("127.0.0.1", 0))
        hosts = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in (first, second)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={
                **os.environ,
                "TF_CONFIG": json.dumps({"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}),
            },
        )
        for index in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "running\n"
        processes[1].send_signal(signal.SIGTERM)
        outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    (step, received), (other_step, other_received) = (output.split()[-2:] for output in outputs)
    assert [process.returncode for process in processes] == [42, 42]
    assert step == other_step
    assert (received, other_received) == ("False", "True")
