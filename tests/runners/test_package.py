"""Everything workers need travels in the package: a worker that starts in an empty folder writes the same bytes."""

from __future__ import annotations

import pathlib
import subprocess
import tarfile

from tests.runners.conftest import Expected
from tests.runners.worker import clean_environment, make_environment, prepare, result, worker_pool

_PACKAGES = ("configs", "pipeline", "preprocess", "trainer")


def beam_args(address: str) -> str:
    return (
        "--beam_args=--runner=PortableRunner --job_endpoint=embed --environment_type=EXTERNAL "
        f"--environment_config={address}"
    )


def test_the_archive_for_workers_holds_every_module_and_every_data_file(
    project: pathlib.Path, package: pathlib.Path
) -> None:
    with tarfile.open(package) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        str(path.relative_to(project))
        for name in _PACKAGES
        for path in (project / name).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert wanted <= held


def test_the_installed_package_holds_every_module_and_every_data_file(
    project: pathlib.Path, worker_python: pathlib.Path
) -> None:
    (site,) = worker_python.parents[1].glob("lib/python*/site-packages")
    for name in _PACKAGES:
        wanted = {path.relative_to(project) for path in (project / name).rglob("*") if path.is_file()}
        assert [path for path in wanted if path.suffix != ".pyc" and not (site / path).is_file()] == []


def test_a_worker_that_starts_in_an_empty_folder_writes_the_same_bytes(
    worker_python: pathlib.Path, expected: Expected, tmp_path: pathlib.Path
) -> None:
    with worker_pool(worker_python, tmp_path / "empty") as address:
        done = prepare(f"--input={expected.input}", f"--output={tmp_path}/out", "--name=tiny", beam_args(address))
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "out/tiny/1.0.0") == expected.result


def test_workers_have_no_tensorflow(worker_python: pathlib.Path) -> None:
    """So the test above would fail at its first import."""
    done = subprocess.run(
        [worker_python, "-c", "import tensorflow"], env=clean_environment(worker_python), capture_output=True, text=True
    )
    assert "No module named 'tensorflow'" in done.stderr


def test_without_the_package_a_worker_fails_and_says_what_it_lacks(expected: Expected, tmp_path: pathlib.Path) -> None:
    python = make_environment(tmp_path / "venv", package=None)
    with worker_pool(python, tmp_path / "empty") as address:
        done = prepare(f"--input={expected.input}", f"--output={tmp_path}/out", "--name=tiny", beam_args(address))
    assert done.returncode != 0
    assert "No module named 'preprocess'" in done.stderr or "No module named 'pipeline'" in done.stderr
    assert not (tmp_path / "out/tiny/1.0.0").exists()
