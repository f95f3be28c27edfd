"""A working directory and an address in; a server until SIGTERM, which lets what has begun end, out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from types import FrameType

import uvicorn
from uvicorn.protocols.http import h11_impl

from trainer.serving import app, limits, measures, service


def serve(*, workdir: str, listener: socket.socket, limits: limits.Limits, poll_s: float) -> None:
    """Serves the newest export, and each newer one from the moment it is complete.

    Args:
      poll_s: how often the folder is looked into.

    Raises:
      InputError: where there is no sound export to begin with.
      SystemExit: 0, on SIGTERM or Ctrl-C.
    """
    # uvicorn ends in an orderly way and then gives the signal to whoever would have had it; before it listens and
    # after, there is nothing to end in an orderly way.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    asyncio.run(Running(workdir, limits).until_told(listener, poll_s=poll_s))


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


class Running:
    """A service and the server in front of it."""

    def __init__(self, workdir: str, limits: limits.Limits) -> None:
        counted = measures.Measures()
        self.service = service.Service(workdir, limits=limits, measures=counted)
        self.server = uvicorn.Server(
            uvicorn.Config(
                app.App(self.service, counted).starlette(),
                http=_protocol(limits.header_timeout_s),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=limits.max_connections,
                timeout_graceful_shutdown=round(limits.body_timeout_s + limits.answer_timeout_s),
            )
        )
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it notes every start and every garbled request

    async def until_told(self, listener: socket.socket, *, poll_s: float) -> None:
        """Until a signal, or `server.should_exit`; raises InputError where there is nothing to serve."""
        watching = asyncio.create_task(self._watch(listener, poll_s))
        try:
            await self.server.serve(sockets=[listener])
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            self.service.close()

    async def _watch(self, listener: socket.socket, poll_s: float) -> None:
        try:
            await self.service.refresh()
        except BaseException:
            self.server.should_exit = True  # nothing to serve: `until_told` raises it
            raise
        host, port = listener.getsockname()[:2]
        print(f"ready at http://{f'[{host}]' if ':' in host else host}:{port}/", flush=True)
        while True:
            await asyncio.sleep(poll_s)
            try:
                await self.service.refresh()
            except Exception:  # what is served goes on, whatever is wrong with the next
                logging.exception("can't look for newer exports")


def _protocol(header_timeout_s: float) -> type[asyncio.Protocol]:
    """uvicorn's, which would wait for ever for the end of a request's headers (slow loris)."""

    class Protocol(h11_impl.H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch_headers()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch_headers()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._deadline is not None:
                self._deadline.cancel()

        def _watch_headers(self) -> None:
            waits = self.cycle is None or self.cycle.response_complete
            if not waits and self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
            elif waits and self._deadline is None:
                self._deadline = self.loop.call_later(header_timeout_s, self._give_up)

        def _give_up(self) -> None:
            self._deadline = None
            self.transport.abort()

    return Protocol
