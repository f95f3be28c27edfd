"""Workers that meet before TensorFlow starts: real sockets, and strangers, doubles and deaths among those who come."""

from __future__ import annotations

import contextlib
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from pipeline.errors import InputError
from tests.trainer.commands import REPOSITORY
from trainer import rendezvous, roll_call
from trainer.cluster import Worker

# One worker: its index, the number of workers and the coordinator in, the addresses out.
WORKER = """
import sys
from trainer import cluster, rendezvous

print("begun", flush=True)
print(*rendezvous.meet(cluster.Worker(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], "flags"), timeout_s=60))
"""


@pytest.fixture
def port() -> int:
    """A free one with free ones behind it, below those that any process on this host may get for a connection."""
    for first in random.SystemRandom().sample(range(10_000, 32_000), 100):
        with contextlib.suppress(OSError), contextlib.ExitStack() as kept:
            for port in range(first, first + 4):
                kept.enter_context(socket.create_server(("", port)))
            return first
    raise AssertionError("no four ports in a row are free")


@pytest.fixture
def coordinator(port: int) -> str:
    return f"127.0.0.1:{port}"


@pytest.fixture
def run() -> Callable[..., Future[tuple[str, ...]]]:
    """Meets in a thread, where an exception is kept until it is asked for."""
    pool = ThreadPoolExecutor(8)

    def start(index: int, num_workers: int, coordinator: str, **options: object) -> Future[tuple[str, ...]]:
        addresses = options.pop("addresses", ())
        worker = Worker(index, num_workers, coordinator, "flags", addresses, options.pop("host", None))
        return pool.submit(rendezvous.meet, worker, **{"timeout_s": 20.0, **options})

    return start


def _reach(coordinator: str) -> socket.socket:
    """A connection to worker 0 as soon as it listens."""
    host, _, port = coordinator.rpartition(":")
    for _ in range(200):
        with contextlib.suppress(OSError):
            return socket.create_connection((host, int(port)), timeout=5)
        time.sleep(0.05)
    raise AssertionError("worker 0 does not listen")


def test_all_get_the_same_addresses_whoever_comes_first(
    coordinator: str, port: int, run: Callable[..., Future]
) -> None:
    early = run(2, 3, coordinator)
    time.sleep(0.2)
    assert not early.done()
    all_three = [run(0, 3, coordinator), run(1, 3, coordinator), early]
    # They share a host here, so the ports behind worker 0's are theirs; a loopback address would lead others astray.
    [addresses] = {future.result() for future in all_three}
    assert addresses[0] == coordinator
    assert set(addresses[1:]) == {f"127.0.0.1:{port + 1}", f"127.0.0.1:{port + 2}"}
    for address in addresses:  # which are free again, for TensorFlow
        socket.create_server(("", int(address.rpartition(":")[2]))).close()


def test_one_worker_waits_for_nobody(coordinator: str, run: Callable[..., Future]) -> None:
    assert run(0, 1, coordinator).result() == (coordinator,)


def test_a_port_that_is_taken_is_passed_over(coordinator: str, port: int, run: Callable[..., Future]) -> None:
    with socket.create_server(("", port + 1)):
        both = [run(index, 2, coordinator) for index in range(2)]
        assert [future.result() for future in both] == [(coordinator, f"127.0.0.1:{port + 2}")] * 2


def test_a_worker_tells_the_host_it_was_given(coordinator: str, port: int, run: Callable[..., Future]) -> None:
    both = [run(0, 2, coordinator), run(1, 2, coordinator, host="gpu7.example")]
    assert both[0].result() == both[1].result() == (coordinator, f"gpu7.example:{port + 1}")


def test_on_worker_0s_host_its_name_is_told_and_not_the_loopback_address(port: int, run: Callable[..., Future]) -> None:
    both = [run(index, 2, f"localhost:{port}") for index in range(2)]
    assert both[0].result() == both[1].result() == (f"localhost:{port}", f"localhost:{port + 1}")


def test_addresses_that_are_known_are_kept(coordinator: str, port: int, run: Callable[..., Future]) -> None:
    addresses = (coordinator, f"localhost:{port + 5}")
    both = [run(index, 2, coordinator, addresses=addresses) for index in range(2)]
    assert both[0].result() == both[1].result() == addresses


