"""Each manifest's pods, as processes on hosts of their own, train together to the end of the undisturbed training."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import pytest
import yaml

from tests.network import hosts, pods
from tests.network.faults import compare
from tests.network.records import Result
from tests.network.training import NAMES, RECORDER, REPOSITORY, TIMEOUT_S, supervisors, training
from tests.runners import worker

pytestmark = pytest.mark.network

MANIFESTS = REPOSITORY / "infra/kubernetes"
FOLDER, DATA = "/mnt/training", "/mnt/data"  # where a pod sees them
IMAGE = {"PATH": f"{pathlib.Path(sys.executable).parent}:{os.defpath}:/usr/sbin:/sbin", "HOME": "/"}
SLURM = {"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "worker-[0-1]"}
TF_CONFIG = '{"cluster": {"worker": ["worker-0:2222", "worker-1:2222"]}, "task": {"type": "worker", "index": %d}}'
ENVIRONMENTS = {
    "TF_CONFIG": {name: {"TF_CONFIG": TF_CONFIG % index} for index, name in enumerate(NAMES)},
    "SLURM": {name: {**SLURM, "SLURM_PROCID": str(index)} for index, name in enumerate(NAMES)},
}


def build(overlay: str, folder: pathlib.Path, **settings: str) -> list[dict[str, Any]]:
    """The manifests of an overlay as `kubectl apply -k` would send them, with other values in settings.env."""
    beside = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    kubectl, kustomize = (shutil.which(tool, path=beside) for tool in ("kubectl", "kustomize"))
    if not kubectl and not kustomize:
        pytest.skip("needs kubectl or kustomize")
    shutil.copytree(MANIFESTS, folder)
    path = folder / "components/settings/settings.env"
    lines = path.read_text().splitlines()
    for name, value in settings.items():
        assert [line for line in lines if line.startswith(f"{name}=")], f"no {name} to set"
        lines = [f"{name}={value}" if line.startswith(f"{name}=") else line for line in lines]
    path.write_text("\n".join(lines) + "\n")
    command = [kustomize, "build"] if kustomize else [kubectl, "kustomize"]
    built = subprocess.run([*command, folder / "overlays" / overlay], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(built.stdout))


@pytest.mark.parametrize("overlay", ["gpu", pytest.param("gpu-spot", marks=pytest.mark.soak), "gpu-indexed-job"])
def test_pods_train_together(overlay: str, digits: str, baseline: Result, tmp_path: pathlib.Path) -> None:
    settings = {"CONFIG": f"{FOLDER}/config.py", "DATA": DATA, "WORKDIR": f"{FOLDER}/workdir"}
    found = pods.of(build(overlay, tmp_path / "kubernetes", **settings))
    assert len(found) == 2
    folder = tmp_path / "training"
    folder.mkdir()
    processes = {}
    for pod in found:
        os.chown(folder, pod.user, pod.group)
        image = {**IMAGE, "PYTHONPATH": str(RECORDER), "RECORD": f"{FOLDER}/{pod.hostname}.jsonl"}
        processes[pod.hostname] = pods.process(pod, {FOLDER: folder, DATA: pathlib.Path(digits)}, image)
    with training(folder, processes, names={pod.hostname: pod.names for pod in found}) as run:
        result = run.result()
        assert [len(run.workers(pod.hostname)) for pod in found] == [1, 1], run.logs()
    compare(result, baseline)


def test_the_pod_that_prepares_writes_the_same_shards(
    digits: str, digit_folders: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    settings = {"INPUT": "/mnt/photos", "OUTPUT": "/mnt/prepared", "NAME": "digits"}
    (pod,) = pods.of(build("preprocess", tmp_path / "kubernetes", **settings))
    output, log = tmp_path / "prepared", tmp_path / "log"
    output.mkdir()
    os.chown(output, pod.user, pod.group)
    digit_folders.chmod(0o755)  # pytest's own folders are private
    process = pods.process(pod, {"/mnt/photos": digit_folders, "/mnt/prepared": output}, IMAGE)
    with hosts.network({pod.hostname: ()}) as net:
        started = net.start(pod.hostname, process.command, env=process.env, cwd=REPOSITORY, log=log)
        assert started.wait(TIMEOUT_S) == 0, log.read_text()
    assert worker.result(output / "digits/1.0.0") == worker.result(pathlib.Path(digits))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_other_launchers_environments_do(
    environment: str, digits: str, baseline: Result, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "training"
    processes = supervisors(folder, digits, environments=ENVIRONMENTS[environment])
    with training(folder, processes) as run:
        compare(run.result(), baseline)
