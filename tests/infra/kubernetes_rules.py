"""The documents of an overlay in, what would go wrong though every schema takes it out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from tests.infra import security_rules, workloads
from tests.infra.workloads import Document, Workload

# What `python -m trainer launch` and `python -m preprocess` end with, and what should come of it.
# https://kubernetes.io/docs/tasks/job/pod-failure-policy/
_ACTIONS = {1: "Count", 2: "FailJob", 42: "Ignore", 137: "Count", 143: "Count"}
_MARGIN_S = 2  # for the supervisor to end its workers by force and to say so
_SPOT_S = 15  # what GKE leaves to pods: https://cloud.google.com/kubernetes-engine/docs/concepts/spot-vms
# Of what GKE calls its nodes, those that TensorFlow runs on; another name leaves pods pending for ever.
# https://cloud.google.com/kubernetes-engine/docs/concepts/gpus and .../tpus
_ACCELERATORS = {
    "nvidia.com/gpu": (
        "cloud.google.com/gke-accelerator",
        {"nvidia-tesla-t4", "nvidia-l4", "nvidia-tesla-a100", "nvidia-a100-80gb", "nvidia-h100-80gb"},
    ),
    "google.com/tpu": ("cloud.google.com/gke-tpu-accelerator", {"tpu-v4-podslice", "tpu-v5-lite-podslice"}),
}
_BYTES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def problems(documents: Sequence[Document]) -> Iterator[str]:
    (namespace,) = [document["metadata"]["name"] for document in documents if document["kind"] == "Namespace"]
    for document in documents:
        if document["kind"] != "Namespace" and document["metadata"].get("namespace") != namespace:
            yield f"{document['kind']} {document['metadata']['name']} is not in the namespace {namespace}"
    yield from security_rules.documents(documents)
    for workload in workloads.of(documents):
        rules = [_failures, _resources, _volumes, _ending, security_rules.workload]
        if workload.is_training:
            rules += [_cluster, _placement]
        for rule in rules:
            for problem in rule(workload):
                yield f"{workload.name}: {problem}"
    yield from _reachable(documents)


def _cluster(workload: Workload) -> Iterator[str]:
    """Every worker has its number, and all know how many they are and where worker 0 is."""
    job, environment = workload.job, workload.environment
    if job.get("completionMode") != "Indexed":
        yield "without completionMode: Indexed pods have no number"
    counts = {str(job.get("completions")), str(job.get("parallelism")), environment.get("NUM_WORKERS", "")}
    if len(counts) > 1 or not counts.pop().isdecimal():
        yield "completions, parallelism and NUM_WORKERS differ"
    ports = [port["containerPort"] for port in workload.container.get("ports", ()) if port["name"] == "coordinator"]
    wanted = f"{workload.first_pod}:{ports[0]}" if workload.first_pod and ports else "a pod that has a name and a port"
    if environment.get("COORDINATOR") != wanted:
        yield f"COORDINATOR={environment.get('COORDINATOR')} is not pod 0, {wanted}"
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if probe in workload.container:
            yield f"{probe}: nothing is served that it could ask"


def _failures(workload: Workload) -> Iterator[str]:
    """Exit statuses lead to what they ask for, by the order of the rules."""
    if workload.pod.get("restartPolicy") != "Never":
        yield "restartPolicy has to be Never, else statuses never reach the Job"
    wanted = _ACTIONS if workload.is_training else {**_ACTIONS, 42: "Count"}
    for status, action in wanted.items():
        if (found := _action(workload, status, disrupted=False)) != action:
            yield f"exit status {status} leads to {found}, expected {action}"
    for status in (137, 143):
        if (found := _action(workload, status, disrupted=True)) != "Ignore":
            yield f"a pod that its node took away leads to {found}, expected Ignore"
    if workload.is_job_set:
        yield from _job_set_failures(workload)
    elif workload.job.get("backoffLimit", 6) < 1:
        yield "backoffLimit: a first failure would end it for good"


def _job_set_failures(workload: Workload) -> Iterator[str]:
    """https://jobset.sigs.k8s.io/docs/tasks/"""
    spec = workload.document["spec"]
    policy = spec.get("failurePolicy", {})
    if workload.job.get("backoffLimit", 6) != 0:
        yield "backoffLimit: one worker alone would be started again while the others fail"
    if policy.get("maxRestarts", 0) < 1:
        yield "failurePolicy.maxRestarts: a first failure would end it for good"
    names = [replicated["name"] for replicated in spec["replicatedJobs"]]
    for reason, action in (("PodFailurePolicy", "FailJobSet"), ("BackoffLimitExceeded", "RestartJobSet")):
        found = "RestartJobSet"
        for rule in reversed(policy.get("rules", ())):
            if set(rule.get("targetReplicatedJobs", names)) - set(names):
                yield f"failurePolicy rule {rule['name']} targets a job that is not there"
            if reason in rule.get("onJobFailureReasons", [reason]):
                found = rule["action"]
        if found != action:
            yield f"a Job that fails by {reason} leads to {found}, expected {action}"
    if [replicated.get("replicas", 1) for replicated in spec["replicatedJobs"]] != [1]:
        yield "replicas: workers of several Jobs would have the same numbers"


def _action(workload: Workload, status: int, *, disrupted: bool) -> str:
    name = workload.container["name"]
    for rule in workload.job.get("podFailurePolicy", {}).get("rules", ()):
        codes = rule.get("onExitCodes")
        if codes and codes.get("containerName", name) != name:
            continue
        if codes and (status in codes["values"]) == (codes["operator"] == "In"):
            return str(rule["action"])
        for condition in rule.get("onPodConditions", ()):
            # JobSet's schema asks for the status, a Job's has the default "True".
            given = condition.get("status", "" if workload.is_job_set else "True")
            if disrupted and condition["type"] == "DisruptionTarget" and given == "True":
                return str(rule["action"])
    return "Count"


