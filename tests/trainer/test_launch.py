"""What `launch` starts, from flags and the environment; and a training that loses a worker and completes."""

from __future__ import annotations

import json
import pathlib
import re
import signal
import socket
import subprocess
import time

import pytest

from pipeline import manifest as manifest_lib
from pipeline.errors import InputError
from tests.trainer.commands import REPOSITORY, TIMEOUT_S, command, end
from trainer import launch

KUBERNETES = {"JOB_COMPLETION_INDEX": "1", "NUM_WORKERS": "2", "COORDINATOR": "trainer-0.trainer:2222"}
ONE_POD = {**KUBERNETES, "JOB_COMPLETION_INDEX": "0", "NUM_WORKERS": "1"}
FLAGS = {"coordinator": "a:1", "num_workers": 3, "worker_index": 2}


@pytest.mark.parametrize(
    ("environment", "given", "expected"),
    [
        ({}, {}, ("one", 1, None)),
        ({}, {"strategy": "mirrored"}, ("mirrored", 1, None)),
        ({}, {"num_workers": 1}, ("one", 1, None)),
        ({}, {"num_workers": 2}, ("multi_worker", 2, None)),
        ({}, {"strategy": "multi_worker"}, ("multi_worker", 1, None)),
        ({}, FLAGS, ("multi_worker", 1, 2)),
        (KUBERNETES, {}, ("multi_worker", 1, 1)),
        (KUBERNETES, {"strategy": "multi_worker"}, ("multi_worker", 1, 1)),
        (ONE_POD, {}, ("one", 1, None)),
        (ONE_POD, {"strategy": "tpu"}, ("tpu", 1, None)),
        (ONE_POD, {"strategy": "multi_worker"}, ("multi_worker", 1, 0)),
        (ONE_POD, {"num_workers": 2}, ("multi_worker", 2, None)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_NODELIST": "n1"}, {}, ("one", 1, None)),
    ],
)
def test_what_is_started(
    environment: dict[str, str], given: dict[str, object], expected: tuple[str, int, int | None]
) -> None:
    planned = launch.plan(environment, **{"strategy": None, **given})
    assert (planned.strategy, planned.num_workers, planned.worker.index if planned.worker else None) == expected


@pytest.mark.parametrize(
    ("environment", "given", "message"),
    [
        ({}, {"num_workers": 0}, "--num_workers=0: expected at least 1"),
        ({}, {"num_workers": 2, "strategy": "mirrored"}, "--strategy=mirrored is for one process: leave --num_workers"),
        ({}, {"coordinator": "a:1"}, "--num_workers, --worker_index must be given too"),
        ({}, {"worker_index": 1, "num_workers": 2}, "--coordinator must be given too"),
        (KUBERNETES, {"num_workers": 2}, "--num_workers=2 starts that many workers here, but as Kubernetes says"),
        (KUBERNETES, {"strategy": "one"}, "--strategy=one is for one process, but as Kubernetes says this is worker 1"),
        ({}, {**FLAGS, "strategy": "tpu"}, "--strategy=tpu is for one process, but as flags says this is worker 2"),
        ({"TF_CONFIG": "{"}, {}, "TF_CONFIG='{' can't be used"),
    ],
)
def test_what_contradicts_itself_is_refused(
    environment: dict[str, str], given: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        launch.plan(environment, **{"strategy": None, **given})


def test_a_place_by_flags_is_passed_on_and_one_of_the_environment_inherited() -> None:
    given = {**FLAGS, "strategy": None, "host": "gpu7"}
    [found] = launch.commands(["train"], launch.plan(KUBERNETES, **given))
    assert found.argv == ["train", "--coordinator=a:1", "--num_workers=3", "--worker_index=2", "--worker_host=gpu7"]
    assert (found.worker, found.environment) == (2, {})
    [found] = launch.commands(["train"], launch.plan(KUBERNETES, strategy=None))
    assert (found.worker, found.argv, found.environment) == (1, ["train"], {})


def test_workers_on_this_machine_know_each_other() -> None:
    found = launch.commands(["train"], launch.plan({}, strategy=None, num_workers=3))
    configs = [json.loads(one.environment["TF_CONFIG"]) for one in found]
    assert [config["task"] for config in configs] == [{"type": "worker", "index": index} for index in range(3)]
    [addresses] = {tuple(config["cluster"]["worker"]) for config in configs}
    assert len({address.partition(":")[2] for address in addresses}) == 3
    assert [one.environment for one in launch.commands(["train"], launch.plan({}, strategy=None))] == [{}]


CONFIG = """
from configs.schema import Config, Input, Logs, Model, Monitor, Optimizer, Phase

def get_config():
    return Config(
        global_batch=16,
        max_steps=24,
        checkpoint_every_steps=4,
        input=Input(image_size=32, crop_area=(0.8, 1.0), flip=False),
        model=Model(width=0.35, batch_norm_momentum=0.9),
        optimizer=Optimizer(name="adamw", peak_lr=1e-3),
        phases=(Phase(epochs=3),),
        monitor=Monitor(restore_best=False),
        logs=Logs(every_steps=2, tensorboard=False),
    )
"""


def test_a_training_whose_worker_is_killed_completes_and_is_evaluated(
    digits: str, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    """Two workers here; the one that is not the chief dies after the first checkpoint. Each then evaluates its part."""
    config, workdir = tmp_path / "config.py", tmp_path / "run"
    config.write_text(CONFIG)
    arguments = [f"--config={config}", f"--data={digits}", f"--workdir={workdir}"]
    supervisor = subprocess.Popen(
        command("launch", "--num_workers=2", *arguments),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    request.addfinalizer(supervisor.kill)  # with which its workers end
    deadline = time.monotonic() + TIMEOUT_S
    while not list(workdir.glob("checkpoints/step-*")):
        assert time.monotonic() < deadline
        assert supervisor.poll() is None, supervisor.stderr.read()
        time.sleep(0.02)
    children = pathlib.Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read_text().split()
    _kill(children, index=1)
    stdout, stderr = supervisor.communicate(timeout=2 * TIMEOUT_S)  # of two starts
    assert supervisor.returncode == 0, stderr
    assert "launch: worker 1 was killed by SIGKILL at step" in stderr
    first, again = (int(step) for step in re.findall(r"^\[0\] train: .* steps (\d+) to 24,", stderr, re.MULTILINE))
    assert (first, again % 4) == (0, 0)
    assert 0 < again < 24
    said = re.findall(r"^\[([01])\] finished at step 24, .*weights ([0-9a-f]{64})", stdout, re.MULTILINE)
    assert sorted(worker for worker, _ in said) == ["0", "1"]
    assert len({weights for _, weights in said}) == 1

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        coordinator = f"localhost:{sock.getsockname()[1]}"
    place = ["--strategy=multi_worker", f"--coordinator={coordinator}", "--num_workers=2"]
    both = [
        subprocess.Popen(
            command("evaluate", f"--workdir={workdir}", *place, f"--worker_index={index}"),
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    [said_by_both] = {stdout for stdout, _ in end(both, status=0)}
    metrics = json.loads((workdir / "report" / "metrics.json").read_text())
    counts = manifest_lib.load(digits).class_counts("test")
    assert [sum(row) for row in metrics["confusion"]] == counts  # each example once
    assert f"on {sum(counts)} examples" in said_by_both


def _kill(pids: list[str], *, index: int) -> None:
    """That worker among the supervisor's."""
    for pid in pids:
        environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes()
        if f'"index": {index}'.encode() in environment:
            subprocess.run(["kill", f"-{signal.SIGKILL.value}", pid], check=True)
            return
    raise AssertionError("it is not there")
