"""Google Cloud Storage's JSON API, as much of it as its Python clients use, in a process of its own that forgets all.

    python tests/preprocess/gcs_server.py [--failures=0.05 --seed=1]

prints its address, for STORAGE_EMULATOR_HOST. Buckets exist when they are named. Generations and preconditions are as
in the service; with --failures some requests are answered 503, half of these after they took effect, as if the answer
got lost.
https://cloud.google.com/storage/docs/json_api/v1
"""

from __future__ import annotations

import argparse
import base64
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
from typing import Any

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
        self.generations = itertools.count(1_700_000_000_000_000)

    def check(self, bucket: str, name: str, query: dict[str, str]) -> Stored | None:
        stored = self.objects.get((bucket, name))
        wanted = query.get("ifGenerationMatch")
        if wanted is not None and int(wanted) != (stored.generation if stored else 0):
            if stored is None and int(wanted):
                raise Failed(404, "No such object")
            raise Failed(412, "At least one of the pre-conditions you specified did not hold.")
        return stored

    def get(self, bucket: str, name: str, query: dict[str, str]) -> Stored:
        stored = self.check(bucket, name, query)
        if stored is None or query.get("generation", str(stored.generation)) != str(stored.generation):
            raise Failed(404, f"No such object: {bucket}/{name}")
        return stored

    def put(self, bucket: str, name: str, data: bytes, query: dict[str, str]) -> dict[str, Any]:
        self.check(bucket, name, query)
        self.objects[bucket, name] = Stored(data, next(self.generations))
        return self.resource(bucket, name)

    def delete(self, bucket: str, name: str, query: dict[str, str]) -> None:
        self.get(bucket, name, query)
        del self.objects[bucket, name]

    def resource(self, bucket: str, name: str) -> dict[str, Any]:
        stored = self.objects[bucket, name]
        crc = struct.pack(">I", google_crc32c.value(stored.data))
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "id": f"{bucket}/{name}/{stored.generation}",
            "generation": str(stored.generation),
            "metageneration": "1",
            "size": str(len(stored.data)),
            "crc32c": base64.b64encode(crc).decode(),
            "md5Hash": base64.b64encode(hashlib.md5(stored.data).digest()).decode(),
            "contentType": "application/octet-stream",
            "storageClass": "STANDARD",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": "2026-01-01T00:00:00.000Z",
        }

    def list(self, bucket: str, query: dict[str, str]) -> dict[str, Any]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        start, limit = query.get("pageToken", ""), int(query.get("maxResults", "1000"))
        names, prefixes = [], set()
        for of_bucket, name in sorted(self.objects):
            if of_bucket == bucket and name.startswith(prefix) and name > start:
                rest = name[len(prefix) :]
                if delimiter and delimiter in rest:
                    prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
                else:
                    names.append(name)
        page = {"kind": "storage#objects", "items": [self.resource(bucket, name) for name in names[:limit]]}
        if len(names) > limit:
            page["nextPageToken"] = names[limit - 1]
        return {**page, "prefixes": sorted(prefixes)}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # headers and body in one packet, else each answer waits 40 ms for an acknowledgement
    service = Service()
    chance = random.Random(0)
    failures = 0.0
    copy_s = 0.0

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        body = self._body()
        if "/rewriteTo/" in self.path:
            time.sleep(self.copy_s)
        with self.service.lock:
            fails = self.failures and self.chance.random() < self.failures
            if fails and self.chance.random() < 0.5:
                self._answer(503, {"error": {"code": 503, "message": "injected, and nothing was done"}})
                return
            try:
                status, answer, headers = self._act(body)
            except Failed as error:
                status, headers = error.status, {}
                answer = {"error": {"code": error.status, "message": str(error)}}
            if fails:
                status, headers = 503, {}
                answer = {"error": {"code": 503, "message": "injected, after it was done"}}
        self._answer(status, answer, headers)

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
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if not isinstance(answer, bytes):
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _act(self, body: bytes) -> tuple[int, Any, dict[str, str]]:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        found = _OBJECTS.fullmatch(url.path)
        if found is None:
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
            return 200, self.service.put(bucket, json.loads(about)["name"], data, query), {}
        upload = str(next(self.service.generations))
        name = query.get("name") or json.loads(body)["name"]
        self.service.uploads[upload] = (bucket, name, query, bytearray())
        self.service.check(bucket, name, query)
        host = self.headers["Host"]
        location = f"http://{host}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={upload}"
        return 200, None, {"Location": location}

    def _continue_upload(self, upload: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        if upload not in self.service.uploads:
            raise Failed(404, "no such upload")
        bucket, name, query, held = self.service.uploads[upload]
        if self.command == "DELETE":
            del self.service.uploads[upload]
            return 499, None, {}
        span, _, total = self.headers.get("Content-Range", f"bytes 0-{len(body) - 1}/{len(body)}")[6:].partition("/")
        if span != "*":
            first = int(span.partition("-")[0])
            held[first:] = body
        if total != "*" and int(total) == len(held):
            return 200, self.service.put(bucket, name, bytes(held), query), {}
        return 308, None, {"Range": f"bytes=0-{len(held) - 1}"} if held else {}


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Clients hang up on questions whose answer no longer matters to them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--failures", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--copy_s", type=float, default=0.0, help="how long copying one object takes")
    given = parser.parse_args()
    Handler.copy_s = given.copy_s
    Handler.failures, Handler.chance = given.failures, random.Random(given.seed)
    server = Server(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
