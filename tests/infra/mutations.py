"""Sixty mistakes that people make in manifests and specs: for each a name, what it would break, and the edits.

An edit replaces the first occurrence of a text in a file below infra/; a text that is not there is an error.
"""

from __future__ import annotations

from typing import NamedTuple

JOBSET = "kubernetes/base/jobset/jobset.yaml"
JOB = "kubernetes/base/indexed-job/job.yaml"
SERVICE = "kubernetes/base/indexed-job/service.yaml"
COMMON = "kubernetes/base/common/"
PREPROCESS = "kubernetes/base/preprocess/job.yaml"
SETTINGS = "kubernetes/components/settings/settings.env"
REPLACED = "kubernetes/components/settings/kustomization.yaml"
SPOT = "kubernetes/components/spot/kustomization.yaml"
TPU = "kubernetes/components/tpu/kustomization.yaml"
METADATA = "dataflow/metadata.json"
VERTEX = "vertex/job.yaml"
DOCKERFILE = "docker/Dockerfile"
SCRIPT = "tpu/tpu.sh"

_ENV = '                      value: "2"\n'
_CONTAINER = "                - name: trainer\n"
_POD = "              restartPolicy: Never\n"


class Mutation(NamedTuple):
    name: str
    breaks: str
    edits: tuple[tuple[str, str, str], ...]  # (file, old, new)


def _one(name: str, breaks: str, file: str, old: str, new: str) -> Mutation:
    return Mutation(name, breaks, ((file, old, new),))


