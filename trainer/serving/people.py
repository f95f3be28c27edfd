"""An upload of the page in; the likeliest classes, in words and numbers, and two pictures out."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette import formparsers
from starlette.datastructures import UploadFile
from starlette.requests import Request

from trainer.explanation import overlay
from trainer.serving import exports, limits, model

TOP = 3
FIELD = "image"

# Under one half, another class or several together are as likely; the words must not sound surer than the numbers.
_LIKELY = 0.5
_SURE = 0.9


async def uploaded(request: Request, content: bytes) -> bytes:
    """The file in the field `image` of a form (multipart/form-data); its name is not looked at.

    Raises:
      Refusal: 400 where there is none, 415 for another kind of body.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise limits.Refusal(415, "not_a_form", f"expected multipart/form-data with a file in the field {FIELD!r}")

    async def once() -> AsyncGenerator[bytes, None]:
        yield content

    parser = formparsers.MultiPartParser(request.headers, once(), max_files=1, max_fields=4)
    parser.spool_max_size = len(content) + 1  # it is in memory already, and the disk may be read-only
    try:
        form = await parser.parse()
    except formparsers.MultiPartException as error:
        raise limits.Refusal(400, "bad_form", f"{error.message} Expected one file in the field {FIELD!r}") from error
    upload = form.get(FIELD)
    if not isinstance(upload, UploadFile):
        raise limits.Refusal(400, "bad_form", f"the form has no file in the field {FIELD!r}")
    with upload.file as file:
        data: bytes = file.read()
    return data


def answer(
    card: exports.Card, pixels: npt.NDArray[np.uint8], row: model.Row, heatmap: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """What the page shows, as JSON.

    Args:
      pixels: uint8 [s, s, 3], what the model saw.
      heatmap: float32 [h, w] in 0..1, of the likeliest class.
    """
    best = row.probabilities.argsort()[::-1][:TOP]
    top = [{"class": card.classes[index], "confidence": float(row.probabilities[index])} for index in best]
    return {
        "version": card.version,
        "words": words(top[0]["class"], top[0]["confidence"]),
        "top": top,
        "picture": _uri(pixels),
        "overlay": _uri(overlay.overlay(pixels, np.clip(heatmap, 0, 1))),
    }


def words(name: str, confidence: float) -> str:
    """One sentence that is as sure as the model; its confidence is calibrated."""
    if confidence >= _SURE:
        return f"This looks like {name}."
    if confidence >= _LIKELY:
        return f"This is probably {name}, but it may be something else."
    return f"The model is not sure. Its best guess is {name}."


def _uri(image: npt.NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(overlay.png(image)).decode("ascii")
