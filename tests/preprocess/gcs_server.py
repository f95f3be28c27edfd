"""Google Cloud Storage's JSON API, as much of it as its Python clients use, in a process of its own that forgets all.

    python tests/preprocess/gcs_server.py [--failures=0.05 --cuts=0.05 --flips=0.05 --seed=1]

prints its address, for STORAGE_EMULATOR_HOST. Buckets exist when they are named. Generations, preconditions and
checksums are as in the service. Shares of all requests go wrong: --failures are answered 503, half of them after they
took effect, as if the answer got lost; of downloads, --cuts arrive shortened, half of them without a sign of it, and
--flips with a flipped bit. ADDRESS/faults says how many there were, and how many requests were refused.
https://cloud.google.com/storage/docs/json_api/v1
"""

from __future__ import annotations

import argparse
import base64
import collections
import dataclasses
import hashlib
import http.server
import itertools
import json
import random
import re
import struct
import threading
import time
import urllib.parse
from typing import Any, ClassVar

import google_crc32c

_OBJECTS = re.compile(
    r"(?:/upload|/download)?/storage/v1/b/([^/]+)/o(?:/([^/]+))?(?:/(rewriteTo|copyTo)/b/([^/]+)/o/([^/]+))?"
)
_BUCKET = re.compile(r"/storage/v1/b/([^/]+)")


@dataclasses.dataclass(frozen=True)
class Stored:
    data: bytes
    generation: int


