"""What Dataflow's launcher runs, with the arguments that it adds: the real runner writes a job down and starts none."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
pytest.importorskip("google.cloud.dataflow_v1beta3", reason="needs what DataflowRunner submits with")


def launch(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "infra/dataflow/template.py", *arguments]
    return subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600
    )


def test_the_launchers_arguments_stage_a_job(tmp_path: pathlib.Path) -> None:
    (tmp_path / "staged").mkdir()
    for number in range(6):
        photo = tmp_path / "photos" / ("cats", "dogs")[number % 2] / f"{number}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(photo)
    done = launch(
        tmp_path,
        f"--input={tmp_path}/photos",
        "--splits=train=1/3,validation=1/3,test=1/3",
        f"--output={tmp_path}/out",
        "--name=pets",
        "--overwrite=false",
        "--runner=DataflowRunner",
        "--project=project",
        "--region=here",
        "--job_name=pets-1",
        f"--temp_location={tmp_path}/staged",
        f"--template_location={tmp_path}/job.json",
        "--sdk_container_image=registry.example/worker:1",
        # A bucket would be asked for, and credentials, if this were not a service of our own.
        "--dataflow_endpoint=http://localhost:1",
        "--no_auth",
    )
    assert done.returncode == 0, done.stderr
    job = json.loads((tmp_path / "job.json").read_text(encoding="utf-8"))
    assert (job["name"], job["type"]) == ("pets-1", "JOB_TYPE_BATCH")
    staged = beam_runner_api_pb2.Pipeline.FromString((tmp_path / "staged/pipeline.pb").read_bytes())
    (environment,) = staged.components.environments.values()
    payload = beam_runner_api_pb2.DockerPayload.FromString(environment.payload)
    assert payload.container_image == "registry.example/worker:1"
    assert not (tmp_path / "out/pets/1.0.0").exists()


def test_what_is_neither_a_flag_nor_beams_is_refused(tmp_path: pathlib.Path) -> None:
    done = launch(tmp_path, "--input=photos", "--output=out", "--name=pets", "--shard_byte=7")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