MUTATIONS = (
    # Numbers and names of workers.
    _one("not indexed", "every pod is nobody", JOBSET, "completionMode: Indexed", "completionMode: NonIndexed"),
    _one("mode left out", "every pod is nobody", JOB, "  completionMode: Indexed\n", ""),
    _one("field in lower case", "the field is dropped", JOBSET, "completionMode:", "completionmode:"),
    Mutation(
        "one count forgotten",
        "two of four workers are waited for in vain",
        (
            (REPLACED, "          - spec.replicatedJobs.[name=worker].template.spec.parallelism\n", ""),
            (SETTINGS, "WORKERS=2", "WORKERS=4"),
        ),
    ),
    Mutation(
        "NUM_WORKERS off by one",
        "the last worker is nobody",
        (
            (JOB, 'value: "2"', 'value: "1"'),
            (REPLACED, "          - spec.template.spec.containers.[name=trainer].env.[name=NUM_WORKERS].value\n", ""),
        ),
    ),
    _one("a number in words", "no number of pods", SETTINGS, "WORKERS=2", "WORKERS=two"),
    _one("a remark behind the number", "no number of pods", SETTINGS, "WORKERS=2", "WORKERS=2  # GPUs"),
    _one("two Jobs of workers", "two workers 0", JOBSET, "replicas: 1", "replicas: 2"),
    _one(
        "env as a number",
        "refused by the server",
        PREPROCESS,
        "          resources:",
        "          env:\n            - {name: OMP_NUM_THREADS, value: 1}\n          resources:",
    ),
    # Where worker 0 is.
    _one("the other kind's name", "worker 0 is not found", JOBSET, "worker-0-0.shardline:", "worker-0.shardline:"),
    _one("a port of its own", "worker 0 is not found", JOBSET, "containerPort: 2222", "containerPort: 8080"),
    _one("no names", "worker 0 is not found", JOBSET, "enableDNSHostnames: true", "enableDNSHostnames: false"),
    _one("service renamed", "worker 0 is not found", JOBSET, "subdomain: shardline", "subdomain: workers"),
    _one("names only when ready", "nobody is found at the start", SERVICE, "Addresses: true", "Addresses: false"),
    _one(
        "selects the app",
        "pods have no names",
        SERVICE,
        "batch.kubernetes.io/job-name: shardline-worker",
        "app.kubernetes.io/name: worker",
    ),
    # What becomes of failures.
    _one(
        "kubelet restarts",
        "refused beside a failure policy",
        JOBSET,
        "restartPolicy: Never",
        "restartPolicy: OnFailure",
    ),
    _one("another status", "preemptions use up the budget", JOBSET, "- 42", "- 43"),
    _one(
        "preemption counts",
        "preemptions use up the budget",
        JOB,
        "- action: Ignore\n        onExitCodes",
        "- action: Count\n        onExitCodes",
    ),
    _one("container renamed", "statuses match nothing", JOBSET, "containerName: trainer", "containerName: main"),
    _one("boolean condition", "refused by the server", JOBSET, 'status: "True"', "status: true"),
    _one("condition without status", "refused by JobSet", JOBSET, '                    status: "True"\n', ""),
    _one("pods retried alone", "the others fail meanwhile", JOBSET, "backoffLimit: 0", "backoffLimit: 6"),
    _one("reason misspelt", "bad configs are restarted", JOBSET, "- PodFailurePolicy", "- PodFailure"),
    _one("a Job's action", "refused by JobSet", JOBSET, "action: FailJobSet", "action: FailJob"),
    _one("an old API", "the cluster knows none", JOBSET, "jobset.x-k8s.io/v1alpha2", "jobset.x-k8s.io/v1alpha1"),
    _one(
        "a deadline from trying",
        "training ends after an hour",
        JOBSET,
        "          backoffLimit: 0\n",
        "          backoffLimit: 0\n          activeDeadlineSeconds: 3600\n",
    ),
    # The end.
    _one("grace as long as the pod's", "the supervisor is killed", JOBSET, "PeriodSeconds: 60", "PeriodSeconds: 30"),
    _one("a longer grace", "the supervisor is killed", JOB, "--grace_s=30", "--grace_s=300"),
    _one("spot with all its time", "the machine is gone before", SPOT, "value: 15", "value: 60"),
    _one("spot's taint misspelt", "pods stay pending", SPOT, "{key: cloud.google.com/gke-spot", "{key: gke-spot-vm"),
    # Resources.
    _one("a decimal comma", "refused by the server", JOBSET, "memory: 26Gi", "memory: 26,5Gi"),
    _one("megabytes", "killed for memory at once", PREPROCESS, "memory: 16Gi", "memory: 16Mi"),
    _one("half a GPU", "refused by the server", JOBSET, 'nvidia.com/gpu: "1"', 'nvidia.com/gpu: "0.5"'),
    Mutation(
        "GPUs in the plural",
        "pods stay pending",
        ((JOBSET, "nvidia.com/gpu: ", "nvidia.com/gpus: "), (JOBSET, "nvidia.com/gpu: ", "nvidia.com/gpus: ")),
    ),
    _one("no such GPU", "pods stay pending", JOBSET, "gke-accelerator: nvidia-l4", "gke-accelerator: nvidia-tesla-l4"),
    _one("shared memory on disk", "NCCL fails", JOB, "            medium: Memory\n", ""),
    _one(
        "mount misspelt",
        "refused by the server",
        JOBSET,
        "- name: shm\n                      mount",
        "- name: shmem\n                      mount",
    ),
    _one("topology of another slice", "pods stay pending", TPU, "topology: 2x4", "topology: 4x4"),
    # Secrets and rights.
    _one(
        "an API key",
        "a key for everybody to read",
        JOBSET,
        _ENV,
        _ENV + "                    - name: WANDB_API_KEY\n                      value: 8d1f\n",
    ),
    _one("root", "refused by the namespace", JOBSET, "runAsUser: 10001", "runAsUser: 0"),
    _one("the host's network", "refused by the namespace", JOBSET, _POD, _POD + "              hostNetwork: true\n"),
    _one("no such account", "pods are not created", JOBSET, "AccountName: shardline", "AccountName: trainer"),
    _one(
        "annotation misspelt",
        "the bucket is refused",
        COMMON + "service-account.yaml",
        "iam.gke.io/gcp-service-account",
        "iam.gke.io/gcp-serviceaccount",
    ),
    # Images and command lines.
    _one("latest", "another program every day", SETTINGS, "trainer:0.1.0", "trainer:latest"),
    _one("no such config", "ends at once with 2", SETTINGS, "leaves_mobilenetv2.py", "leaves_mobilenet_v2.py"),
    _one(
        "a flag too early",
        "settings land in other flags",
        JOBSET,
        "args:\n",
        "args:\n                    - --stall_timeout_s=1200\n",
    ),
    _one("unknown flag", "ends at once with 2", JOB, "--grace_s=30", "--grace_seconds=30"),
    _one("a name with a dash", "ends at once with 2", SETTINGS, "NAME=leaves", "NAME=banana-leaf"),
    # Form.
    _one("a tab", "no YAML", JOBSET, "            metadata:\n", "\t    metadata:\n"),
    _one(
        "a key twice",
        "the first one is lost",
        JOBSET,
        "          parallelism: 2\n",
        "          parallelism: 2\n          backoffLimit: 3\n",
    ),
    # Elsewhere.
    _one("a group that stays open", "no job starts", METADATA, "^[a-z][a-z0-9_]*$", "^([a-z][a-z0-9_]*$"),
    _one("flag misspelt", "the parameter is refused by the command", METADATA, '"shard_bytes"', '"shard_byte"'),
    _one("optional by another name", "nobody may leave it out", METADATA, '"isOptional"', '"optional"'),
    _one("Kubernetes' spelling", "refused by Vertex", VERTEX, "NVIDIA_L4", "nvidia-l4"),
    _one("seconds without unit", "refused by Vertex", VERTEX, "timeout: 86400s", "timeout: 86400"),
    _one("no user", "runs as root", DOCKERFILE, "USER 10001:10001\n", ""),
    _one(
        "entry through a shell",
        "SIGTERM reaches no supervisor",
        DOCKERFILE,
        'ENTRYPOINT ["python", "-m", "trainer", "launch"]',
        "ENTRYPOINT python -m trainer launch",
    ),
    _one("not deleted at the end", "a TPU to pay for, for ever", SCRIPT, "  trap delete EXIT\n", ""),
    _one(
        "the primary twice",
        "refused by Vertex",
        VERTEX,
        "- replicaCount: 1\n    machineSpec: &",
        "- replicaCount: 2\n    machineSpec: &",
    ),
    _one(
        "packages without hashes",
        "others than were tested",
        DOCKERFILE,
        "--require-hashes --no-deps --requirement /trainer.txt",
        "--requirement /trainer.txt",
    ),
)
