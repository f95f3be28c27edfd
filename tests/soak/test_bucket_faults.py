"""The whole job in a bucket that fails, cuts and flips: it ends as a local run, or one line names what can't be had."""

from __future__ import annotations

import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytest

from pipeline import storage
from tests.trainer import bucket_run
from tests.trainer.bucket_run import REPOSITORY, TIMEOUT_S
from tests.trainer.test_bucket_run import upload
from trainer import checkpoint_files as files

pytestmark = pytest.mark.soak
# How a command says that a bucket didn't give something in the end.
NAMED = re.compile(r"(error|trainer \w+): .*gs://bucket/\S+ (can't be reached|arrived damaged)")


class Given(NamedTuple):
    """Shares of requests in the server's flags, and what each seed draws."""

    failures: float = 0.0
    cuts: float = 0.0
    flips: float = 0.0

    def flags(self) -> list[str]:
        return [f"--{name}={share}" for name, share in self._asdict().items()]


@pytest.fixture(scope="module")
def local(digit_folders: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> bucket_run.Result:
    folder = tmp_path_factory.mktemp("local")
    return bucket_run.whole(str(folder / "root"), str(digit_folders), folder)


def shown(name: str, began: float, before: Mapping[str, int], after: Mapping[str, int], outcome: str) -> None:
    counts = {kind: after[kind] - before.get(kind, 0) for kind in after}
    requests = counts.pop("requests")
    wrong = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()) if count)
    print(f"  {name:<9} {time.monotonic() - began:6.1f} s {requests:6,} requests  {outcome:<6} {wrong}", flush=True)


@pytest.mark.parametrize(
    "given",
    [
        *(Given(failures=0.05), Given(failures=0.2), Given(failures=0.4), Given(cuts=0.1), Given(flips=0.1)),
        *(Given(failures=0.2, cuts=0.1, flips=0.1), Given(cuts=0.6, flips=0.6), Given()),
    ],
    ids=str,
)
def test_the_result_is_that_of_a_local_run_or_what_is_missing_is_named(
    serve_bucket: Callable[..., str],
    faults: Callable[[], dict[str, int]],
    local: bucket_run.Result,
    digit_folders: pathlib.Path,
    tmp_path: pathlib.Path,
    given: Given,
) -> None:
    bucket = serve_bucket(*given.flags())
    photos = ""
    print(f"\n{given}")
    for _ in range(20):  # not what is tested: uploads are checked by the server
        try:
            photos = upload(digit_folders, f"{bucket}/photos")
            break
        except ConnectionError:
            continue
    printed: dict[str, str] = {}
    for name, command in {
        "prepare": lambda: bucket_run.prepare(photos, bucket),
        "train": lambda: bucket_run.train(bucket, tmp_path),
        "evaluate": lambda: bucket_run.evaluate(bucket),
        "predict": lambda: bucket_run.predict(bucket, photos),
    }.items():
        began, before = time.monotonic(), faults()
        done: subprocess.CompletedProcess[str] = command()
        shown(name, began, before, faults(), "same" if done.returncode == 0 else "named")
        if done.returncode:
            last = done.stderr.splitlines()[-1]
            print(f"  {last}")
            assert NAMED.match(last), done.stderr[-3000:]
            assert "Traceback" not in done.stderr
            return
        printed[name] = done.stdout
    assert bucket_run.result(bucket, photos, printed["train"], printed["predict"]) == local


def test_killed_in_the_middle_it_goes_on_from_the_bucket(
    serve_bucket: Callable[..., str], local: bucket_run.Result, digit_folders: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    bucket = serve_bucket(*Given(failures=0.1, cuts=0.05, flips=0.05).flags())
    bucket_run.succeeded(bucket_run.prepare(str(digit_folders), bucket))
    command = [sys.executable, "-m", "trainer", *bucket_run.training(bucket, tmp_path)]
    for step in (3, 6):
        with (
            (tmp_path / "log").open("wb") as log,
            subprocess.Popen(command, cwd=REPOSITORY, env=bucket_run.environment(), stderr=log) as process,
        ):
            deadline = time.monotonic() + TIMEOUT_S
            while max((name.step for name in files.names(f"{bucket}/run")), default=0) < step:
                assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    trained = bucket_run.succeeded(bucket_run.train(bucket, tmp_path))
    assert f"weights {local.weights}" in trained
    rows = storage.read_bytes(f"{bucket}/run/history.csv").decode().splitlines()[1:]
    assert [int(row.partition(",")[0]) for row in rows] == [step for step, _ in local.losses]


def test_a_bucket_that_goes_down_ends_every_command_in_time(
    serve_bucket: Callable[..., str], digit_folders: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Two minutes for the request, and the start of the process."""
    bucket = serve_bucket("--failures=1")
    for command in (
        lambda: bucket_run.prepare(str(digit_folders), bucket),
        lambda: bucket_run.train(bucket, tmp_path),
        lambda: bucket_run.evaluate(bucket),
    ):
        began = time.monotonic()
        done: subprocess.CompletedProcess[str] = command()
        last = done.stderr.splitlines()[-1]
        print(f"\n{time.monotonic() - began:.0f} s, status {done.returncode}: {last}")
        assert done.returncode in (1, 2)
        assert NAMED.match(last), done.stderr[-3000:]
        assert "Traceback" not in done.stderr
        assert time.monotonic() - began < 240
