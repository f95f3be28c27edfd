"""A Vertex CustomJobSpec in, what the service would refuse of it or our trainer could not use out.

https://cloud.google.com/vertex-ai/docs/reference/rest/v1/CustomJobSpec
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema

from tests.infra import command_lines, security_rules

_TEXT = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 1}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_POOL = _object(
    ("replicaCount", "machineSpec", "containerSpec"),
    replicaCount=_COUNT,
    machineSpec=_object(
        ("machineType",),
        machineType={"type": "string", "pattern": "^[a-z][0-9a-z]*-[a-z]+-[0-9]+[a-z]*$"},
        acceleratorType={
            "enum": ["NVIDIA_TESLA_T4", "NVIDIA_L4", "NVIDIA_TESLA_A100", "NVIDIA_A100_80GB", "NVIDIA_H100_80GB"]
        },
        acceleratorCount=_COUNT,
        tpuTopology=_TEXT,
    ),
    diskSpec=_object(bootDiskType={"enum": ["pd-ssd", "pd-standard"]}, bootDiskSizeGb=_COUNT | {"minimum": 100}),
    containerSpec=_object(
        ("imageUri",),
        imageUri=_TEXT,
        command={"type": "array", "items": _TEXT},
        args={"type": "array", "items": _TEXT},
        env={"type": "array", "items": _object(("name", "value"), name=_TEXT, value={"type": "string"})},
    ),
)
_SCHEMA = _object(
    ("workerPoolSpecs", "scheduling", "serviceAccount"),
    workerPoolSpecs={"type": "array", "minItems": 1, "maxItems": 2, "items": _POOL},
    scheduling=_object(
        ("timeout", "restartJobOnWorkerRestart"),
        timeout={"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?s$"},
        restartJobOnWorkerRestart={"type": "boolean"},
        strategy={"enum": ["STANDARD", "SPOT", "FLEX_START"]},
        disableRetries={"type": "boolean"},
    ),
    serviceAccount=_TEXT,
    network=_TEXT,
    labels={"type": "object"},
)


def problems(spec: Mapping[str, Any]) -> Iterator[str]:
    errors = list(jsonschema.Draft202012Validator(_SCHEMA).iter_errors(spec))
    if errors:
        yield from (f"Vertex {error.json_path}: {error.message[:200]}" for error in errors)
        return
    if problem := security_rules.account_problem(spec["serviceAccount"]):
        yield problem
    if spec["scheduling"]["restartJobOnWorkerRestart"] is not True:
        yield "restartJobOnWorkerRestart: the other workers would wait for one that is gone"
    first, *others = spec["workerPoolSpecs"]
    if first["replicaCount"] != 1:
        yield "pool 0 is the chief and has one replica"
    for other in others:
        if {**other, "replicaCount": 1} != first:
            yield "the workers' pool is not what the chief's is"
    container = first["containerSpec"]
    if problem := security_rules.image_problem(container["imageUri"]):
        yield problem
    yield from security_rules.secrets({entry["name"]: entry["value"] for entry in container.get("env", ())})
    if not first["machineSpec"].get("acceleratorCount"):
        yield "asks for no accelerator"
    environments = _environments([pool["replicaCount"] for pool in spec["workerPoolSpecs"]])
    yield from command_lines.training([*container.get("command", ()), *container.get("args", ())], environments)


def _environments(replicas: list[int]) -> list[dict[str, str]]:
    """TF_CONFIG of each replica, as https://cloud.google.com/vertex-ai/docs/training/distributed-training says."""
    jobs = {
        name: [f"workerpool{pool}-{index}:2222" for index in range(count)]
        for pool, (name, count) in enumerate(zip(("chief", "worker"), replicas, strict=False))
    }
    return [
        {"TF_CONFIG": json.dumps({"cluster": jobs, "task": {"type": name, "index": index}, "environment": "cloud"})}
        for name, addresses in jobs.items()
        for index in range(len(addresses))
    ]
