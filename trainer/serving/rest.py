"""TensorFlow Serving's JSON in, plain values out, and back.

The API is https://www.tensorflow.org/tfx/serving/api_rest; the texts of errors that clients may look for are its own.
What differs: there is one model, whose newest version alone is AVAILABLE, under the label `latest` as well;
`serving_default`, `pixels` and `heatmap` can be called, `classify` and `regress` answer 501; limits answer 408, 413 and
503; bodies are not compressed.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.serving import limits

LABEL = "latest"
DEFAULT_SIGNATURE = "serving_default"
_PATH = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
    r"(?P<rest>|/metadata|:predict|:classify|:regress)"
)


class Target(NamedTuple):
    """What a path names."""

    name: str
    version: int | None
    label: str | None
    rest: str  # "", "/metadata", ":predict", ":classify", ":regress"


class Call(NamedTuple):
    signature: str
    columns: bool  # whether inputs, and so outputs, stand in columns
    inputs: dict[str, list[Any]]  # one value an instance, of as many instances in each


def target(method: str, path: str) -> Target:
    """Raises Refusal: 400 for what TensorFlow Serving calls malformed."""
    match = _PATH.fullmatch(path)
    if match is None or (method == "POST") != match["rest"].startswith(":"):
        raise limits.Refusal(400, "malformed_request", f"Malformed request: {method} {path[:200]}")
    version = int(match["version"][:20]) if match["version"] else None
    return Target(match["name"], version, match["label"], match["rest"])


def check_target(asked: Target, *, name: str, version: int) -> None:
    """Raises Refusal: 404 where something else is served, 501 for methods that a classifier of images doesn't have."""
    if asked.label is not None and asked.label != LABEL:
        raise limits.Refusal(400, "unknown_label", f"Unrecognized servable version label: {asked.label[:100]}")
    if asked.name != name or asked.version not in (None, version):
        what = (
            f"Latest({asked.name[:100]})" if asked.version is None else f"Specific({asked.name[:100]}, {asked.version})"
        )
        raise limits.Refusal(
            404, "not_found", f"Servable not found for request: {what}; served is {name} version {version}"
        )
    if asked.rest in (":classify", ":regress"):
        raise limits.Refusal(501, "not_implemented", f"{asked.rest[1:]} takes tf.Example: use predict")


def parse(body: bytes, inputs_of: Mapping[str, Sequence[str]], *, max_instances: int) -> Call:
    """Reads a request in row or columnar format.

    Args:
      inputs_of: names of the inputs of each signature that may be called.

    Raises:
      Refusal: 400, or 413 for too many instances.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:  # ValueError: also of text that is no UTF-8, or too long a number
        raise bad(f"JSON Parse error: {error}") from error
    if not isinstance(content, dict):
        raise bad("expected a JSON object with 'instances' or 'inputs'")
    signature = content.get("signature_name") or DEFAULT_SIGNATURE
    if not isinstance(signature, str) or signature not in inputs_of:
        served = ", ".join(inputs_of)
        asked = json.dumps(str(signature)[:100])  # in ASCII: JSON may hold halves of characters, which no text can
        raise bad(f"Serving signature name: {asked} not found in signature def; served are {served}")
    if ("instances" in content) == ("inputs" in content):
        raise bad("expected one of 'instances' (rows) and 'inputs' (columns)")
    columns = "inputs" in content
    read = _columns if columns else _rows
    inputs = read(content["inputs" if columns else "instances"], inputs_of[signature])
    (count, *others) = {len(values) for values in inputs.values()}
    if others or not count:
        raise bad(f"inputs have {sorted({count, *others})} instances: expected as many in each, and at least one")
    if count > max_instances:
        raise limits.Refusal(
            413, "too_many_instances", f"{count} instances, at most {max_instances} are taken: send several requests"
        )
    return Call(signature, columns, inputs)


def _rows(instances: Any, names: Sequence[str]) -> dict[str, list[Any]]:
    if not isinstance(instances, list) or not instances:
        raise bad("'instances' must be a list with at least one value")
    if len(names) == 1 and not any(isinstance(value, dict) and "b64" not in value for value in instances):
        return {names[0]: instances}
    inputs: dict[str, list[Any]] = {name: [] for name in names}
    for number, value in enumerate(instances):
        if not isinstance(value, dict) or set(value) != set(names):
            raise bad(
                f"Failed to process element: {number} of 'instances' list: expected an object with {', '.join(names)}"
            )
        for name in names:
            inputs[name].append(value[name])
    return inputs


def _columns(inputs: Any, names: Sequence[str]) -> dict[str, list[Any]]:
    if not isinstance(inputs, dict) and len(names) == 1:
        inputs = {names[0]: inputs}
    if not isinstance(inputs, dict) or set(inputs) != set(names):
        raise bad(f"'inputs' must be an object with {', '.join(names)}")
    for name, values in inputs.items():
        if not isinstance(values, list):
            raise bad(f"input {name!r} must be a list with one value an instance")
    return dict(inputs)


def binary(values: Sequence[Any]) -> list[bytes]:
    """Files from `{"b64": …}`; raises Refusal."""
    found = []
    for number, value in enumerate(values):
        if not isinstance(value, dict) or set(value) != {"b64"} or not isinstance(value["b64"], str):
            raise bad(f'instance {number}: expected an image file as {{"b64": "…"}}')
        try:
            found.append(base64.b64decode(value["b64"], validate=True))
        except (ValueError, binascii.Error) as error:
            raise bad(f"instance {number}: {error}") from error
    return found


def integers(values: Sequence[Any], name: str, shape: tuple[int, ...], low: int, high: int) -> npt.NDArray[np.int64]:
    """Whole numbers in low..high, int64 [n, *shape]; raises Refusal."""
    expected = f"input {name!r}: expected whole numbers from {low} to {high} of shape {['n', *shape]}"
    found = []
    for value in values:  # one after the other, so that other threads come between
        try:
            one = np.asarray(value)
        except ValueError as error:
            raise bad(f"{expected}, got lists of different lengths") from error
        if one.shape != shape:
            raise bad(f"{expected}, got {['n', *one.shape]}")
        if one.dtype != np.int64 or one.min() < low or one.max() > high:
            raise bad(f"{expected}, got others")
        found.append(one)
    return np.stack(found)


def answer(call: Call, outputs: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """One value an instance in each of `outputs`; names are left out where there is one."""
    if len(outputs) == 1:
        (values,) = outputs.values()
        return {"outputs" if call.columns else "predictions": list(values)}
    if call.columns:
        return {"outputs": {name: list(values) for name, values in outputs.items()}}
    return {"predictions": [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]}


def bad(message: str) -> limits.Refusal:
    return limits.Refusal(400, "bad_request", message)
