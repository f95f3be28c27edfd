"""A server as its clients, its operators and its enemies see it."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import gc
import io
import json
import pathlib
import shutil
import socket
import struct
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.pipeline import pictures
from tests.trainer.serving import tiny_export
from tests.trainer.serving.conftest import Client
from trainer.serving import rest as rest_lib

PREDICT = "/v1/models/colours:predict"
PATIENCE_S = 20


def png(colour: tuple[int, int, int], side: int = 40) -> bytes:
    return pictures.encode(Image.new("RGB", (side, side), colour), "PNG")


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def form(data: bytes, file_name: str = "leaf.png", field: str = "image") -> tuple[bytes, dict[str, str]]:
    """A body of multipart/form-data and its header."""
    head = f'--edge\r\nContent-Disposition: form-data; name="{field}"; filename="{file_name}"\r\n\r\n'
    return head.encode() + data + b"\r\n--edge--\r\n", {"Content-Type": "multipart/form-data; boundary=edge"}


def bomb(side: int = 20_000) -> bytes:
    """A PNG that says it has `side` squared pixels and holds a few bytes of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


@contextlib.contextmanager
def busy(client: Client) -> Iterator[None]:
    """The model is at work and doesn't end."""
    done = threading.Event()
    client.running.service._inference.submit(done.wait, PATIENCE_S)
    try:
        yield
    finally:
        done.set()


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_answers_are_those_of_the_export_s_own_signature(client: Client, workdir: pathlib.Path) -> None:
    files = [pictures.photo(), pictures.photo("flower"), png((200, 10, 10))]
    status, found = client.json("POST", PREDICT, {"instances": [b64(data) for data in files]})
    assert status == 200
    loaded = tf.saved_model.load(str(workdir / "exports/1"))
    expected = loaded.signatures["serving_default"](image_bytes=tf.constant(files))
    for number, row in enumerate(found["predictions"]):
        assert set(row) == {"probabilities", "label", "confidence"}
        np.testing.assert_allclose(row["probabilities"], expected["probabilities"][number], atol=1e-6)
        assert row["label"] == expected["label"][number].numpy().decode()
        assert row["confidence"] == max(row["probabilities"])
    assert found["predictions"][2]["label"] == "red"
    columns = client.json("POST", PREDICT, {"inputs": {"image_bytes": [b64(data) for data in files]}})[1]["outputs"]
    assert columns["label"] == [row["label"] for row in found["predictions"]]


def test_other_signatures_take_pixels(client: Client) -> None:
    images = tiny_export.pictures(np.random.default_rng(0), 2)
    rows = [{"images": image.tolist()} for image in images]
    status, found = client.json("POST", PREDICT, {"signature_name": "pixels", "instances": rows})
    assert status == 200
    assert {name: len(value) for name, value in found["predictions"][0].items()} == {
        "logits": 3, "probabilities": 3, "embedding": 6,
    }  # fmt: skip
    inputs = {"images": images.tolist(), "class_index": [2, 0]}
    status, found = client.json("POST", PREDICT, {"signature_name": "heatmap", "inputs": inputs})
    assert status == 200
    np.testing.assert_allclose(found["outputs"][0], images[0, ..., 0] / 255, atol=1e-6)  # of red
    wrong = {"images": images.tolist(), "class_index": [3, 0]}
    assert client.json("POST", PREDICT, {"signature_name": "heatmap", "inputs": wrong})[0] == 400


