"""A Flex Template's metadata in, what Dataflow, its client or our flags would refuse of it out.

https://cloud.google.com/dataflow/docs/guides/templates/configuring-flex-templates#metadata_parameters
"""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from preprocess import __main__ as preprocess
from tests.infra.command_lines import settings_problem

# It prints, it is what the launcher adds, or it is of a job that reads no input.
_NOT_FOR_TEMPLATES = {"plan", "beam_args", "help", "h", "correct", "corrections"}
_REQUIRED = {"input", "output", "name", "sdk_container_image"}
_BEAMS = {"sdk_container_image"}
_FOLDERS = {"output": "GCS_WRITE_FOLDER", "grow_from": "GCS_READ_FOLDER", "replay_quarantine": "GCS_READ_FOLDER"}
_TYPES = {str: "TEXT", int: "NUMBER", bool: "BOOLEAN"}
# Values that the command takes, and some that it refuses or that a user would regret.
_GOOD = {
    "input": ("gs://bucket/photos", "gs://bucket/list.csv", "gs://bucket"),
    "output": ("gs://bucket/data", "gs://bucket"),
    "name": ("leaves", "cifar10"),
    "sdk_container_image": ("europe-docker.pkg.dev/p/s/worker:0.1.0", f"gcr.io/p/worker@sha256:{'0' * 64}"),
    "version": ("1.0.0", "2.10.3"),
    "splits": ("train=0.8,validation=0.1,test=0.1", "train=4/5,test=1/5"),
    "group_by": (r"/(pat\d+)_",),
    "near_duplicates": ("join", "drop", "ignore"),
    "grow_from": ("gs://bucket/data/leaves/1.0.0",),
    "replay_quarantine": ("gs://bucket/data/leaves/1.0.0",),
    "seed": ("0", "42"),
    "max_workers": ("1", "512"),
    "shard_bytes": ("0", "268435456"),
    "shorter_side": ("0", "512"),
    "jpeg_quality": ("1", "95", "100"),
    "chroma": ("4:4:4", "4:2:0"),
    "lossless": ("true", "false"),
    "overwrite": ("true", "false"),
}
_BAD = {
    "input": ("photos", "/photos", "s3://bucket/photos"),
    "output": ("data",),
    "name": ("Leaves", "9leaves", "my-leaves", ""),
    "sdk_container_image": ("worker", "gcr.io/p/worker"),
    "version": ("1.0", "v1.0.0", "01.0.0"),
    "splits": ("train:0.8", "0.8,0.2"),
    "near_duplicates": ("keep",),
    "grow_from": ("data/leaves/1.0.0",),
    "replay_quarantine": ("data/leaves/1.0.0",),
    "seed": ("-1", "x"),
    "max_workers": ("0", "eight"),
    "shard_bytes": ("256MiB",),
    "shorter_side": ("-1",),
    "jpeg_quality": ("0", "101"),
    "chroma": ("420",),
    "lossless": ("yes",),
    "overwrite": ("1",),
}


def problems(text: str) -> Iterator[str]:
    try:
        metadata = json.loads(text, object_pairs_hook=_once)
        _container_spec(metadata)
    except (ValueError, KeyError, TypeError) as error:
        yield f"metadata.json: {error}"
        return
    # The checks of `gcloud dataflow flex-template build`, which only look for something.
    if not metadata.get("name") or not metadata.get("description"):
        yield "metadata.json has no name or description"
    parameters = metadata.get("parameters", [])
    for parameter in parameters:
        if missing := [key for key in ("name", "label", "helpText", "paramType") if not parameter.get(key)]:
            yield f"parameter {parameter.get('name')} has no {', '.join(missing)}"
    counts = collections.Counter(parameter.get("name") for parameter in parameters)
    if twice := [name for name, count in counts.items() if count > 1]:
        yield f"parameters stand twice: {twice}"
    yield from _names({parameter["name"]: parameter for parameter in parameters if parameter.get("name")})


def _names(parameters: dict[str, Any]) -> Iterator[str]:
    """The parameters are the flags, of their types, and take what these take."""
    values = preprocess._flags()
    flags = set(values) - _NOT_FOR_TEMPLATES
    if strangers := sorted(set(parameters) - flags - _BEAMS):
        yield f"parameters that are no flags: {strangers}"
    if missing := sorted(flags - set(parameters)):
        yield f"flags that are no parameters: {missing}"
    required = {name for name, parameter in parameters.items() if not parameter.get("isOptional")}
    if required != _REQUIRED:
        yield f"required are {sorted(required)}, expected {sorted(_REQUIRED)}"
    for name, parameter in parameters.items():
        default = values[name].default if name in values else ""
        wanted = _FOLDERS.get(name, _TYPES.get(type(default), "TEXT"))
        if parameter["paramType"] != wanted:
            yield f"parameter {name} is a {parameter['paramType']}, its flag takes {wanted}"
        yield from _patterns(name, parameter.get("regexes", []))


def _patterns(name: str, patterns: list[str]) -> Iterator[str]:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            yield f"parameter {name}: {pattern} is no regular expression ({error})"
            return
        if not (pattern.startswith("^") and pattern.endswith("$")):
            yield f"parameter {name}: {pattern} says nothing of the whole value"
    for value in _GOOD.get(name, ()):
        if not all(re.search(pattern, value) for pattern in patterns):
            yield f"parameter {name} refuses {value!r}"
        if name not in _BEAMS and (problem := _command_says(name, value)):
            yield f"the command refuses {problem}"
    for value in _BAD.get(name, ()):
        if all(re.search(pattern, value) for pattern in patterns):
            yield f"parameter {name} takes {value!r}"


def _command_says(name: str, value: str) -> str:
    values = preprocess._flags()
    given = {"input": "gs://b/photos", "output": "gs://b/data", "name": "leaves", name: value}
    values(["preprocess", *(f"--{flag}={text}" for flag, text in given.items())])
    beam = {"beam_args": "--runner=DataflowRunner --project=p --region=r"}
    return settings_problem({flag: values[flag].value for flag in values if flag not in ("help", "h")} | beam)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a key stands twice among {[key for key, _ in pairs]}")
    return found


def _container_spec(metadata: dict[str, Any]) -> None:
    """Reads what `gcloud dataflow flex-template build` makes of it, with the service's own message, or ValueError."""
    types = pytest.importorskip("google.cloud.dataflow_v1beta3.types", reason="needs Dataflow's client")
    from google.protobuf import json_format

    spec = {"image": "image", "metadata": metadata, "sdkInfo": {"language": "PYTHON"}}
    try:
        json_format.ParseDict(spec, types.ContainerSpec.pb(types.ContainerSpec()))
    except json_format.ParseError as error:
        raise ValueError(str(error)) from error
