"""A document as the cluster gets it in; what Kubernetes' and JobSet's schemas refuse out.

Kubernetes' are those that kubernetes-validate carries, strict: an unknown field is an error.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from referencing import Registry, Resource

# The oldest release whose Pod failure policies are stable, and the newest.
VERSIONS = ("1.31", "1.37")
_CRD = pathlib.Path(__file__).with_name("jobset_crd.yaml")
_QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")  # of those that Kubernetes reads, the usual ones


def problems(document: dict[str, Any]) -> Iterator[str]:
    for version in VERSIONS:
        validator = _validator(version, str(document.get("apiVersion")), str(document.get("kind")))
        if not validator:
            yield f"Kubernetes {version} has no {document.get('apiVersion')} {document.get('kind')}"
            continue
        for error in validator.iter_errors(document):
            yield f"{document['kind']} {error.json_path}: {error.message[:200]}"
    yield from _plain(document, "$")


def _plain(value: Any, path: str) -> Iterator[str]:
    """What schemas let pass: a key without a value, which counts as not given, and quantities, which are texts."""
    if value is None:
        yield f"{path}: has no value"
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _plain(item, f"{path}[{index}]")
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _plain(item, f"{path}.{key}")
            quantities = item if key in ("requests", "limits") else {key: item} if key == "sizeLimit" else {}
            for name, quantity in quantities.items():
                if not _QUANTITY.fullmatch(str(quantity)):
                    yield f"{path}.{key}.{name}: {quantity!r} is no quantity"


@functools.lru_cache
def _validator(version: str, api_version: str, kind: str) -> jsonschema.Draft202012Validator | None:
    kinds, registry = _schemas(version)
    if (api_version, kind) == ("jobset.x-k8s.io/v1alpha2", "JobSet"):
        schema = _job_set()
    else:
        group, _, number = api_version.rpartition("/")
        name = "-".join(part for part in (kind.lower(), group.partition(".")[0], number) if part)
        file = kinds / f"{name}.json"
        if not file.is_file():
            return None
        schema = json.loads(file.read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema, registry=registry)


@functools.lru_cache
def _schemas(version: str) -> tuple[Any, Registry]:
    kinds = importlib.resources.files(kubernetes_validate) / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    definitions = Resource.from_contents(json.loads((kinds / "_definitions.json").read_text(encoding="utf-8")))
    return kinds, definitions @ Registry()


def _job_set() -> dict[str, Any]:
    (version,) = yaml.safe_load(_CRD.read_text(encoding="utf-8"))["spec"]["versions"]
    schema = _strict(version["schema"]["openAPIV3Schema"])
    schema["$id"] = "https://kubernetes.io/api/jobset"
    return schema


def _strict(schema: Any) -> Any:
    """A CRD's schema as JSON Schema that refuses unknown fields; the templates of Jobs are Kubernetes' own."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return {"$ref": "/api/_definitions.json#/$defs/io.k8s.api.batch.v1.JobTemplateSpec"}
    if schema == {"type": "object"}:  # metadata
        return {"$ref": "/api/_definitions.json#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
    found = {key: _strict(value) for key, value in schema.items()}
    if isinstance(found.get("properties"), dict) and schema.get("type") == "object":
        found["additionalProperties"] = False
    return found
