"""A folder behind HTTP with ranges, some of whose answers go wrong in ways that are told beforehand."""

from __future__ import annotations

import contextlib
import http.server
import pathlib
import re
import threading
from collections.abc import Iterator


class Server(http.server.ThreadingHTTPServer):
    """`faults` are used up one by one by the requests for contents: a status, "cut", "flip", or "" for none."""

    def __init__(self, root: pathlib.Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.faults: list[str] = []
        self.gets: list[str] = []
        self.ranges = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Clients may hang up."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self.server.gets.append(self.path)
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        fault = self.server.faults.pop(0) if body and self.server.faults else ""
        path = self.server.root / self.path.lstrip("/")
        if fault.isdigit() or not path.is_file():
            self._send(int(fault or 404), b"", {}, 0)
            return
        data, status, headers = path.read_bytes(), 200, {}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and self.server.ranges:
            first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
            if first >= len(data):
                self._send(416, b"", {}, 0)
                return
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        if fault == "flip":
            data = bytes([data[0] ^ 1]) + data[1:]
        sent = data[: len(data) // 2] if fault == "cut" else data
        self._send(status, sent if body else b"", headers, len(data))
        self.close_connection = fault == "cut"

    def _send(self, status: int, body: bytes, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def serving(root: pathlib.Path) -> Iterator[Server]:
    server = Server(root)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