def test_addresses_that_differ_are_refused(coordinator: str, port: int, run: Callable[..., Future]) -> None:
    first = run(0, 2, coordinator, addresses=(coordinator, f"localhost:{port + 5}"), timeout_s=2)
    with pytest.raises(InputError, match=rf"told that it is at localhost:{port + 6}, worker 0 .* localhost:{port + 5}"):
        run(1, 2, coordinator, addresses=(coordinator, f"localhost:{port + 6}")).result()
    with pytest.raises(TimeoutError):
        first.result()


def test_whoever_is_missing_is_named_to_all(coordinator: str, run: Callable[..., Future]) -> None:
    began = time.monotonic()
    waiting = [run(index, 5, coordinator, timeout_s=1.5) for index in (0, 3)]
    for future in waiting:
        with pytest.raises(
            TimeoutError, match=rf"^worker 1, 2, 4 of 5 did not come.*: {re.escape(coordinator)} waited"
        ):
            future.result()
    assert time.monotonic() - began < 1.5 + 2 * roll_call.TICK_S + roll_call.CALL_S


def test_a_worker_whose_time_is_up_learns_who_is_missing_while_worker_0_waits_on(
    coordinator: str, run: Callable[..., Future]
) -> None:
    first = run(0, 3, coordinator)
    with pytest.raises(TimeoutError, match=r"^worker 2 of 3 did not come:"):
        run(1, 3, coordinator, timeout_s=1).result()
    others = [run(1, 3, coordinator), run(2, 3, coordinator)]
    assert first.result() == others[0].result() == others[1].result()


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_worker_0_is_missed_by_name(port: int, host: str, run: Callable[..., Future]) -> None:
    with pytest.raises(TimeoutError, match=rf"^worker 0 of 2 was not at {host}:{port} within .* \([^)]+\)"):
        run(1, 2, f"{host}:{port}", timeout_s=1).result()


def test_a_name_may_become_known_later(port: int, run: Callable[..., Future], monkeypatch: pytest.MonkeyPatch) -> None:
    known, resolve = threading.Event(), socket.getaddrinfo

    def late(host: str, *arguments: object, **options: object) -> object:
        if host == "trainer-0.trainer":
            if not known.is_set():
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            host = "127.0.0.1"
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", late)
    both = [run(index, 2, f"trainer-0.trainer:{port}") for index in range(2)]
    time.sleep(0.3)
    known.set()
    assert both[0].result() == both[1].result() == (f"trainer-0.trainer:{port}", f"trainer-0.trainer:{port + 1}")


def test_strangers_do_not_matter(
    coordinator: str, port: int, run: Callable[..., Future], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roll_call, "CALL_S", 1.0)
    first = run(0, 2, coordinator)
    silent = _reach(coordinator)
    for words in (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\n",
        b"[" * 1000 + b"\n",
        b"{" + b"x" * 5000,
        b'{"worker": "one", "num_workers": 2, "address": "a:1"}\n',
        b'{"worker": 1}\n',
        b"\xff\xfe\n",
    ):
        with _reach(coordinator) as stranger, contextlib.suppress(ConnectionResetError):
            stranger.sendall(words)
            assert stranger.recv(100) == b""
    with silent:
        assert silent.recv(100) == b""  # after a while
    assert run(1, 2, coordinator).result() == first.result() == (coordinator, f"127.0.0.1:{port + 1}")


def test_what_listens_in_worker_0s_place_is_waited_out(coordinator: str, port: int, run: Callable[..., Future]) -> None:
    """As TensorFlow's server of an earlier start does, which says something else, or nothing, or hangs up."""
    with socket.create_server(("", port)) as earlier:
        second = run(1, 2, coordinator)
        with contextlib.ExitStack() as open_still:
            for words in (b"\0\0\6\4\0\0\0\0\0\0\5\0\0@\0", b"{}\n", b""):
                connection = open_still.enter_context(earlier.accept()[0])
                claim = {"worker": 1, "num_workers": 2, "address": f"127.0.0.1:{port + 1}"}
                assert json.loads(connection.recv(1000)) == claim
                connection.sendall(words)
    assert run(0, 2, coordinator).result() == second.result()


