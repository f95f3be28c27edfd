"""The folder infra/ of a checkout, or of a copy with a mistake in it, in; everything that is wrong with it out.

These are the checks that tests run on what is there, and by which `test_mutations.py` looks for mistakes.
"""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Iterator

from tests.infra import (
    command_lines,
    dataflow_rules,
    docker_rules,
    documents,
    kubernetes_rules,
    schemas,
    tpu_rules,
    vertex_rules,
    workloads,
)
from tests.infra.documents import RefusedError
from tests.infra.tools import run

ROOT = pathlib.Path(__file__).parents[2]


def kubernetes(root: pathlib.Path) -> Iterator[str]:
    overlays = root / "infra/kubernetes/overlays"
    for name in documents.OVERLAYS:
        yield from (f"{name}: {problem}" for problem in overlay(overlays / name))
    yield from pair(overlays)
    yield from lint(root, "kubernetes")  # last, because it takes longest


def dataflow(root: pathlib.Path) -> Iterator[str]:
    return dataflow_rules.problems((root / "infra/dataflow/metadata.json").read_text(encoding="utf-8"))


def vertex(root: pathlib.Path) -> Iterator[str]:
    yield from lint(root, "vertex")
    try:
        (spec,) = documents.parse((root / "infra/vertex/job.yaml").read_text(encoding="utf-8"))
    except RefusedError as error:
        yield str(error)
        return
    yield from vertex_rules.problems(spec)


def docker(root: pathlib.Path) -> Iterator[str]:
    yield from lint(root, "docker")
    yield from docker_rules.problems(root, ROOT)


def tpu(root: pathlib.Path) -> Iterator[str]:
    yield from lint(root, "tpu")
    with tempfile.TemporaryDirectory() as folder:
        yield from tpu_rules.problems(root / "infra/tpu/tpu.sh", pathlib.Path(folder))


AREAS = {"kubernetes": kubernetes, "dataflow": dataflow, "vertex": vertex, "docker": docker, "tpu": tpu}


def lint(root: pathlib.Path, area: str) -> Iterator[str]:
    """What linters say of the files of one folder."""
    folder = root / "infra" / area
    for pattern, command in (
        ("*.yaml", ["yamllint", "--strict", "--config-file", ROOT / ".yamllint"]),
        ("Dockerfile", ["hadolint", "--no-color", "--config", ROOT / ".hadolint.yaml"]),
        ("*.sh", ["shellcheck", "--external-sources"]),
    ):
        if files := sorted(folder.rglob(pattern)):
            done = run([*command, *files])
            if done.returncode:
                yield f"{command[0]}: {done.stdout}{done.stderr}".replace(f"{root}/", "").strip()


def overlay(folder: pathlib.Path) -> Iterator[str]:
    """What the cluster, or the containers that it starts, would make of an overlay."""
    try:
        rendered = documents.render(folder)
    except RefusedError as error:
        yield str(error)
        return
    refused = [problem for document in rendered for problem in schemas.problems(document)]
    yield from refused
    if refused:
        return
    yield from kubernetes_rules.problems(rendered)
    for workload in workloads.of(rendered):
        if not workload.is_training:
            if problem := command_lines.preparation(*workload.argv):
                yield f"{workload.name}: {problem}"
            continue
        pods = range(workload.job.get("completions", 1))
        environments = [{**workload.environment, "JOB_COMPLETION_INDEX": str(index)} for index in pods]
        yield from (f"{workload.name}: {text}" for text in command_lines.training(workload.argv, environments))


def pair(overlays: pathlib.Path) -> Iterator[str]:
    """Training reads what preparation writes, and what starts with JobSet is what starts without it."""
    try:
        found = {name: next(workloads.of(documents.render(overlays / name))) for name in documents.OVERLAYS}
    except RefusedError:  # which is said elsewhere
        return
    prepared = found["preprocess"]
    dataset = f"{prepared.flag('output')}/{prepared.flag('name')}/{prepared.flag('version') or '1.0.0'}"
    for name, workload in found.items():
        if workload.is_training and workload.flag("data") != dataset:
            yield f"{name}: trains on {workload.flag('data')}, but {dataset} is prepared"
    one, other = found["gpu"], found["gpu-indexed-job"]
    differing = {key for key in one.pod.keys() | other.pod.keys() if one.pod.get(key) != other.pod.get(key)}
    ours, theirs = ({**workload.container, "env": None} for workload in (one, other))
    if differing - {"subdomain", "containers"} or ours != theirs:
        yield f"pods of JobSet and of the Indexed Job differ: {sorted(differing - {'subdomain'})}"
