"""The real DataflowRunner submits to a stand-in for its service; what it staged runs elsewhere, with equal shards."""

from __future__ import annotations

import pathlib

import pytest
from apache_beam.portability.api import beam_runner_api_pb2

from tests.runners.conftest import Expected
from tests.runners.dataflow_service import dataflow_service
from tests.runners.worker import prepare, result

pytest.importorskip("google.cloud.dataflow_v1beta3", reason="needs what DataflowRunner submits with")


def test_what_dataflow_runner_stages_writes_the_same_shards(
    project: pathlib.Path, expected: Expected, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "staged").mkdir()
    with dataflow_service(tmp_path) as service:
        done = prepare(
            f"--input={expected.input}",
            f"--output={tmp_path}/out",
            "--name=tiny",
            "--beam_args=--runner=DataflowRunner --project=project --region=here --no_auth "
            f"--temp_location={tmp_path}/staged --dataflow_endpoint=http://localhost:{service.port} "
            "--sdk_location=container --sdk_container_image=image --setup_file=./setup.py",
            folder=project,
        )
        worker_log = service.log.read_text() if service.log.exists() else ""
    assert done.returncode == 0, done.stderr + worker_log
    (job,) = service.jobs
    assert job["type"] == 1  # JOB_TYPE_BATCH
    staged = beam_runner_api_pb2.Pipeline.FromString((tmp_path / "staged/pipeline.pb").read_bytes())
    (environment,) = staged.components.environments.values()
    assert beam_runner_api_pb2.DockerPayload.FromString(environment.payload).container_image == "image"
    assert result(tmp_path / "out/tiny/1.0.0") == expected.result
    assert str(expected.result["fingerprint"]) in done.stdout
