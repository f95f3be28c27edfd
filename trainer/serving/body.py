"""A request in; its body out, of a bounded size and within a bounded time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from trainer.serving import limits as limits_lib

_LINGER_S = 2.0
_LINGER_BYTES = 64 << 20


class Reader:
    """Knows how many bytes all requests hold together."""

    def __init__(self, limits: limits_lib.Limits) -> None:
        self._limits = limits
        self._buffered_bytes = 0

    async def read(self, request: Request) -> bytes:
        """The whole body, to be given back by `release`.

        Raises:
          Refusal: 413 where it is too large, by its declared length before a byte of it is read; 408 where it takes too
            long, 415 where it is compressed, 503 where all together are too large.
          ClientDisconnect: where the other side has gone.
        """
        largest = self._limits.max_request_bytes
        if request.headers.get("content-encoding", "identity") != "identity":
            raise limits_lib.Refusal(415, "compressed", "the body is compressed: send it as it is")
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > largest):
            raise _too_large(largest)
        try:
            return await asyncio.wait_for(self._collect(request, largest), self._limits.body_timeout_s)
        except asyncio.TimeoutError as error:
            within = f"{self._limits.body_timeout_s:g} s"
            raise limits_lib.Refusal(408, "slow_request", f"the body did not arrive within {within}") from error

    def release(self, content: bytes) -> None:
        self._buffered_bytes -= len(content)

    async def _collect(self, request: Request, largest: int) -> bytes:
        body = bytearray()
        try:
            async for chunk in request.stream():
                self._buffered_bytes += len(chunk)
                body += chunk
                if len(body) > largest:
                    raise _too_large(largest)
                if self._buffered_bytes > self._limits.max_buffered_bytes:
                    raise limits_lib.overloaded("bytes")
        except BaseException:
            self._buffered_bytes -= len(body)
            raise
        return bytes(body)


class LastResponse(JSONResponse):
    """Ends the connection; what is still being sent is read and dropped for a moment.

    Closed at once, the other side would see a reset, and many clients would not read the answer.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers["connection"] = "close"
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        if not any(name == b"expect" for name, _ in scope["headers"]):  # nothing is coming before it is asked for
            await _drop(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drop(receive: Receive) -> None:
    ends = time.monotonic() + _LINGER_S
    dropped = 0
    while dropped < _LINGER_BYTES:
        try:
            message: Any = await asyncio.wait_for(receive(), max(ends - time.monotonic(), 0.001))
        except asyncio.TimeoutError:
            return
        dropped += len(message.get("body", b""))
        if not message.get("more_body", False):
            return


def _too_large(largest: int) -> limits_lib.Refusal:
    return limits_lib.Refusal(413, "request_too_large", f"the body is larger than {largest / 2**20:g} MiB: send less")


__all__ = ["ClientDisconnect", "LastResponse", "Reader"]
