"""Manifests in; the pods that Kubernetes' controllers would make of them, as processes on hosts of their own, out.

What a pod may do is what its security context says: its user, no capabilities, and a root file system to read only.
Images are left out, and resources: this machine's Python and cores take their place.
"""

from __future__ import annotations

import dataclasses
import pathlib
import random
import shlex
import stat
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tests.network.training import REPOSITORY, Process


@dataclasses.dataclass(frozen=True)
class Pod:
    """A pod with one container.

    Attributes:
      hostname: its name in the network.
      names: its other names there, by the headless service of its subdomain.
      scratch: where it may write, each an empty folder in memory.
    """

    hostname: str
    names: tuple[str, ...]
    command: tuple[str, ...]
    env: Mapping[str, str]
    user: int
    group: int
    scratch: tuple[str, ...]


def of(manifests: Sequence[Mapping[str, Any]]) -> list[Pod]:
    """The pods of all Jobs and JobSets among the manifests.

    https://kubernetes.io/docs/concepts/workloads/controllers/job/#completion-mode and
    https://jobset.sigs.k8s.io/docs/concepts/ say how they are called and what they are told.
    """
    found = []
    for manifest in manifests:
        name, namespace = manifest["metadata"]["name"], manifest["metadata"].get("namespace", "default")
        if manifest["kind"] == "Job":
            subdomain = manifest["spec"]["template"]["spec"].get("subdomain", "")
            services = [each for each in manifests if each["kind"] == "Service"]
            found += _of_job(manifest["spec"], name, namespace, subdomain if _serves(services, subdomain, name) else "")
        elif manifest["kind"] == "JobSet":
            network = manifest["spec"].get("network", {})
            subdomain = network.get("subdomain", name) if network.get("enableDNSHostnames", True) else ""
            for replicated in manifest["spec"]["replicatedJobs"]:
                for replica in range(replicated.get("replicas", 1)):
                    job = f"{name}-{replicated['name']}-{replica}"
                    found += _of_job(replicated["template"]["spec"], job, namespace, subdomain)
    return found


def _serves(services: Sequence[Mapping[str, Any]], subdomain: str, job: str) -> bool:
    """Whether a headless service makes the names of the job's pods known."""
    return any(
        service["metadata"]["name"] == subdomain
        and service["spec"].get("clusterIP") == "None"
        and service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job}
        and service["spec"].get("publishNotReadyAddresses")
        for service in services
    )


def _of_job(spec: Mapping[str, Any], name: str, namespace: str, subdomain: str) -> list[Pod]:
    assert spec["parallelism"] == spec["completions"], f"not all pods of {name} run at the same time"
    template = spec["template"]
    if spec.get("completionMode", "NonIndexed") == "NonIndexed":
        return [_pod(template, f"{name}-{_random()}", None, namespace, "") for _ in range(spec["completions"])]
    return [_pod(template, f"{name}-{index}", index, namespace, subdomain) for index in range(spec["completions"])]


def _random() -> str:
    """The end of a name that Kubernetes makes up."""
    return "".join(random.choices("bcdfghjklmnpqrstvwxz2456789", k=5))


def _pod(template: Mapping[str, Any], hostname: str, index: int | None, namespace: str, subdomain: str) -> Pod:
    spec = template["spec"]
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    short = f"{hostname}.{subdomain}"
    number = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    fields = {"metadata.namespace": namespace, number: index}
    given = {
        each["name"]: each["value"] if "value" in each else str(fields[each["valueFrom"]["fieldRef"]["fieldPath"]])
        for each in container.get("env", [])
    }
    injected = {"HOSTNAME": hostname, "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    if index is not None:
        injected["JOB_COMPLETION_INDEX"] = str(index)
    memory = {volume["name"] for volume in spec.get("volumes", []) if "emptyDir" in volume}
    return Pod(
        hostname,
        (short, f"{short}.{namespace}.svc.cluster.local") if subdomain else (),
        (*container["command"], *container["args"]),
        {**injected, **given},
        spec["securityContext"]["runAsUser"],
        spec["securityContext"]["runAsGroup"],
        tuple(mount["mountPath"] for mount in container.get("volumeMounts", []) if mount["name"] in memory),
    )


def process(pod: Pod, volumes: Mapping[str, pathlib.Path], env: Mapping[str, str]) -> Process:
    """The pod's container as a process.

    Args:
      volumes: folders of this machine by where the pod sees them, which has to be below /mnt.
      env: of its image.
    """
    script = ["set -e", "mount -t tmpfs -o mode=0755 tmpfs /mnt"]
    for path, folder in volumes.items():  # first, because they may lie where something is mounted next
        script += [f"mkdir -p {path}", f"mount --bind {shlex.quote(str(folder))} {path}"]
    script += _keep([sys.base_prefix, str(REPOSITORY)], scratch=pod.scratch)
    script += ["mount -o remount,bind,ro /", "mount -o remount,ro /mnt"]
    drop = f"--reuid={pod.user} --regid={pod.group} --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all"
    script.append(f'exec setpriv {drop} -- "$@"')
    return Process(["sh", "-c", "\n".join(script), "pod", *pod.command], {**env, **pod.env})


def _keep(paths: Sequence[str], *, scratch: Sequence[str]) -> list[str]:
    """Shell commands that mount empty `scratch` folders, after which every user reaches `paths` all the same.

    They may lie in one of these, or in somebody's private folder, which is emptied then, too.
    """
    script, kept, emptied = [], [], set(scratch)
    for number, path in enumerate(paths):
        hidden = [
            str(parent)
            for parent in reversed(pathlib.Path(path).parents)
            if str(parent) in scratch or not parent.stat().st_mode & stat.S_IXOTH
        ]
        if hidden:
            emptied.add(hidden[0])
            kept.append((f"/mnt/.{number}", shlex.quote(path)))
    for aside, path in kept:
        script += [f"mkdir {aside}", f"mount --bind {path} {aside}"]
    for folder in sorted(emptied):
        mode = "1777" if folder in scratch else "0755"
        script.append(f"mount -t tmpfs -o mode={mode} tmpfs {shlex.quote(folder)}")
    for aside, path in kept:
        script += [f"mkdir -p {path}", f"mount --move {aside} {path}"]
    return script
