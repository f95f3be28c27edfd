"""Input prepared by other processes, over real sockets: the same batches, and no silence when one is gone."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import tensorflow as tf

from pipeline import manifest as manifest_lib
from pipeline import meeting, serve, service, training
from pipeline.augmentations.augment import Augment
from pipeline.errors import InputError

REPOSITORY = pathlib.Path(__file__).parents[2]
TF_SERVICE = tf.data.experimental.service
OPTIONS: dict[str, Any] = {
    "split": "train",
    "seed": 7,
    "global_batch": 16,
    "image_size": 32,
    "crop_area": (0.5, 1.0),
    "flip": True,
    "cache": "none",
    "shuffle_mib": 0.05,
}
Batch = tuple[tf.Tensor, ...]


def _serve(*flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline.serve", *flags]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _address(server: subprocess.Popen[str]) -> str:
    """Waits until it serves."""
    assert server.stdout is not None
    return server.stdout.readline().split()[2]


@pytest.fixture(scope="module")
def servers() -> Iterator[list[subprocess.Popen[str]]]:
    running = [
        _serve() for _ in range(3)
    ]  # the last to be killed; at once, since most of a start is TensorFlow's import
    yield running
    for server in running:
        server.send_signal(signal.SIGTERM)
    assert [server.wait(timeout=30) for server in running[:2]] == [0, 0]
    for server in running:
        assert server.stdout is not None
        server.stdout.close()


@pytest.fixture(scope="module")
def addresses(servers: list[subprocess.Popen[str]]) -> list[str]:
    return [_address(server) for server in servers]


@pytest.fixture(scope="module")
def expected(digits: str) -> list[Batch]:
    """What a trainer alone reads in four epochs, without any cache."""
    return list(training.batches(digits, manifest_lib.load(digits), **OPTIONS).dataset.take(48))


def _same(batch: Batch, expected: Batch) -> bool:
    assert [tensor.shape for tensor in batch] == [tensor.shape for tensor in expected]
    return all(bool(tf.reduce_all(one == other)) for one, other in zip(batch, expected, strict=True))


@pytest.mark.parametrize(("count", "workers", "start_step"), [(1, 1, 0), (2, 1, 13), (2, 2, 0)])
def test_the_batches_are_those_of_a_trainer_alone(
    digits: str, addresses: list[str], expected: list[Batch], count: int, workers: int, start_step: int
) -> None:
    shares = [
        service.batches(
            addresses[:count],
            digits,
            manifest_lib.load(digits),
            **OPTIONS,
            start_step=start_step,
            worker=worker,
            num_workers=workers,
        )
        for worker in range(workers)
    ]
    for whole, *parts in zip(expected[start_step:40], *shares, strict=False):
        assert _same(tuple(tf.concat(tensors, axis=0) for tensors in zip(*parts, strict=True)), whole)


def test_mixed_batches_are_those_of_a_trainer_alone(digits: str, addresses: list[str]) -> None:
    options = {**OPTIONS, "augment": Augment(mixup=0.2, cutmix=1.0)}
    manifest = manifest_lib.load(digits)
    alone = training.batches(digits, manifest, **options)
    found = service.batches(addresses[:2], digits, manifest, **options)
    assert all(_same(*pair) for pair in itertools.islice(zip(found, alone, strict=False), 10))


@pytest.mark.parametrize(("free_mib", "mode"), [(1000, "decoded"), (0, "none")])
def test_the_memory_of_the_process_that_serves_decides_on_a_cache(
    digits: str, caplog: pytest.LogCaptureFixture, free_mib: int, mode: str
) -> None:
    with _foreign(workers=1, available_bytes=free_mib * 2**20) as address, caplog.at_level(logging.INFO):
        service.batches([address], digits, manifest_lib.load(digits), **{**OPTIONS, "cache": "auto"})
    assert f"cache={mode} for train" in caplog.text


def test_a_shard_that_was_cut_between_records_is_no_short_epoch(
    digits: str, addresses: list[str], tmp_path: pathlib.Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(digits, copy)
    shard = next(copy.glob("*-train.*-00003-of-*"))
    (length,) = struct.unpack("<Q", shard.read_bytes()[:8])
    shard.write_bytes(shard.read_bytes()[: 8 + 4 + length + 4])  # its first record
    found = service.batches(addresses[:2], str(copy), manifest_lib.load(digits), **OPTIONS)
    with pytest.raises(InputError, match=r"can't prepare step \d+ \(.*only 1 element.* without --input_service"):
        list(itertools.islice(found, 20))


def test_a_cache_is_kept_by_the_process_that_serves(
    digits: str, addresses: list[str], expected: list[Batch], tmp_path: pathlib.Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(digits, copy)
    found = service.batches(addresses[:2], str(copy), manifest_lib.load(digits), **{**OPTIONS, "cache": "decoded"})
    assert all(_same(next(found), whole) for whole in expected[:24])
    for shard in copy.glob("*-train.*"):
        shard.unlink()
    assert all(_same(next(found), whole) for whole in expected[24:])


@contextlib.contextmanager
def _foreign(workers: int, port: int = 0, **greeting: Any) -> Iterator[str]:
    """A tf.data service in this process that greets as `greeting` says."""
    dispatcher = TF_SERVICE.DispatchServer(TF_SERVICE.DispatcherConfig(port=port))
    address = dispatcher.target.rpartition("/")[2]
    running = [TF_SERVICE.WorkerServer(TF_SERVICE.WorkerConfig(dispatcher_address=address)) for _ in range(workers)]
    usual = meeting.Greeting(tf.__version__, address, address, cores=2, available_bytes=0, process="other")
    text = json.dumps(usual._asdict() | greeting)
    if greeting:
        TF_SERVICE.register_dataset(
            dispatcher.target,
            tf.data.Dataset.from_tensors(tf.constant(text)),
            compression=None,
            dataset_id=meeting.GREETING_ID,
        )
    yield address
    for worker in running:
        worker.stop()
    dispatcher.stop()


def test_a_killed_process_is_named_and_never_starts_the_sequence_again(
    digits: str, servers: list[subprocess.Popen[str]], addresses: list[str], expected: list[Batch]
) -> None:
    manifest = manifest_lib.load(digits)
    kept, killed = addresses[1:]
    impatient = service.batches([kept, killed], digits, manifest, **OPTIONS, wait_s=1)
    patient = service.batches([killed], digits, manifest, **OPTIONS)
    assert all(_same(next(batches), expected[0]) for batches in (impatient, patient))

    servers[2].kill()
    servers[2].wait()
    with pytest.raises(ConnectionError, match=f"{killed} has been out of reach for 1 s .* from the last checkpoint"):
        list(itertools.islice(impatient, 20))
    # Another process takes its place.
    with _foreign(workers=1, port=int(killed.rpartition(":")[2]), process="next"):
        arrived: list[Batch] = []
        with pytest.raises(ConnectionError, match=f"{killed} has died or was started again"):
            arrived.extend(itertools.islice(patient, 20))  # what was sent before the kill
        assert all(_same(*pair) for pair in zip(arrived, expected[1:], strict=False))
        resumed = service.batches([kept, killed], digits, manifest, **OPTIONS, start_step=20)
        assert all(_same(next(resumed), whole) for whole in expected[20:25])


def test_a_batch_out_of_turn_is_refused(digits: str) -> None:
    # Two tf.data workers behind one address give out the whole sequence twice.
    with _foreign(workers=2, process="x") as address:
        batches = service.batches([address], digits, manifest_lib.load(digits), **OPTIONS)
        with pytest.raises(ConnectionError, match=f"{address} sent another batch than that of step"):
            list(itertools.islice(batches, 20_000))  # they take turns once both have started


def _refused(match: str, addresses: list[str], digits: str, **changed: Any) -> None:
    manifest = changed.pop("manifest", manifest_lib.load(digits))
    with pytest.raises(InputError, match=match):
        service.batches(addresses, digits, manifest, wait_s=5, **{**OPTIONS, **changed})


def test_what_does_not_go_together_is_refused_in_one_line(
    digits: str, addresses: list[str], tmp_path: pathlib.Path
) -> None:
    _refused("3 input service addresses .* 8 streams .* divides 8", ["a:1", "b:1", "c:1"], digits)
    _refused("4 input service .* 4 trainer .* divides 2", [f"{c}:1" for c in "abcd"], digits, num_workers=4)
    _refused("'localhost': expected HOST:PORT", ["localhost"], digits)
    _refused("'a:1,a:1': expected .* each of them once", ["a:1", "a:1"], digits)
    _refused("sees another dataset", addresses[:1], digits,
             manifest=dataclasses.replace(manifest_lib.load(digits), fingerprint="0" * 64))  # fmt: skip
    with pytest.raises(InputError, match=f"{addresses[0]} can't read .*missing"):
        service.batches(addresses[:1], str(tmp_path / "missing"), manifest_lib.load(digits), **OPTIONS)
    address = f"127.0.0.1:{addresses[0].rpartition(':')[2]}"
    _refused(f"{address} calls itself {addresses[0]}", [address], digits)


def test_what_is_no_input_service_is_refused_in_bounded_time(digits: str) -> None:
    manifest = manifest_lib.load(digits)
    with socket.create_server(("localhost", 0)) as listening:
        address = f"localhost:{listening.getsockname()[1]}"
        with pytest.raises(InputError, match=f"no input service at {address} for 0.5 s"):
            service.batches([address], digits, manifest, **OPTIONS, wait_s=0.5)
    with pytest.raises(InputError, match=rf"no input service at {address} for 0.2 s \(Connection refused\)"):
        service.batches([address], digits, manifest, **OPTIONS, wait_s=0.2)
    with _foreign(workers=0) as address:
        _refused(f"answers at {address} is no input service of this project", [address], digits)
    with _foreign(workers=1, tensorflow="2.0.0") as address:
        _refused(f"{address} has TensorFlow 2.0.0", [address], digits)
    with _foreign(workers=1, batches="localhost:1") as address:
        _refused(f"{address} hands out batches at localhost:1, .*Connection refused", [address], digits)


def test_a_port_in_use_is_refused_before_it_is_shared(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as used:
        # As gRPC opens its ports, so that a second server could join.
        used.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        used.bind(("", 0))
        used.listen()
        port = used.getsockname()[1]
        for flag in ("port", "batches_port"):
            assert serve.main(["serve", f"--{flag}={port}"]) == 2
            assert capsys.readouterr().err.startswith(f"pipeline.serve: --{flag}={port}: Address already in use")
    assert serve.main(["serve", "5050"]) == 2
    assert "unexpected argument '5050'" in capsys.readouterr().err


def test_help_needs_no_tensorflow() -> None:
    code = "import sys; from pipeline import serve; serve.main(['serve', '--help']); print('tensorflow' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "--batches_port" in ran.stdout
    assert ran.stdout.endswith("False\n")