def test_status_and_metadata_are_tensorflow_serving_s(client: Client) -> None:
    available = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("colours", "colours/versions/1", "colours/labels/latest"):
        assert client.json("GET", f"/v1/models/{path}") == (200, {"model_version_status": [available]})
    status, found = client.json("GET", "/v1/models/colours/metadata")
    assert status == 200
    assert found["model_spec"] == {"name": "colours", "signature_name": "", "version": "1"}
    signature = found["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
    assert [dim["size"] for dim in signature["outputs"]["probabilities"]["tensor_shape"]["dim"]] == ["-1", "3"]
    for path, expected in (
        ("other", 404),
        ("colours/versions/9", 404),
        ("colours/labels/x", 400),
        ("colours/what", 400),
    ):
        status, found = client.json("GET", f"/v1/models/{path}")
        assert (status, set(found)) == (expected, {"error", "reason"})


def test_the_page_gets_words_bars_and_pictures(client: Client) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    body, headers = form(png((20, 220, 30)), hostile)
    status, _, content = client.ask("POST", "/classify", body, headers)
    found = json.loads(content)
    assert status == 200
    assert found["words"] == "This looks like green."
    assert found["top"][0]["class"] == "green"
    assert sum(entry["confidence"] for entry in found["top"]) == pytest.approx(1)
    for name in ("picture", "overlay"):
        image = Image.open(io.BytesIO(base64.b64decode(found[name].removeprefix("data:image/png;base64,"))))
        assert image.size == (tiny_export.SIDE, tiny_export.SIDE)
    assert hostile not in content.decode()


def test_the_page_loads_nothing_and_runs_only_its_own(client: Client) -> None:
    _, headers, content = client.ask("GET", "/")
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    nonce = policy["script-src"].removeprefix("'nonce-").removesuffix("'")
    assert content.decode().count(f'nonce="{nonce}"') == 2  # one style, one script
    assert nonce not in client.ask("GET", "/")[1]["content-security-policy"]
    assert b"://" not in content


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"", 400, "empty_file"),
        (b"<html>", 400, "not_an_image"),
        (pictures.photo()[:3000], 400, "cannot_decode"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), 400, "cannot_decode"),
        (bomb(), 413, "too_many_pixels"),
        (bomb(7000), 413, "too_many_pixels"),  # 49 million, above this server's limit
    ],
)
def test_bad_images_are_refused_by_reason(serve: Callable[..., Client], data: bytes, status: int, reason: str) -> None:
    client = serve(max_pixels=40_000_000)
    body, headers = form(data)
    for answer in (
        client.ask("POST", "/classify", body, headers),
        client.ask("POST", PREDICT, {"instances": [b64(png((1, 2, 3))), b64(data)]}),
    ):
        assert answer[0] == status
        assert json.loads(answer[2])["reason"] == reason
    assert "instance 1: " in json.loads(answer[2])["error"]
    metrics = client.ask("GET", "/metrics")[2].decode()
    assert f'shardline_serving_refusals_total{{reason="{reason}"}} 2.0' in metrics


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"x", {"Content-Type": "image/png"}, 415),
        (b"x", {"Content-Type": "multipart/form-data"}, 400),
        (b"x", {"Content-Type": "multipart/form-data; boundary=edge"}, 400),
        (*form(b"x", field="other"), 400),
        (form(b"x")[0], {**form(b"x")[1], "Content-Encoding": "gzip"}, 415),
    ],
)
def test_other_uploads_are_refused(client: Client, body: bytes, headers: dict[str, str], status: int) -> None:
    found = client.ask("POST", "/classify", body, headers)
    assert found[0] == status
    assert "error" in json.loads(found[2])


def test_too_large_a_body_is_refused_before_it_is_sent(serve: Callable[..., Client]) -> None:
    client = serve(max_request_bytes=100_000)
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\n".encode()
    for rest in (
        b"Content-Length: 100001\r\n\r\n",
        b"Content-Length: 100001\r\nExpect: 100-continue\r\n\r\n",
        b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n" + b"c350\r\n" + bytes(50_000) + b"\r\nc351\r\n" + bytes(50_001) + b"\r\n",
    ):
        with socket.create_connection(("127.0.0.1", client.port), PATIENCE_S) as connection:
            connection.sendall(head + rest)
            received = connection.makefile("rb").read()  # to the end: the connection is closed
            assert received.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 ")), received
    status, _, content = client.ask("POST", PREDICT, bytes(5_000_000))  # which reads nothing until all is sent
    assert (status, json.loads(content)["reason"]) == (413, "request_too_large")


