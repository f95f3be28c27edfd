"""A service in; what answers HTTP for it out: TensorFlow Serving's API, a page for people, and what operators ask."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pipeline import page
from trainer.serving import body, limits, measures, model, people, preparing, rest
from trainer.serving import service as service_lib

# What a page may load or call; its own script and style carry the nonce, so that nothing that gets in can run.
_POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; img-src data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
_CLIENT_GONE = 499  # nginx's: for the counters, nobody reads it

Handler = Callable[[Request, bytes], Awaitable[Response]]


class App:
    """The routes of one service."""

    def __init__(self, service: service_lib.Service, measures: measures.Measures) -> None:
        self._service = service
        self._measures = measures
        self._reader = body.Reader(service.limits)

    def starlette(self) -> Starlette:
        predict = self._route("predict", self._predict)
        about = self._route("model", self._about)
        return Starlette(
            routes=[
                Route("/", self._route("page", self._page), methods=["GET"]),
                Route("/classify", self._route("classify", self._classify), methods=["POST"]),
                Route("/healthz", self._healthz, methods=["GET"]),
                Route("/readyz", self._readyz, methods=["GET"]),
                Route("/metrics", self._metrics, methods=["GET"]),
                Route("/v1/{rest:path}", about, methods=["GET"]),
                Route("/v1/{rest:path}", predict, methods=["POST"]),
            ]
        )

    def _route(self, name: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            start = time.monotonic()
            response = await self._answer(request, handler)
            self._measures.answered(name, response.status_code, time.monotonic() - start)
            return response

        return answer

    async def _answer(self, request: Request, handler: Handler) -> Response:
        content, last = b"", False
        try:
            try:
                content = await self._reader.read(request)
            except limits.Refusal:
                last = True  # the rest of the body is in the way of the connection's next request
                raise
            return await asyncio.wait_for(handler(request, content), self._service.limits.answer_timeout_s)
        except limits.Refusal as refusal:
            return self._refused(refusal, last=last)
        except asyncio.TimeoutError:
            within = f"{self._service.limits.answer_timeout_s:g} s"
            return self._refused(
                limits.Refusal(504, "timeout", f"no answer within {within}: try again", retry_after_s=1)
            )
        except ClientDisconnect:
            self._measures.refused("client_gone")
            return Response(status_code=_CLIENT_GONE)
        except Exception:
            logging.exception("%s %s failed", request.method, request.url.path[:200])
            return self._refused(limits.Refusal(500, "internal_error", "internal error; the server's log says more"))
        finally:
            self._reader.release(content)

    def _refused(self, refusal: limits.Refusal, *, last: bool = False) -> Response:
        # Its frames hold the body and all that was read of it, in a cycle that Python may not look at for a long time.
        refusal.__traceback__ = refusal.__context__ = refusal.__cause__ = None
        self._measures.refused(refusal.reason)
        retry = {} if refusal.retry_after_s is None else {"Retry-After": str(refusal.retry_after_s)}
        response = body.LastResponse if last else JSONResponse
        content = {"error": refusal.message, "reason": refusal.reason}
        return response(content, refusal.status, headers={**_HEADERS, **retry})

    async def _predict(self, request: Request, content: bytes) -> Response:
        served = self._service.served
        card = served.model.card
        asked = rest.target(request.method, request.url.path)
        rest.check_target(asked, name=card.name, version=card.version)
        limit = self._service.limits.max_instances
        # Megabytes of base64 would keep everybody else waiting.
        parse = asyncio.to_thread(rest.parse, content, model.SIGNATURES, max_instances=limit)
        call = await parse
        if call.signature == rest.DEFAULT_SIGNATURE:
            sources = await asyncio.to_thread(rest.binary, call.inputs["image_bytes"])
            rows = await self._service.predict(served, await self._service.prepare(served, sources))
            outputs = _labelled(rows, card.classes)
        else:
            shape = (card.image_size, card.image_size, 3)
            images = await asyncio.to_thread(rest.integers, call.inputs["images"], "images", shape, 0, 255)
            outputs = await self._of_pixels(served, call, images.astype(np.uint8))
        return JSONResponse(rest.answer(call, outputs), headers=_HEADERS)

    async def _of_pixels(self, served: service_lib.Served, call: rest.Call, images: Any) -> dict[str, list[Any]]:
        if call.signature == "heatmap":
            index = rest.integers(call.inputs["class_index"], "class_index", (), 0, len(served.model.card.classes) - 1)
            return {"heatmap": (await self._service.call(served.model.heatmaps, images, index)).tolist()}
        rows = await self._service.predict(served, [preparing.Prepared(pixels, None) for pixels in images])
        return {name: [getattr(row, name).tolist() for row in rows] for name in model.Row._fields}

    async def _about(self, request: Request, content: bytes) -> Response:
        served = self._service.served
        card = served.model.card
        asked = rest.target(request.method, request.url.path)
        rest.check_target(asked, name=card.name, version=card.version)
        if asked.rest == "/metadata":
            spec = {"name": card.name, "signature_name": "", "version": str(card.version)}
            metadata = {"signature_def": {"signature_def": served.model.signature_def}}
            return JSONResponse({"model_spec": spec, "metadata": metadata}, headers=_HEADERS)
        everything = asked.version is None and asked.label is None
        states = service_lib.status(served, self._service.damaged if everything else {})
        return JSONResponse({"model_version_status": states}, headers=_HEADERS)

    async def _classify(self, request: Request, content: bytes) -> Response:
        served = self._service.served
        source = await people.uploaded(request, content)
        prepared = await self._service.prepare(served, [source])
        (row,) = await self._service.predict(served, prepared)
        best = int(row.probabilities.argmax())
        heatmap = await self._service.call(served.model.heatmaps, prepared[0].pixels[np.newaxis], [best])
        answer = await asyncio.to_thread(people.answer, served.model.card, prepared[0].pixels, row, heatmap[0])
        return JSONResponse(answer, headers=_HEADERS)

    async def _page(self, request: Request, content: bytes) -> Response:
        card = self._service.served.model.card
        nonce = secrets.token_urlsafe(16)
        megabytes = self._service.limits.max_request_bytes >> 20
        template = page.environment("trainer").get_template("serve.html")
        text = template.render(card=card, nonce=nonce, megabytes=megabytes)
        return HTMLResponse(text, headers={**_HEADERS, "Content-Security-Policy": _POLICY.format(nonce)})

    async def _healthz(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _readyz(self, request: Request) -> Response:
        ready = self._service.ready
        return PlainTextResponse("ready\n" if ready else "loading the model\n", 200 if ready else 503)

    async def _metrics(self, request: Request) -> Response:
        self._service.observe()
        return Response(self._measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _labelled(rows: list[model.Row], classes: tuple[str, ...]) -> dict[str, list[Any]]:
    """What the signature `serving_default` gives."""
    return {
        "probabilities": [row.probabilities.tolist() for row in rows],
        "label": [classes[int(row.probabilities.argmax())] for row in rows],
        "confidence": [float(row.probabilities.max()) for row in rows],
    }
