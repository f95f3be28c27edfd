"""A file or an overlay in, its YAML documents out; a slip that YAML itself lets pass is an error."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

import pytest
import yaml

from tests.infra.tools import run

OVERLAYS = ("gpu", "gpu-spot", "gpu-indexed-job", "tpu", "preprocess")


class RefusedError(Exception):
    """What a tool said."""


class _Strict(yaml.CSafeLoader):
    """Refuses a key that stands twice in a mapping: YAML's own loader keeps the last."""


def _mapping(loader: _Strict, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    found = dict(zip(keys, (loader.construct_object(value, deep=True) for _, value in node.value), strict=True))
    if len(found) < len(keys):
        raise yaml.constructor.ConstructorError(None, None, "a key stands twice", node.start_mark)
    return found


_Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse(text: str) -> list[Any]:
    try:
        return [document for document in yaml.load_all(text, Loader=_Strict) if document is not None]
    except yaml.YAMLError as error:
        raise RefusedError(str(error)) from error


@functools.lru_cache
def _check_kubectl() -> None:
    """Skips where kubectl is older than the components and replacements of our overlays, as Debian's is."""
    said = run(["kubectl", "version", "--client", "--output=json"]).stdout
    version = json.loads(said).get("kustomizeVersion", "v0")
    if int(version.lstrip("v").partition(".")[0]) < 5:
        pytest.skip(f"kubectl's kustomize is {version}, expected v5 or later: kubectl 1.27 has it")


def render(overlay: pathlib.Path) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send."""
    _check_kubectl()
    done = run(["kubectl", "kustomize", overlay])
    if done.returncode or done.stderr:
        raise RefusedError(done.stderr.strip())
    return parse(done.stdout)