@pytest.mark.parametrize(
    ("index", "num_workers", "message"),
    [(1, 3, "worker 1 was told of 3 workers, worker 0 of 2"), (2, 3, "worker 2 was told of 3")],
)
def test_workers_that_disagree_about_their_number_are_sent_away(
    coordinator: str, run: Callable[..., Future], index: int, num_workers: int, message: str
) -> None:
    first = run(0, 2, coordinator)
    with pytest.raises(InputError, match=message):
        run(index, num_workers, coordinator).result()
    assert run(1, 2, coordinator).result() == first.result()  # worker 0 goes on, for the right one


def test_two_living_workers_with_one_index_are_told_apart(
    coordinator: str, port: int, run: Callable[..., Future], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roll_call, "_TWICE_S", 1.0)
    first, second = run(0, 3, coordinator), run(1, 3, coordinator)
    time.sleep(1)
    with pytest.raises(InputError, match=rf"at 127.0.0.1:{port + 1} and 127.0.0.1:{port + 2} both have index 1"):
        run(1, 3, coordinator).result()
    third = run(2, 3, coordinator)
    assert first.result() == second.result() == third.result()


def test_a_port_of_worker_0_that_stays_taken_is_refused(
    coordinator: str, port: int, run: Callable[..., Future], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roll_call, "_PORT_WAIT_S", 1.0)
    calls: list[None] = []
    with socket.create_server(("", port)), pytest.raises(InputError, match=f"port {port} of this host can't be had"):
        run(0, 2, coordinator, idle=lambda: calls.append(None)).result()
    assert calls


def test_another_workers_port_that_stays_taken_is_refused(
    coordinator: str, port: int, run: Callable[..., Future], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roll_call, "_PORT_WAIT_S", 1.0)
    addresses = (coordinator, f"localhost:{port + 5}")
    message = f"port {port + 5} of this host can't be had"
    with socket.create_server(("", port + 5)), pytest.raises(InputError, match=message):
        run(1, 2, coordinator, addresses=addresses).result()


def test_what_idle_raises_ends_the_waiting_and_frees_the_port(
    coordinator: str, port: int, run: Callable[..., Future]
) -> None:
    def idle() -> None:
        raise RuntimeError("a signal came")

    second = run(1, 2, coordinator)
    for index in range(2):
        with pytest.raises(RuntimeError, match="a signal came"):
            run(index, 2, coordinator, idle=idle).result()
    assert run(0, 2, coordinator).result() == second.result()


@pytest.mark.parametrize("killed", [0, 1])
def test_a_worker_that_is_killed_while_it_waits_may_come_again(coordinator: str, killed: int) -> None:
    def start(index: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, str(index), "3", coordinator]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "begun\n"
        return process

    processes = {index: start(index) for index in range(2)}
    try:
        time.sleep(1.5)
        processes[killed].send_signal(signal.SIGKILL)
        processes[killed].wait()
        processes |= {index: start(index) for index in (killed, 2)}
        said = {index: process.communicate(timeout=60)[0] for index, process in processes.items()}
        assert [process.returncode for process in processes.values()] == [0, 0, 0], said
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    [addresses] = set(said.values())
    assert len(set(addresses.split())) == 3


def test_a_worker_that_died_as_it_called_is_waited_for(port: int) -> None:
    """Its claim and its end come together, and with them the last of the others."""
    calls: list[socket.socket] = []

    def claim(call: socket.socket, index: int, address: str) -> None:
        call.sendall(json.dumps({"worker": index, "num_workers": 3, "address": address}).encode() + b"\n")

    def call() -> socket.socket:
        return socket.create_connection(("127.0.0.1", port))

    def idle() -> None:  # worker 0 hears nothing meanwhile
        ticks.append(time.monotonic())
        if len(ticks) == 1:
            calls.extend([call(), call()])
        if len(ticks) == 4:  # both were taken in
            claim(calls[0], 1, "dead:1")
            calls[0].close()
            claim(calls[1], 2, "host:2")
        if len(ticks) == 8:
            calls.append(call())
            claim(calls[2], 1, "host:1")

    ticks: list[float] = []
    worker = Worker(0, 3, f"127.0.0.1:{port}", "flags")
    try:
        assert roll_call.hold(worker, time.monotonic() + 20, idle)[1:] == ("host:1", "host:2")
    finally:
        for one in calls:
            one.close()
