"""Several hosts played on this machine: names in; network namespaces on one switch, and faults of their links, out.

A host is a network namespace with one interface, a host name, and a hosts file in the place of DNS. The switch is a
bridge in a namespace of its own, so that nothing of all this meets this machine's interfaces, addresses or routes.

Packets are lost by nftables and not by `tc netem`, whose kernel module is often missing. Large segments are turned off,
or one of them would be lost whole, 64 kB at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence

_INTERFACE = "eth0"
_SUBNET = "10.77.0"  # seen inside these namespaces only
_PREFIX = "shardline"
_NAMES = pathlib.Path("/etc/netns")  # `ip netns exec` shows the files of its NAMESPACE folder as those of /etc
_numbers = itertools.count()


@functools.cache
def missing() -> str | None:
    """What this machine lacks to play hosts, None where nothing is missing."""
    if os.geteuid():
        return "needs root, for network namespaces"
    for tool, package in (("ip", "iproute2"), ("nft", "nftables"), ("unshare", "util-linux")):
        if not shutil.which(tool):
            return f"needs {tool}: apt-get install {package}"
    try:
        with network({"probe": ()}) as net:
            net.lose("probe", 0.5)
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {(error.stderr or str(error)).strip().splitlines()[-1]}"
    return None


@dataclasses.dataclass(frozen=True)
class Host:
    name: str
    namespace: str
    address: str
    port: str  # the switch's end of its cable


@dataclasses.dataclass(frozen=True)
class Network:
    switch: str
    hosts: Mapping[str, Host]

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: pathlib.Path,
        log: pathlib.Path,
    ) -> subprocess.Popen[bytes]:
        """Starts a process on a host, with `env` and nothing else, in a group of its own; its output goes to `log`."""
        host = self.hosts[name]
        # Each of these runs the next one in its own place: the process id is the command's.
        renamed = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name, *command]
        with log.open("ab") as stream:
            return subprocess.Popen(
                ["ip", "netns", "exec", host.namespace, *renamed],
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def pids(self, name: str) -> list[int]:
        """All processes on a host, those that its processes started included."""
        return _pids(self.hosts[name].namespace)

    def cut(self, name: str) -> None:
        """Pulls the host's cable out at the switch: what is sent is gone, and nobody is told."""
        _ip("-n", self.switch, "link", "set", self.hosts[name].port, "down")

    def mend(self, name: str) -> None:
        _ip("-n", self.switch, "link", "set", self.hosts[name].port, "up")

    def lose_answers(self, name: str, *, port: int) -> None:
        """From now on nothing with content comes from the host's `port`; that it has heard what it was told does."""
        interface = self.hosts[name].port
        rules = (
            f"table netdev answers {{ chain lost {{ type filter hook ingress device {interface} priority 0; "
            f"tcp sport {port} ip length > 100 drop; }}; }}"
        )
        _run("ip", "netns", "exec", self.switch, "nft", rules)

    def find_answers(self) -> None:
        _run("ip", "netns", "exec", self.switch, "nft", "delete", "table", "netdev", "answers")

    def lose(self, name: str, share: float) -> None:
        """Of the packets to the host, and of those from it, from now on so many are lost at random."""
        host = self.hosts[name]
        for namespace, interface in ((host.namespace, _INTERFACE), (self.switch, host.port)):
            rules = (
                f"table netdev {interface} {{ chain lossy {{ type filter hook ingress device {interface} priority 0; "
                f"numgen random mod 1000 < {round(1000 * share)} counter drop; counter; }}; }}"
            )
            _run("ip", "netns", "exec", namespace, "nft", rules)

    def lost(self, name: str) -> tuple[int, int]:
        """(lost, all others) packets to and from the host since `lose`."""
        host, counted = self.hosts[name], []
        for namespace, interface in ((host.namespace, _INTERFACE), (self.switch, host.port)):
            rules = _run("ip", "netns", "exec", namespace, "nft", "list", "table", "netdev", interface)
            counted.append([int(packets) for packets in re.findall(r"counter packets (\d+)", rules)])
        lost, passed = map(sum, zip(*counted, strict=True))
        return lost, passed


@contextlib.contextmanager
def network(names: Mapping[str, Sequence[str]]) -> Iterator[Network]:
    """Hosts that know each other by name, from a host's name to its other names; gone afterwards with all processes.

    What a test that was killed left behind is removed first.
    """
    sweep()
    prefix = f"{_PREFIX}-{os.getpid()}-{_started(os.getpid())}-{next(_numbers)}"
    hosts = {
        name: Host(name, f"{prefix}-{name}", f"{_SUBNET}.{index + 1}", f"port{index}")
        for index, name in enumerate(names)
    }
    switch = f"{prefix}.switch"  # a host's name has no dot
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        known = "".join(f"{host.address} {' '.join([name, *names[name]])}\n" for name, host in hosts.items())
        for host in hosts.values():
            _plug_in(host, switch)
            folder = _NAMES / host.namespace
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(f"127.0.0.1 localhost\n{known}")
            (folder / "resolv.conf").write_text("")  # nobody else is asked
        yield Network(switch, hosts)
    finally:
        for namespace in (*(host.namespace for host in hosts.values()), switch):
            _remove(namespace)


def _plug_in(host: Host, switch: str) -> None:
    _ip("netns", "add", host.namespace)
    ends = ("type", "veth", "peer", "name", host.port, "netns", switch)
    _ip("-n", host.namespace, "link", "add", _INTERFACE, *ends)
    _ip("-n", host.namespace, "link", "set", _INTERFACE, "gso_max_segs", "1")
    _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", _INTERFACE)
    for interface in ("lo", _INTERFACE):
        _ip("-n", host.namespace, "link", "set", interface, "up")
    _ip("-n", switch, "link", "set", host.port, "master", "bridge", "up")


def sweep() -> None:
    """Removes what test processes that are no more left behind."""
    for line in _ip("netns", "list").splitlines():
        namespace = line.split()[0]
        owner = re.match(rf"{_PREFIX}-(\d+)-(\d+)-\d+[-.]", namespace)
        if owner and _started(int(owner[1])) != int(owner[2]):
            _remove(namespace)


def _remove(namespace: str) -> None:
    shutil.rmtree(_NAMES / namespace, ignore_errors=True)
    if not pathlib.Path("/run/netns", namespace).exists():
        return
    while pids := _pids(namespace):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    _ip("netns", "delete", namespace)


def _pids(namespace: str) -> list[int]:
    return [int(pid) for pid in _ip("netns", "pids", namespace).split() if state(int(pid)) not in (None, "Z")]


def state(pid: int) -> str | None:
    """R, S, T, Z … as `proc(5)` has it; None where there is no such process."""
    fields = _stat(pid)
    return fields[0] if fields else None


def _started(pid: int) -> int | None:
    """When, in clock ticks since boot: together with its number it names a process once and for all."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def _stat(pid: int) -> list[str]:
    """The fields of `/proc/PID/stat` from the state on; none where there is no such process."""
    try:
        # A program's name stands in parentheses, and may hold any.
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
