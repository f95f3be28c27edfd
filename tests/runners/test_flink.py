"""The job on a real Flink cluster: `make test-flink` fetches it, since 157 MB of jars are no part of `make test`."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import subprocess
import tarfile
from collections.abc import Iterator

import pytest

from infra.flink.local_cluster import JARS, SLOTS, local_cluster
from tests.runners.conftest import Expected
from tests.runners.worker import prepare, result, worker_pool

pytestmark = pytest.mark.flink

_TIMEOUT_S = 300.0


@dataclasses.dataclass(frozen=True)
class Cluster:
    beam_args: str
    folder: pathlib.Path  # with the logs

    def prepare(self, *flags: str) -> subprocess.CompletedProcess[str]:
        try:
            return prepare(*flags, self.beam_args, timeout_s=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"no end after {_TIMEOUT_S:.0f} s" + self.logs())

    def logs(self) -> str:
        """The end of each log; what a job waits for stands in the worker pool's."""
        return "".join(f"\n== {log.name}\n{log.read_text()[-3000:]}" for log in sorted(self.folder.rglob("*.log")))


@pytest.fixture(scope="module")
def cluster(worker_python: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not shutil.which("java") or not JARS.is_dir():
        pytest.skip("needs java and the jars that `make test-flink` fetches with mvn")
    folder = tmp_path_factory.mktemp("cluster")
    with local_cluster(folder / "flink") as job_server, worker_pool(worker_python, folder / "empty") as workers:
        yield Cluster(
            f"--beam_args=--runner=PortableRunner --job_endpoint={job_server} --parallelism={SLOTS} "
            f"--environment_cache_millis=60000 --environment_type=EXTERNAL --environment_config={workers}",
            folder,
        )


def test_flink_writes_the_same_shards(cluster: Cluster, expected: Expected, tmp_path: pathlib.Path) -> None:
    done = cluster.prepare(f"--input={expected.input}", f"--output={tmp_path}/out", "--name=tiny")
    assert done.returncode == 0, done.stderr + cluster.logs()
    assert result(tmp_path / "out/tiny/1.0.0") == expected.result


def test_flink_writes_the_same_shards_of_photos(cluster: Cluster, shared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    root = tmp_path / "in"
    with tarfile.open(shared / "data/banana-leaf.tar") as archive:
        archive.extractall(root, filter="data")
    folders = root / "banana-leaf" if (root / "banana-leaf").is_dir() else root
    flags = (f"--input={folders}", "--name=leaves")
    here = prepare(*flags, f"--output={tmp_path}/here")
    there = cluster.prepare(*flags, f"--output={tmp_path}/there")
    assert (here.returncode, there.returncode) == (0, 0), here.stderr + there.stderr + cluster.logs()
    assert result(tmp_path / "there/leaves/1.0.0") == result(tmp_path / "here/leaves/1.0.0")


def test_a_refusal_on_flink_is_one_line(cluster: Cluster, expected: Expected, tmp_path: pathlib.Path) -> None:
    for name, source in (("ant", "1"), ("bee", "2")):
        (tmp_path / "in" / name).mkdir(parents=True)
        shutil.copy(next((expected.input / source).glob("*.png")), tmp_path / "in" / name)
    done = cluster.prepare(f"--input={tmp_path}/in", f"--output={tmp_path}/out", "--name=tiny")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr + cluster.logs()
    assert done.stderr.splitlines()[-1].startswith("error: a classifier needs two classes with usable images")
    assert not (tmp_path / "out/tiny/1.0.0").exists()
