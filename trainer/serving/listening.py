"""An address in; a socket that listens there, before anything heavy is imported, out."""

from __future__ import annotations

import ipaddress
import socket

from pipeline.errors import InputError

_BACKLOG = 1024  # connections that wait to be accepted while the event loop is busy


def listen(host: str, port: int) -> socket.socket:
    """Raises InputError where the address can't be had; port 0 is any free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise InputError(
            f"--host={host} --port={port}: {error.strerror or error}; choose another, or port 0"
        ) from error


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
