"""A stand-in for Dataflow's service on loopback: takes the real runner's job and runs the pipeline it staged.

It answers what DataflowRunner asks (create, get, messages, metrics):
https://cloud.google.com/dataflow/docs/reference/rest/v1b3/projects.locations.jobs
"""

from __future__ import annotations

import contextlib
import http.server
import json
import pathlib
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

from tests.runners.worker import clean_environment, make_environment, stop

_RUN_STAGED = pathlib.Path(__file__).with_name("run_staged.py")


class Service:
    """Holds one job. Its worker gets only what the runner staged, in an environment made for it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.port = 0
        self.log = folder / "worker.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._folder = folder

    def create(self, job: dict[str, Any]) -> dict[str, Any]:
        self.jobs.append(job)
        staged = pathlib.Path(job["environment"]["sdkPipelineOptions"]["options"]["temp_location"])
        (archive,) = staged.glob("*.tar.gz")
        python = make_environment(self._folder / "venv", archive)
        empty = self._folder / "empty"
        empty.mkdir()
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                [python, _RUN_STAGED, staged / "pipeline.pb"],
                cwd=empty,
                env=clean_environment(python),
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        return self.state()

    def state(self) -> dict[str, Any]:
        status = self.process.poll() if self.process else None
        state = "RUNNING" if status is None else "FAILED" if status else "DONE"
        return {"id": "one", "name": self.jobs[0]["name"], "currentState": f"JOB_STATE_{state}"}


@contextlib.contextmanager
def dataflow_service(folder: pathlib.Path) -> Iterator[Service]:
    service = Service(folder)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(service.create(body) if self.path.partition("?")[0].endswith("/jobs") else {})

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            self._answer({} if path.endswith(("/messages", "/metrics")) else service.state())

        def _answer(self, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    service.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        if service.process:
            stop(service.process)