class Failed(Exception):  # noqa: N818  # it is an answer
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Service:
    """The objects, and what may be asked of them. One request at a time, so that each is atomic."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.objects: dict[tuple[str, str], Stored] = {}
        self.uploads: dict[str, tuple[str, str, dict[str, str], bytearray]] = {}
        self.finished: dict[str, dict[str, Any]] = {}
        self.generations = itertools.count(1_700_000_000_000_000)

    def check(self, bucket: str, name: str, query: dict[str, str]) -> Stored | None:
        stored = self.objects.get((bucket, name))
        wanted = query.get("ifGenerationMatch")
        if wanted is not None and int(wanted) != (stored.generation if stored else 0):
            raise Failed(412, "At least one of the pre-conditions you specified did not hold.")
        return stored

    def get(self, bucket: str, name: str, query: dict[str, str]) -> Stored:
        stored = self.objects.get((bucket, name))
        if stored is None or query.get("generation", str(stored.generation)) != str(stored.generation):
            raise Failed(404, f"No such object: {bucket}/{name}")
        self.check(bucket, name, query)
        return stored

    def put(
        self, bucket: str, name: str, data: bytes, query: dict[str, str], sums: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """`sums` are what the client says of the content: crc32c and md5Hash, in base64."""
        self.check(bucket, name, query)
        for kind, value in checksums(data).items():
            if (sums or {}).get(kind, value) != value:
                raise Failed(400, f"Provided {kind} hash does not match calculated hash {value}.")
        self.objects[bucket, name] = Stored(data, next(self.generations))
        return self.resource(bucket, name)

    def delete(self, bucket: str, name: str, query: dict[str, str]) -> None:
        self.get(bucket, name, query)
        del self.objects[bucket, name]

    def resource(self, bucket: str, name: str) -> dict[str, Any]:
        stored = self.objects[bucket, name]
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "id": f"{bucket}/{name}/{stored.generation}",
            "generation": str(stored.generation),
            "metageneration": "1",
            "size": str(len(stored.data)),
            **checksums(stored.data),
            "contentType": "application/octet-stream",
            "storageClass": "STANDARD",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": "2026-01-01T00:00:00.000Z",
        }

    def list(self, bucket: str, query: dict[str, str]) -> dict[str, Any]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        start, limit = query.get("pageToken", ""), int(query.get("maxResults", "1000"))
        found: dict[str, bool] = {}  # whether it is an object; else a prefix, which stands for all behind it
        for of_bucket, name in sorted(self.objects):
            if of_bucket == bucket and name.startswith(prefix):
                first, mark, _ = name[len(prefix) :].partition(delimiter or "\0")
                found.setdefault(prefix + first + mark, not mark)
        names = [name for name in found if name > start]
        page: dict[str, Any] = {"kind": "storage#objects"}
        if items := [self.resource(bucket, name) for name in names[:limit] if found[name]]:
            page["items"] = items
        if prefixes := [name for name in names[:limit] if not found[name]]:
            page["prefixes"] = prefixes
        if len(names) > limit:
            page["nextPageToken"] = names[limit - 1]
        return page


def checksums(data: bytes) -> dict[str, str]:
    sums = {
        "crc32c": struct.pack(">I", google_crc32c.value(data)),
        "md5Hash": hashlib.md5(data).digest(),
    }
    return {kind: base64.b64encode(value).decode() for kind, value in sums.items()}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # headers and body in one packet, else each answer waits 40 ms for an acknowledgement
    service = Service()
    chance = random.Random(0)
    faults: ClassVar[collections.Counter[str]] = collections.Counter()
    failures = cuts = flips = 0.0
    copy_s = 0.0

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        body = self._body()
        if self.path == "/faults":
            self._answer(200, dict(self.faults))
            return
        if "/rewriteTo/" in self.path:
            time.sleep(self.copy_s)
        with self.service.lock:
            self.faults["requests"] += 1
            failure = self._fault(self.failures, "503 before", "503 after")
            if failure == "503 before":
                self._answer(503, {"error": {"code": 503, "message": "injected, and nothing was done"}})
                return
            try:
                status, answer, headers = self._act(body)
            except Failed as error:
                self.faults[f"status {error.status}"] += 1
                status, headers = error.status, {}
                answer = {"error": {"code": error.status, "message": str(error)}}
            if failure:
                status, headers = 503, {}
                answer = {"error": {"code": 503, "message": "injected, after it was done"}}
        self._answer(status, answer, headers)

    def _fault(self, share: float, *kinds: str) -> str:
        """One of `kinds` for that share of all calls, else ""."""
        if not share or self.chance.random() >= share:
            return ""
        kind = self.chance.choice(kinds)
        self.faults[kind] += 1
        return kind

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815  # http.server's names

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        data = answer if isinstance(answer, bytes) else b"" if answer is None else json.dumps(answer).encode()
        announced = len(data)
        if self.command == "GET" and status < 300 and data and self.path != "/faults":
            # Of JSON there is no checksum, only TLS keeps it whole: where it is cut, that shows.
            cut = self._fault(self.cuts, "cut", *(["cut unseen"] if isinstance(answer, bytes) else []))
            data = data[: len(data) // 2] if cut else data
            announced = len(data) if cut == "cut unseen" else announced
            if isinstance(answer, bytes) and data and self._fault(self.flips, "flip"):
                place = self.chance.randrange(len(data))
                data = data[:place] + bytes([data[place] ^ 1 << self.chance.randrange(8)]) + data[place + 1 :]
            self.close_connection = self.close_connection or bool(cut)
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if not isinstance(answer, bytes):
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        self.wfile.write(data)

    def _act(self, body: bytes) -> tuple[int, Any, dict[str, str]]:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        found = _OBJECTS.fullmatch(url.path)
        if found is None:
            if self.command == "POST" and url.path == "/storage/v1/b":
                return 200, {"kind": "storage#bucket", "name": json.loads(body)["name"]}, {}
            if bucket := _BUCKET.fullmatch(url.path):
                return 200, {"kind": "storage#bucket", "name": bucket[1], "id": bucket[1], "location": "US"}, {}
            raise Failed(404, f"not served here: {self.command} {self.path}")
        bucket, name, verb, to_bucket, to_name = (part and urllib.parse.unquote(part) for part in found.groups())
        if verb:
            data = self.service.get(bucket, name, {}).data
            resource = self.service.put(to_bucket, to_name, data, query)
            if verb == "copyTo":
                return 200, resource, {}
            size = str(len(data))
            done = {"kind": "storage#rewriteResponse", "totalBytesRewritten": size, "objectSize": size, "done": True}
            return 200, {**done, "resource": resource}, {}
        if url.path.startswith("/upload/") or "upload_id" in query:
            return self._upload(bucket, query, body)
        if self.command == "DELETE":
            self.service.delete(bucket, name, query)
            return 204, None, {}
        if name is None:
            return 200, self.service.list(bucket, query), {}
        stored = self.service.get(bucket, name, query)
        if query.get("alt") == "media":
            return self._media(bucket, name, stored)
        return 200, self.service.resource(bucket, name), {}

    def _media(self, bucket: str, name: str, stored: Stored) -> tuple[int, bytes, dict[str, str]]:
        resource = self.service.resource(bucket, name)
        headers = {
            "Content-Type": "application/octet-stream",
            "X-Goog-Hash": f"crc32c={resource['crc32c']},md5={resource['md5Hash']}",
            "X-Goog-Generation": resource["generation"],
            "X-Goog-Stored-Content-Length": resource["size"],
        }
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return 200, stored.data, headers
        first, last = int(wanted[1]), int(wanted[2] or len(stored.data) - 1)
        if first >= len(stored.data):
            raise Failed(416, "The requested range cannot be satisfied.")
        part = stored.data[first : last + 1]
        headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(stored.data)}"
        return 206, part, headers

    def _upload(self, bucket: str, query: dict[str, str], body: bytes) -> tuple[int, Any, dict[str, str]]:
        if "upload_id" in query:
            return self._continue_upload(query["upload_id"], body)
        if query["uploadType"] == "media":
            return 200, self.service.put(bucket, query["name"], body, query), {}
        if query["uploadType"] == "multipart":
            mark = b"--" + self.headers.get_param("boundary").encode()
            parts = body.split(mark)[1:3]
            end = b"\r\n" if parts[0].startswith(b"\r\n") else b"\n"  # the one client's, or the other's
            about, data = (part.split(2 * end, 1)[1].removesuffix(end) for part in parts)
            said = json.loads(about)
            return 200, self.service.put(bucket, said["name"], data, query, said), {}
        upload = str(next(self.service.generations))
        name = query.get("name") or json.loads(body)["name"]
        self.service.check(bucket, name, query)
        self.service.uploads[upload] = (bucket, name, query, bytearray())
        host = self.headers["Host"]
        location = f"http://{host}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={upload}"
        return 200, None, {"Location": location}

    def _continue_upload(self, upload: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        if upload not in self.service.uploads:
            raise Failed(404, "no such upload")
        if upload in self.service.finished:  # whose answer got lost
            return 200, self.service.finished[upload], {}
        bucket, name, query, held = self.service.uploads[upload]
        if self.command == "DELETE":
            del self.service.uploads[upload]
            return 499, None, {}
        span, _, total = self.headers.get("Content-Range", f"bytes 0-{len(body) - 1}/{len(body)}")[6:].partition("/")
        if span != "*":
            first = int(span.partition("-")[0])
            held[first:] = body
        if total != "*" and int(total) == len(held):
            said = dict(pair.split("=", 1) for pair in self.headers.get("X-Goog-Hash", "").split(",") if pair)
            self.service.finished[upload] = self.service.put(bucket, name, bytes(held), query, said)
            return 200, self.service.finished[upload], {}
        return 308, None, {"Range": f"bytes=0-{len(held) - 1}"} if held else {}


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Clients hang up on questions whose answer no longer matters to them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("failures", "cuts", "flips"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--copy_s", type=float, default=0.0, help="how long copying one object takes")
    given = parser.parse_args()
    Handler.copy_s = given.copy_s
    Handler.failures, Handler.cuts, Handler.flips = given.failures, given.cuts, given.flips
    Handler.chance = random.Random(given.seed)
    server = Server(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
