"""A server's address and a folder of photos in; many requests, some of them hostile, and what became of each, out.

    python -m tests.soak.serving_client load PORT PHOTOS SECONDS RATE   20 a second, say, at even times
    python -m tests.soak.serving_client closed PORT PHOTOS SECONDS 16   16 callers, each of whom asks again at once

Prints JSON. Needs nothing but the standard library, so that it takes little from the server beside it.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import json
import pathlib
import random
import struct
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

TIMEOUT_S = 60
EVERY_HOSTILE = 20  # one request of so many
_FORM = b'--edge\r\nContent-Disposition: form-data; name="image"; filename="<b>x</b>"\r\n\r\n'


async def exchange(port: int, sent: bytes, *, pause_s: float = 0.0, piece: int = 0, hang_up: bool = False) -> int:
    """The status that is answered, 0 where the connection ends without one.

    Args:
      pause_s, piece: sends so many bytes at a time with a pause behind each; 0 pieces: all at once.
      hang_up: leaves after the first piece.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for start in range(0, len(sent), piece or len(sent)):
            writer.write(sent[start : start + (piece or len(sent))])
            await writer.drain()
            if hang_up:
                return 0
            if pause_s:
                await asyncio.sleep(pause_s)
                if reader.at_eof():
                    break
        line = await reader.readline()
        await reader.read()
        return int(line.split()[1]) if line else 0
    except (ConnectionError, OSError):
        return 0
    finally:
        writer.close()


def post(path: str, body: bytes, kind: str = "application/json", declared: int | None = None) -> bytes:
    length = len(body) if declared is None else declared
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}"
    return f"{head}\r\n\r\n".encode() + body


def predict(name: str, *files: bytes) -> bytes:
    instances = [{"b64": base64.b64encode(data).decode()} for data in files]
    return post(f"/v1/models/{name}:predict", json.dumps({"instances": instances}).encode())


def classify(data: bytes) -> bytes:
    return post("/classify", _FORM + data + b"\r\n--edge--\r\n", "multipart/form-data; boundary=edge")


def bomb(side: int) -> bytes:
    """A PNG of `side` squared black pixels, which deflate to a thousandth."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(side * (3 * side + 1)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def hostile(port: int, name: str, photo: bytes) -> dict[str, tuple[Callable[[], Any], set[int]]]:
    """By kind a request, and the statuses that are right for it; 0 is a connection that is cut."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    lying = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + crc
    real_bomb = bomb(9000)
    return {
        "cut off": (lambda: exchange(port, classify(photo[: len(photo) // 3])), {400}),
        "noise": (lambda: exchange(port, predict(name, random.randbytes(20_000))), {400}),
        "damaged": (
            lambda: exchange(port, predict(name, photo[:2000] + random.randbytes(len(photo) - 2000))),
            {200, 400},
        ),
        "bomb": (lambda: exchange(port, classify(real_bomb)), {413}),
        "lying header": (lambda: exchange(port, predict(name, photo, lying)), {400, 413}),
        "oversize": (lambda: exchange(port, post("/classify", bytes(1 << 20), declared=1 << 33)), {413}),
        "oversize, sent": (lambda: exchange(port, classify(bytes(40 << 20))), {413}),
        "text": (lambda: exchange(port, classify(b"<script>alert(1)</script>")), {400}),
        "no form": (lambda: exchange(port, post("/classify", photo, "image/jpeg")), {415}),
        "deep JSON": (lambda: exchange(port, post(f"/v1/models/{name}:predict", b"[" * 200_000)), {400}),
        "many": (lambda: exchange(port, predict(name, *[photo] * 40)), {413}),
        "slow header": (lambda: exchange(port, predict(name, photo)[:60], pause_s=1.0, piece=4), {0}),
        "slow body": (lambda: exchange(port, predict(name, photo), pause_s=2.0, piece=200), {0, 408}),
        "hangs up": (lambda: exchange(port, predict(name, photo), piece=500, hang_up=True), {0}),
        "other path": (lambda: exchange(port, post("/v1/models/other:predict", b"{}")), {404}),
        "garbage": (lambda: exchange(port, b"\x16\x03\x01 not HTTP\r\n\r\n"), {0, 400}),
    }


async def load(port: int, name: str, photos: Sequence[bytes], seconds: float, rate: float) -> dict[str, Any]:
    """Good requests and hostile ones at even times, whether or not earlier ones are answered."""
    kinds = hostile(port, name, photos[0])
    order = list(kinds)
    good: list[tuple[float, float, int]] = []  # when it was sent, how long it took, status
    bad: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    start = time.monotonic()

    async def ask(photo: bytes, page: bool) -> None:
        began = time.monotonic()
        status = await asyncio.wait_for(exchange(port, classify(photo) if page else predict(name, photo)), TIMEOUT_S)
        good.append((began - start, time.monotonic() - began, status))

    async def harm(kind: str) -> None:
        bad[kind][await asyncio.wait_for(kinds[kind][0](), 2 * TIMEOUT_S)] += 1

    tasks = []
    for number in range(round(seconds * rate)):
        await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
        if number % EVERY_HOSTILE == EVERY_HOSTILE - 1:
            tasks.append(asyncio.create_task(harm(order[number // EVERY_HOSTILE % len(order)])))
        else:
            tasks.append(asyncio.create_task(ask(random.choice(photos), page=number % 10 == 0)))
    failed = [str(result) for result in await asyncio.gather(*tasks, return_exceptions=True) if result]
    wrong = {kind: dict(counts) for kind, counts in bad.items() if set(counts) - kinds[kind][1]}
    return {
        "good": good,
        "hostile": {kind: dict(counts) for kind, counts in bad.items()},
        "wrong": wrong,
        "failed": failed,
    }


async def closed(port: int, name: str, photos: Sequence[bytes], seconds: float, callers: int) -> dict[str, Any]:
    """Answers per second to callers who ask again at once."""
    ends = time.monotonic() + seconds
    statuses: collections.Counter[int] = collections.Counter()

    async def call() -> None:
        while time.monotonic() < ends:
            statuses[await exchange(port, predict(name, random.choice(photos)))] += 1

    start = time.monotonic()
    await asyncio.gather(*(call() for _ in range(callers)))
    return {"per_s": statuses[200] / (time.monotonic() - start), "statuses": dict(statuses)}


def main(mode: str, port: str, folder: str, seconds: str, rate: str) -> None:
    random.seed(0)
    paths = sorted(path for path in pathlib.Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    photos = [path.read_bytes() for path in random.sample(paths, min(200, len(paths)))]
    run = load if mode == "load" else closed
    print(json.dumps(asyncio.run(run(int(port), "leaves", photos, float(seconds), int(rate)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
