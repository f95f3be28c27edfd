"""The documents of an overlay in, what would give away more than a training needs out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from tests.infra import workloads
from tests.infra.workloads import Document, Workload

_SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
# Google's API keys and access tokens, GitHub's tokens, private keys, AWS's keys.
_SECRET_VALUE = re.compile(r"AIza[\w-]{30}|ya29\.|gh[pousr]_\w{20}|-----BEGIN|(AKIA|ASIA)[A-Z0-9]{16}")
_ACCOUNT = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]@[a-z][a-z0-9-]+\.iam\.gserviceaccount\.com")
_IMAGE = re.compile(r"[a-z0-9.-]+\.[a-z]+/[a-z0-9._/-]+(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]*)|@sha256:[0-9a-f]{64})")
_MOVING = ("latest", "main", "master", "dev", "nightly", "stable", "edge")


def documents(rendered: Sequence[Document]) -> Iterator[str]:
    for document in rendered:
        if document["kind"] in ("Secret", "ConfigMap"):
            yield f"{document['kind']} {document['metadata']['name']}: there is none to keep"
        if document["kind"] == "ServiceAccount":
            account = document["metadata"].get("annotations", {}).get("iam.gke.io/gcp-service-account", "")
            if problem := account_problem(account):
                yield problem
        labels = document["metadata"].get("labels", {})
        if document["kind"] == "Namespace" and labels.get("pod-security.kubernetes.io/enforce") != "restricted":
            yield "the namespace has to enforce the restricted Pod Security Standard"
    accounts = {document["metadata"]["name"] for document in rendered if document["kind"] == "ServiceAccount"}
    for found in workloads.of(rendered):
        if found.pod.get("serviceAccountName") not in accounts:
            yield f"{found.name}: the service account {found.pod.get('serviceAccountName')} is not there"


def account_problem(account: str) -> str:
    return "" if _ACCOUNT.fullmatch(account) else f"{account!r} is no service account of a project"


def image_problem(image: str) -> str:
    match = _IMAGE.fullmatch(image)
    if not match:
        return f"image {image} has to name its registry and a tag or a digest"
    return f"image {image} moves: name a release or a digest" if match["tag"] in _MOVING else ""


def secrets(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        if _SECRET_NAME.search(name) or _SECRET_VALUE.search(value):
            yield f"{name} looks like a secret: pods act by workload identity"


def workload(found: Workload) -> Iterator[str]:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, and a read-only root."""
    pod, container = found.pod, found.container
    inherited, own = pod.get("securityContext", {}), container.get("securityContext", {})
    context = {**inherited, **own}
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser") or not context.get("runAsGroup"):
        yield "has to run as a user other than root, by number"
    if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
        yield "may gain privileges"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root"
    if own.get("capabilities") != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "has no seccomp profile"
    if any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        yield "shares its node's namespaces"
    if others := sorted({kind for volume in pod.get("volumes", ()) for kind in volume} - {"name", "emptyDir"}):
        yield f"mounts {', '.join(others)}"
    if pod.get("automountServiceAccountToken") is not False:
        yield "gets a token of the cluster's, which it does not need"
    if problem := image_problem(container["image"]):
        yield problem
    names = [entry["name"] for entry in container.get("env", ())]
    if len(set(names)) < len(names):
        yield "a variable stands twice in env"
    if container.get("envFrom") or any("valueFrom" in entry for entry in container.get("env", ())):
        yield "takes its environment from elsewhere"
    yield from secrets(found.environment)
    yield from secrets({"args": " ".join(found.argv)})
