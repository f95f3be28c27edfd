"""The package as Beam's --setup_file builds it, an environment with it, and what one process here writes."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.stager import Stager

from tests.runners.worker import copy_project, make_environment, prepare, result


@dataclasses.dataclass(frozen=True)
class Expected:
    input: pathlib.Path
    result: dict[str, object]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return copy_project(tmp_path_factory.mktemp("project") / "shardline")


@pytest.fixture(scope="session")
def package(project: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The archive that Beam sends to workers."""
    folder = tmp_path_factory.mktemp("staged")
    options = PipelineOptions([f"--setup_file={project / 'setup.py'}", "--sdk_location=container"])
    Stager.create_job_resources(options, str(folder))
    (archive,) = folder.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="session")
def worker_python(package: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return make_environment(tmp_path_factory.mktemp("worker") / "venv", package)


@pytest.fixture(scope="session")
def expected(digit_folders: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    """240 digits and a damaged file, prepared by one process here."""
    (digit_folders / "0" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    output = tmp_path_factory.mktemp("expected")
    done = prepare(f"--input={digit_folders}", f"--output={output}", "--name=tiny")
    assert done.returncode == 0, done.stderr
    return Expected(digit_folders, result(output / "tiny/1.0.0"))
