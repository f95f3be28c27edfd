"""Requests as https://www.tensorflow.org/tfx/serving/api_rest writes them."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from trainer.serving import limits, rest

INPUTS = {"serving_default": ("image_bytes",), "heatmap": ("class_index", "images")}
A, B = ({"b64": base64.b64encode(text).decode()} for text in (b"first", b"second"))


def parse(content: Any) -> rest.Call:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return rest.parse(body, INPUTS, max_instances=3)


@pytest.mark.parametrize(
    ("request_", "columns"),
    [
        ({"instances": [A, B]}, False),
        ({"instances": [{"image_bytes": A}, {"image_bytes": B}]}, False),
        ({"instances": [A, B], "signature_name": "serving_default"}, False),
        ({"inputs": {"image_bytes": [A, B]}}, True),
        ({"inputs": [A, B]}, True),
    ],
)
def test_rows_and_columns_say_the_same(request_: Any, columns: bool) -> None:
    call = parse(request_)
    assert (call.signature, call.columns) == ("serving_default", columns)
    assert rest.binary(call.inputs["image_bytes"]) == [b"first", b"second"]


def test_several_inputs_come_as_objects_or_as_columns() -> None:
    rows = [{"images": [1, 2], "class_index": 0}, {"images": [3, 4], "class_index": 1}]
    inputs = {"images": [[1, 2], [3, 4]], "class_index": [0, 1]}
    for content in ({"instances": rows}, {"inputs": inputs}):
        assert parse({"signature_name": "heatmap", **content}).inputs == inputs


def test_one_output_goes_without_its_name() -> None:
    rows, columns = rest.Call("", False, {}), rest.Call("", True, {})
    one, two = {"a": [1, 2]}, {"a": [1, 2], "b": ["x", "y"]}
    assert rest.answer(rows, one) == {"predictions": [1, 2]}
    assert rest.answer(columns, one) == {"outputs": [1, 2]}
    assert rest.answer(rows, two) == {"predictions": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]}
    assert rest.answer(columns, two) == {"outputs": two}


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"{", 400, "JSON Parse error"),
        (b"\xff", 400, "JSON Parse error"),
        (b"[" * 100_000, 400, "JSON Parse error"),
        (b'{"instances": ' + b"1" * 5000 + b"}", 400, "JSON Parse error"),
        ([], 400, "JSON object"),
        ({}, 400, "one of"),
        ({"instances": [A], "inputs": [A]}, 400, "one of"),
        ({"instances": []}, 400, "at least one"),
        ({"instances": "x"}, 400, "must be a list"),
        ({"instances": [{"other": A}]}, 400, "element: 0"),
        ({"instances": [A, B, A, B]}, 413, "at most 3"),
        ({"inputs": {"other": [A]}}, 400, "image_bytes"),
        ({"inputs": {"image_bytes": A}}, 400, "must be a list"),
        ({"instances": [A], "signature_name": "prepare"}, 400, '"prepare" not found in signature def'),
        ({"instances": [A], "signature_name": ["x"]}, 400, "not found in signature def"),
        ({"instances": [A], "signature_name": "\ud800"}, 400, '"\\ud800" not found in signature def'),
        ({"inputs": {"images": [1], "class_index": [1, 2]}, "signature_name": "heatmap"}, 400, "as many in each"),
    ],
)
def test_other_requests_are_refused_in_words(content: Any, status: int, says: str) -> None:
    with pytest.raises(limits.Refusal) as refused:
        parse(content)
    assert refused.value.status == status
    assert says in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("value", ["text", 7, {"b64": 7}, {"b64": "?"}, {"b64": "YQ"}, {"b64": "YQ==", "more": 1}, {}])
def test_a_value_that_is_no_file_is_named(value: Any) -> None:
    with pytest.raises(limits.Refusal, match="instance 1"):
        rest.binary([A, value])


@pytest.mark.parametrize(
    "values", [[[0, 256]], [[0, -1]], [[0, 0.5]], [[0, True, 3]], [[0, "1"]], [[0], [0, 1]], [[]], [[[0, 1]]], [None]]
)
def test_pixels_are_whole_numbers_of_one_shape(values: Any) -> None:
    with pytest.raises(limits.Refusal, match="images"):
        rest.integers(values, "images", (2,), 0, 255)
    np.testing.assert_array_equal(rest.integers([[0, 255]], "images", (2,), 0, 255), [[0, 255]])


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/models/m", ("m", None, None, "")),
        ("GET", "/v1/models/m/metadata", ("m", None, None, "/metadata")),
        ("GET", "/v1/models/m/versions/12/metadata", ("m", 12, None, "/metadata")),
        ("POST", "/v1/models/m:predict", ("m", None, None, ":predict")),
        ("POST", "/v1/models/m/versions/3:predict", ("m", 3, None, ":predict")),
        ("POST", "/v1/models/m/labels/latest:predict", ("m", None, "latest", ":predict")),
    ],
)
def test_paths_are_those_of_tensorflow_serving(method: str, path: str, expected: Any) -> None:
    assert rest.target(method, path) == expected


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/m"),
        ("GET", "/v1/models/m:predict"),
        ("GET", "/v1/models"),
        ("POST", "/v1/models/m/versions/x:predict"),
    ],
)
def test_malformed_paths_are_bad_requests(method: str, path: str) -> None:
    with pytest.raises(limits.Refusal) as refused:
        rest.target(method, path)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/v1/models/other:predict", 404, "Servable not found for request: Latest(other)"),
        ("/v1/models/m/versions/4:predict", 404, "Servable not found for request: Specific(m, 4)"),
        ("/v1/models/m/labels/canary:predict", 400, "Unrecognized servable version label: canary"),
        ("/v1/models/m:regress", 501, "use predict"),
    ],
)
def test_what_is_not_served_is_said(path: str, status: int, says: str) -> None:
    with pytest.raises(limits.Refusal) as refused:
        rest.check_target(rest.target("POST", path), name="m", version=3)
    assert refused.value.status == status
    assert says in refused.value.message
    for good in ("/v1/models/m:predict", "/v1/models/m/versions/3:predict", "/v1/models/m/labels/latest:predict"):
        rest.check_target(rest.target("POST", good), name="m", version=3)