def test_slow_senders_are_cut_off(serve: Callable[..., Client]) -> None:
    client = serve(header_timeout_s=0.4, body_timeout_s=0.4)
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n".encode()
    for sent, expected in ((b"", b""), (head, b""), (head + b"\r\n1", b"HTTP/1.1 408 ")):
        with socket.create_connection(("127.0.0.1", client.port), PATIENCE_S) as connection:
            connection.sendall(sent)
            received = b""
            with contextlib.suppress(ConnectionResetError):
                received = connection.makefile("rb").read()
            assert received.startswith(expected)
            assert bool(received) == bool(expected)
    with socket.create_connection(("127.0.0.1", client.port), PATIENCE_S) as connection:
        cut_off = False
        for byte in head * 100:  # one at a time does not help
            try:
                connection.sendall(bytes([byte]))
            except OSError:
                cut_off = True
                break
            time.sleep(0.01)
        assert cut_off
    assert client.ask("GET", "/healthz")[0] == 200


def test_more_than_it_can_do_is_refused_with_a_time_to_come_again(serve: Callable[..., Client]) -> None:
    client = serve(max_batch=1, max_waiting=2, max_instances=2)
    body = {"instances": [b64(png((1, 2, 3)))]}
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        with busy(client):
            queue = client.running.service.served.batcher
            running = [pool.submit(client.ask, "POST", PREDICT, body)]  # two more at once are too many to prepare
            until(lambda: queue._task is not None and queue.waiting == 0)
            for waiting in (1, 2):
                running.append(pool.submit(client.ask, "POST", PREDICT, body))
                until(lambda waiting=waiting: queue.waiting == waiting)
            status, headers, content = client.ask("POST", PREDICT, body)
            assert (status, headers["retry-after"]) == (503, "1")
            assert json.loads(content)["reason"] == "overloaded"
            assert 'waiting_images{stage="predict"} 2.0' in client.ask("GET", "/metrics")[2].decode()
        assert [answer.result()[0] for answer in running] == [200, 200, 200]
    assert client.ask("POST", PREDICT, {"instances": [b64(png((1, 2, 3)))] * 3})[0] == 413


def test_all_requests_together_hold_a_bounded_number_of_bytes(serve: Callable[..., Client]) -> None:
    client = serve(max_request_bytes=150_000, max_buffered_bytes=150_000, answer_timeout_s=PATIENCE_S)
    body, headers = form(png((1, 2, 3)) + bytes(100_000))  # which decoders leave unread
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with busy(client):
            first = pool.submit(client.ask, "POST", "/classify", body, headers)
            until(lambda: client.running.service.served.batcher._task is not None)
            assert client.ask("POST", "/classify", body, headers)[0] == 503
        assert first.result()[0] == 200
    assert client.ask("POST", "/classify", body, headers)[0] == 200