def _resources(workload: Workload) -> Iterator[str]:
    resources = workload.container.get("resources", {})
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    if limits != requests:
        yield "requests and limits differ: a pod that uses more than it asked for is the first to be killed"
    for name in ("cpu", "memory", "ephemeral-storage"):
        if name not in limits:
            yield f"has no limit of {name}"
    if _bytes(str(limits.get("memory", ""))) < 2**30:
        yield f"memory {limits.get('memory')} does not even hold TensorFlow's or Beam's libraries"
    workers = re.search(r"--direct_num_workers=(\d+)", " ".join(workload.argv))
    if workers and workers[1] != limits.get("cpu"):
        yield f"{workers[1]} worker processes on {limits.get('cpu')} cores"


def _placement(workload: Workload) -> Iterator[str]:
    """The accelerator that is asked for is on the node that is asked for, and the strategy uses it."""
    limits, selector = workload.container["resources"]["limits"], workload.pod.get("nodeSelector", {})
    asked = [name for name in _ACCELERATORS if name in limits]
    if len(asked) != 1 or not str(limits[asked[0]]).isdecimal() or limits[asked[0]] == "0":
        yield "has to ask for one kind of accelerator, in whole numbers"
        return
    tolerated = {toleration.get("key") for toleration in workload.pod.get("tolerations", ())}
    if asked[0] not in tolerated:
        yield f"does not tolerate the taint {asked[0]} of such nodes"
    is_tpu = asked == ["google.com/tpu"]
    key, kinds = _ACCELERATORS[asked[0]]
    chosen = {name: value for name, value in selector.items() if "accelerator" in name}
    if set(chosen) != {key} or chosen[key] not in kinds:
        yield f"nodeSelector {chosen} has to be {key} with one of {sorted(kinds)}"
    if workload.flag("strategy") != ("tpu" if is_tpu else "multi_worker"):
        yield f"--strategy={workload.flag('strategy')} does not use {asked[0]}"
    if ("tpu" in workload.container["image"].rpartition("/")[2]) != is_tpu:
        yield f"{workload.container['image']} is not the image for {asked[0]}"
    if is_tpu:
        topology = selector.get("cloud.google.com/gke-tpu-topology", "")
        if not re.fullmatch(r"\d+(x\d+)+", topology):
            yield f"topology {topology!r} is none"
        elif math.prod(map(int, topology.split("x"))) != int(limits[asked[0]]):
            yield f"topology {topology} is not {limits[asked[0]]} chips"


def _volumes(workload: Workload) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in workload.pod.get("volumes", ())}
    mounts = {mount["mountPath"]: mount["name"] for mount in workload.container.get("volumeMounts", ())}
    if set(volumes) != set(mounts.values()):
        yield f"volumes {sorted(volumes)} are not what is mounted, {sorted(set(mounts.values()))}"
        return
    if "/tmp" not in mounts:
        yield "nothing writable is mounted at /tmp"
    if workload.is_training:
        shm = volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir", {})
        if shm.get("medium") != "Memory":
            yield "/dev/shm has to be memory: NCCL fails in a container's own 64 MiB"
        if _bytes(str(shm.get("sizeLimit", ""))) >= _bytes(str(workload.container["resources"]["limits"]["memory"])):
            yield "/dev/shm may take all of the container's memory"


def _ending(workload: Workload) -> Iterator[str]:
    grace_s = workload.pod.get("terminationGracePeriodSeconds", 30)
    if workload.is_training and not grace_s >= float(workload.flag("grace_s") or 30) + _MARGIN_S:
        yield f"terminationGracePeriodSeconds={grace_s} cuts off what --grace_s={workload.flag('grace_s')} promises"
    spot = {key for key in workload.pod.get("nodeSelector", {}) if key.endswith("gke-spot")}
    tolerated = {item.get("key") for item in workload.pod.get("tolerations", ()) if "spot" in item.get("key", "")}
    if spot != tolerated:
        yield f"selects the nodes {spot or '{}'} and tolerates {tolerated or '{}'}"
    if spot and grace_s > _SPOT_S:
        yield f"terminationGracePeriodSeconds={grace_s}, but a spot machine leaves {_SPOT_S}"
    kept = workload.document["spec"].get("ttlSecondsAfterFinished", 0)
    if kept < 3600:
        yield f"ttlSecondsAfterFinished={kept}: logs are gone before anybody has read them"


def _reachable(documents: Sequence[Document]) -> Iterator[str]:
    """Workers may call each other, whatever else the policies forbid."""
    for document in documents:
        if document["kind"] != "NetworkPolicy":
            continue
        chosen = document["spec"]["podSelector"].get("matchLabels", {})
        allowed = [
            peer["podSelector"].get("matchLabels", {})
            for entry in document["spec"].get("ingress", ())
            for peer in entry.get("from", ())
            if "podSelector" in peer
        ]
        for workload in workloads.of(documents):
            if workload.is_training and chosen.items() <= workload.labels.items():
                if not any(labels.items() <= workload.labels.items() for labels in allowed):
                    yield f"{workload.name}: its workers may not call each other"
            elif workload.is_training:
                yield f"{workload.name}: whoever is in the cluster may call its workers"


def _bytes(quantity: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", quantity)
    return float(match[1]) * _BYTES.get(match[2], 1) if match else 0
