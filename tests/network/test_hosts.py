"""Hosts are apart, know each other's names, lose what they are to lose, and leave nothing behind."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

from tests.network import hosts
from tests.network.training import REPOSITORY

pytestmark = pytest.mark.network

NAMES = {"one": (), "two": ("two.pods",)}
ENV = {"PATH": os.environ["PATH"]}
# Says how many of the datagrams that were sent have come, once none comes for a second.
RECEIVE = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
    receiver.bind(("", 2222))
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    print("ready", flush=True)
    received = 0
    receiver.settimeout(20)
    try:
        while receiver.recv(100):
            received += 1
            receiver.settimeout(2)
    except TimeoutError:
        print(received)
"""
SEND = """
import socket, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.connect(("two.pods", 2222))
    for _ in range(2000):
        sender.send(b"x")
        time.sleep(0.001)
"""


def run(net: hosts.Network, name: str, command: Sequence[str], folder: pathlib.Path) -> str:
    log = folder / f"{name}.log"
    assert net.start(name, command, env=ENV, cwd=folder, log=log).wait(60) == 0, log.read_text()
    return log.read_text()


def wait_for(log: pathlib.Path, text: str) -> None:
    deadline = time.monotonic() + 60
    while text not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_host_has_its_own_name_and_finds_others_by_theirs(tmp_path: pathlib.Path) -> None:
    ask = "import socket; print(socket.gethostname(), *map(socket.gethostbyname, ['one', 'two', 'two.pods']))"
    with hosts.network(NAMES) as net:
        assert run(net, "one", [sys.executable, "-c", ask], tmp_path) == "one 10.77.0.1 10.77.0.2 10.77.0.2\n"


@pytest.mark.parametrize(("loss", "least", "most"), [(0.0, 2000, 2000), (0.1, 1730, 1870)])
def test_a_tenth_of_the_packets_is_lost(tmp_path: pathlib.Path, loss: float, least: int, most: int) -> None:
    """Of 2,000 at 10 % 200 ± 13 are lost; five times that is never seen."""
    with hosts.network(NAMES) as net:
        if loss:
            net.lose("two", loss)
        log = tmp_path / "two.log"
        receiver = net.start("two", [sys.executable, "-c", RECEIVE], env=ENV, cwd=tmp_path, log=log)
        wait_for(log, "ready")
        run(net, "one", [sys.executable, "-c", SEND], tmp_path)
        assert receiver.wait(60) == 0
        received = int(log.read_text().split()[-1])
        assert least <= received <= most
        if loss:
            lost, passed = net.lost("two")
            assert lost == pytest.approx(2000 - received, abs=20)
            assert passed == pytest.approx(received, abs=60)  # names and neighbours are asked for, too


def test_a_cable_is_pulled_out_and_put_in_again(tmp_path: pathlib.Path) -> None:
    call = "import socket; socket.create_connection(('two', 2222), timeout=3).close()"
    listen = (
        "import socket, time; server = socket.create_server(('', 2222)); print('ready', flush=True); time.sleep(99)"
    )
    log = tmp_path / "two.log"
    with hosts.network(NAMES) as net:
        net.start("two", [sys.executable, "-c", listen], env=ENV, cwd=tmp_path, log=log)
        wait_for(log, "ready")
        statuses = []
        for change in (lambda name: None, net.cut, net.mend):
            change("two")
            called = net.start("one", [sys.executable, "-c", call], env=ENV, cwd=tmp_path, log=tmp_path / "one.log")
            statuses.append(called.wait(60))
        assert statuses == [0, 1, 0]


def test_what_a_killed_test_left_is_swept_away() -> None:
    script = (
        "import pathlib, time; from tests.network import hosts\n"
        "with hosts.network({'one': ()}) as net:\n"
        "    log = pathlib.Path('/dev/null')\n"
        "    process = net.start('one', ['sleep', '600'], env={}, cwd=pathlib.Path('/'), log=log)\n"
        "    while process.pid not in net.pids('one'): time.sleep(0.1)\n"
        "    print(net.switch, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as killed:
        switch = killed.stdout.readline().strip()
        hosts.sweep()  # whose owner is alive stays
        assert switch in _namespaces()
        killed.send_signal(signal.SIGKILL)
    prefix = switch.removesuffix(".switch")
    host = f"{prefix}-one"
    (sleeping,) = _output("ip", "netns", "pids", host).split()
    hosts.sweep()
    assert not [name for name in _namespaces() if name.startswith(prefix)]
    assert hosts.state(int(sleeping)) in (None, "Z")
    assert not pathlib.Path("/etc/netns", host).exists()


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _output("ip", "netns", "list").splitlines()]


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
