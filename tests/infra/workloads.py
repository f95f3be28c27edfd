"""An overlay's documents in, what each Job and JobSet of it would start out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

Document = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Workload:
    """One Job, or the one that a JobSet makes.

    Attributes:
      first_pod: the name of pod 0 in DNS, inside the namespace; "" where it has none.
      job: the Job's spec.
    """

    document: Document
    first_pod: str
    job: Document

    @property
    def name(self) -> str:
        return f"{self.document['kind']} {self.document['metadata']['name']}"

    @property
    def is_job_set(self) -> bool:
        return bool(self.document["kind"] == "JobSet")

    @property
    def pod(self) -> Document:
        spec: Document = self.job["template"]["spec"]
        return spec

    @property
    def container(self) -> Document:
        (container,) = self.pod["containers"]
        found: Document = container
        return found

    @property
    def argv(self) -> list[str]:
        return [*self.container.get("command", ()), *self.container.get("args", ())]

    @property
    def is_training(self) -> bool:
        return "trainer" in self.argv

    @property
    def environment(self) -> dict[str, str]:
        return {entry["name"]: entry.get("value", "") for entry in self.container.get("env", ())}

    @property
    def labels(self) -> dict[str, str]:
        """Of its pods, with those that the Job's controller adds."""
        own = self.job["template"].get("metadata", {}).get("labels", {})
        return {**own, "batch.kubernetes.io/job-name": self.document["metadata"]["name"]}

    def flag(self, name: str) -> str:
        """Its last value in the command line, "" where it is not there."""
        prefix = f"--{name}="
        return ([""] + [word.removeprefix(prefix) for word in self.argv if word.startswith(prefix)])[-1]


def of(documents: Sequence[Document]) -> Iterator[Workload]:
    """A JobSet and a Job give their pods other names.

    https://jobset.sigs.k8s.io/docs/concepts/
    https://kubernetes.io/docs/tasks/job/job-with-pod-to-pod-communication/
    """
    for document in documents:
        spec, name = document.get("spec", {}), document["metadata"]["name"]
        if document["kind"] == "JobSet":
            network = spec.get("network", {})
            subdomain = network.get("subdomain", name) if network.get("enableDNSHostnames", True) else ""
            for replicated in spec["replicatedJobs"]:
                first = f"{name}-{replicated['name']}-0-0.{subdomain}" if subdomain else ""
                yield Workload(document, first, replicated["template"]["spec"])
        if document["kind"] == "Job":
            subdomain = spec["template"]["spec"].get("subdomain", "")
            service = any(_names(other, subdomain, name) for other in documents)
            yield Workload(document, f"{name}-0.{subdomain}" if service else "", spec)


def _names(document: Document, subdomain: str, job: str) -> bool:
    """Whether this is the service that gives the pods of `job` their names."""
    if document["kind"] != "Service" or document["metadata"]["name"] != subdomain:
        return False
    spec = document["spec"]
    selects = spec.get("selector") == {"batch.kubernetes.io/job-name": job}
    return bool(spec.get("clusterIP") == "None" and spec.get("publishNotReadyAddresses") and selects)