def test_nothing_of_a_refused_request_stays_in_memory(
    serve: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the collector never comes by: bodies are megabytes, and few objects."""
    client = serve()
    read: list[weakref.ref[Any]] = []

    class Content(dict[str, Any]):
        pass

    def parse(*_: Any, **__: Any) -> Any:
        content = Content()
        read.append(weakref.ref(content))
        try:
            raise KeyError("instances")
        except KeyError as error:
            raise rest_lib.bad("no") from error

    monkeypatch.setattr(rest_lib, "parse", parse)
    gc.disable()
    try:
        assert client.ask("POST", PREDICT, {})[0] == 400
        until(lambda: read[0]() is None)
    finally:
        gc.enable()


def test_an_answer_that_takes_too_long_is_given_up(serve: Callable[..., Client]) -> None:
    client = serve(answer_timeout_s=0.3)
    with busy(client):
        status, headers, _ = client.ask("POST", PREDICT, {"instances": [b64(png((1, 2, 3)))]})
        assert (status, headers["retry-after"]) == (504, "1")
    assert client.ask("POST", PREDICT, {"instances": [b64(png((1, 2, 3)))]})[0] == 200


def test_a_newer_export_takes_over_and_a_damaged_one_does_not(
    workdir: pathlib.Path, tmp_path: pathlib.Path, serve: Callable[..., Client], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(workdir / "exports/1", tmp_path / "exports/1")
    client = serve(tmp_path)
    service = client.running.service
    body = {"instances": [b64(png((140, 120, 120)))]}
    before = client.json("POST", PREDICT, body)[1]["predictions"][0]["confidence"]
    begun = service.served
    # Complete but for one flipped bit, then of other classes, then not complete yet.
    shutil.copytree(workdir / "exports/1", tmp_path / "exports/2")
    weights = tmp_path / "exports/2/variables/variables.data-00000-of-00001"
    weights.write_bytes(bytes([weights.read_bytes()[0] ^ 1, *weights.read_bytes()[1:]]))
    until(lambda: 2 in service.damaged)
    card = json.loads((workdir / "exports/1/export.json").read_text())
    for version, content in ((3, {**card, "classes": ["a", "b", "c"]}), (4, {**card, "format": 9})):
        shutil.copytree(workdir / "exports/1", tmp_path / f"exports/{version}", ignore=shutil.ignore_patterns("*.json"))
        assert version not in service.damaged
        (tmp_path / f"exports/{version}/export.json").write_text(json.dumps(content))
        until(lambda version=version: version in service.damaged)
    assert service.served is begun
    assert "variables.data-00000-of-00001 is damaged" in caplog.text
    assert "has the classes a, b, c, served are blue, green, red" in caplog.text
    assert "has format 9" in caplog.text
    states = client.json("GET", "/v1/models/colours")[1]["model_version_status"]
    assert [(state["version"], state["state"]) for state in states] == [
        ("4", "END"), ("3", "END"), ("2", "END"), ("1", "AVAILABLE"),
    ]  # fmt: skip
    # A disk that fails for a while, as it looks from here, is asked again.
    unreadable = tmp_path / "exports/5/export.json"
    unreadable.mkdir(parents=True)
    until(lambda: "can't look for newer exports" in caplog.text)
    unreadable.rmdir()
    assert service.served is begun
    tiny_export.write(tmp_path, 5, sharpness=60.0)
    until(lambda: service.served is not begun)
    assert client.json("POST", PREDICT, body)[1]["predictions"][0]["confidence"] > before + 0.1
    assert client.ask("POST", "/v1/models/colours/versions/1:predict", body)[0] == 404
    assert "shardline_serving_model_version 5.0" in client.ask("GET", "/metrics")[2].decode()


def test_a_class_whose_folder_s_name_is_no_unicode_has_a_name(
    workdir: pathlib.Path, tmp_path: pathlib.Path, serve: Callable[..., Client]
) -> None:
    shutil.copytree(workdir / "exports/1", tmp_path / "exports/1")
    card = tmp_path / "exports/1/export.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "classes": ["bl\udcff", "green", "red"]}))
    client = serve(tmp_path)
    status, found = client.json("POST", PREDICT, {"instances": [b64(png((1, 2, 250)))]})
    assert (status, found["predictions"][0]["label"]) == (200, "bl\N{REPLACEMENT CHARACTER}")


def test_metrics_say_what_was_asked_and_that_it_changed(serve: Callable[..., Client]) -> None:
    client = serve()
    shifted = tiny_export.pictures(np.random.default_rng(3), 64, shift=60)
    for start in (0, 32):
        instances = [b64(pictures.encode(Image.fromarray(image), "PNG")) for image in shifted[start : start + 32]]
        assert client.ask("POST", PREDICT, {"instances": instances})[0] == 200
    assert client.ask("GET", "/readyz")[0] == 200
    until(lambda: 'drift_alarm{feature="brightness"} 1.0' in client.ask("GET", "/metrics")[2].decode())
    metrics = client.ask("GET", "/metrics")[2].decode()
    for line in (
        'shardline_serving_requests_total{route="predict",status="200"} 2.0',
        'shardline_serving_latency_seconds_count{route="predict"} 2.0',
        'shardline_serving_batch_images_bucket{le="16.0"} 4.0',
        "shardline_serving_batch_images_sum 64.0",
        'shardline_serving_drift_alarm{feature="class 0"} 0.0',
        "process_resident_memory_bytes",
    ):
        assert line in metrics, line
