"""The checks of Kubernetes' own API server on the manifests, and ours held against them; see `make test-infra`."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from tests.infra import checks, documents
from tests.infra.mutations import MUTATIONS
from tests.infra.test_mutations import mutated
from tests.infra.tools import run

SERVER = checks.ROOT / "build/infra/apiserver"
pytestmark = pytest.mark.skipif(not SERVER.is_file(), reason="needs `make test-infra`, which needs Go")


def refused(overlay: pathlib.Path) -> str:
    """What the server says of an overlay, "" where it takes it."""
    rendered = run(["kubectl", "kustomize", overlay])
    if rendered.returncode:
        return rendered.stderr
    crd = pathlib.Path(__file__).with_name("jobset_crd.yaml")
    done = subprocess.run([SERVER, crd], input=rendered.stdout, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


@pytest.mark.parametrize("overlay", documents.OVERLAYS)
def test_the_server_takes_what_is_there(overlay: str) -> None:
    assert refused(checks.ROOT / "infra/kubernetes/overlays" / overlay) == ""


def test_rules_of_the_custom_resource_are_evaluated(tmp_path: pathlib.Path) -> None:
    ordered = """
startupPolicy: {startupPolicyOrder: InOrder}
replicatedJobs:
  - {name: first, template: {spec: {template: {spec: {containers: []}}}}}
  - {name: second, dependsOn: [{name: first, status: Ready}], template: {spec: {template: {spec: {containers: []}}}}}
"""
    head = "apiVersion: jobset.x-k8s.io/v1alpha2\nkind: JobSet\nmetadata: {name: set, namespace: shardline}\nspec:"
    (tmp_path / "jobset.yaml").write_text(head + ordered.replace("\n", "\n  "))
    (tmp_path / "kustomization.yaml").write_text("resources: [jobset.yaml]\n")
    assert "exclude each other" in refused(tmp_path)


def test_what_the_server_refuses_is_found_without_it(tmp_path: pathlib.Path) -> None:
    overlays = "infra/kubernetes/overlays"
    by_server = []
    for number, mutation in enumerate(MUTATIONS):
        root = mutated(mutation, tmp_path / str(number))
        said = next(filter(None, (refused(root / overlays / overlay) for overlay in documents.OVERLAYS)), "")
        print(f"{mutation.name}: {said.strip() or 'taken'}")
        if said:
            by_server.append(mutation.name)
            assert next(checks.kubernetes(root), ""), mutation.name
    assert len(by_server) >= 15  # so that it is a check and not a rubber stamp
