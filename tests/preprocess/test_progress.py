"""What a running job says, from real pipelines in this process and in worker processes."""

from __future__ import annotations

import io
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from preprocess import progress
from tests.preprocess.folders import REPOSITORY

LISTED, INSPECTED, WRITTEN = progress.STAGES


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def count_batch(size: int) -> int:
    """A worker's step: what it counts has been said on the screen long before it ends."""
    progress.count(progress.FILES_INSPECTED, size)
    progress.count_left_out("quarantined", "cannot_decode", 2)
    progress.count_left_out("duplicate", "")
    time.sleep(0.5)
    return size


def wait_for_a_line(stream: io.StringIO) -> None:
    deadline = time.monotonic() + 30
    while not stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)


def add_job(pipeline: beam.Pipeline) -> None:
    _ = (
        pipeline
        | beam.Create([10, 20, 30, 40])
        | "Spread" >> beam.Reshuffle()
        | "Count" >> beam.Map(count_batch)
        | "After" >> beam.combiners.Count.Globally()
        | beam.Map(lambda _: progress.count(progress.FILES_SEEN, 1000))
    )


def test_lines_appear_while_the_job_runs_in_this_process() -> None:
    stream = io.StringIO()
    pipeline = beam.Pipeline(runner=FnApiRunner())
    add_job(pipeline)
    with progress.shown(stream, period_s=0.1):
        result = pipeline.run()
    sizes = [int(line.split()[1]) for line in stream.getvalue().splitlines() if line.startswith("inspected")]
    assert sizes == sorted(sizes)
    assert {0 < size < 100 for size in sizes} >= {True}
    assert progress._FOLDER not in os.environ
    counters = {found.key.metric.name: found.committed for found in result.metrics().query(MetricsFilter())["counters"]}
    assert counters == {
        "files_inspected": 100,
        "files_seen": 1000,
        "quarantined": 8,
        "quarantined_cannot_decode": 8,
        "duplicates": 4,
    }


def test_nothing_is_said_or_left_behind_after_the_job(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stream = Terminal()

    def fail_halfway() -> None:
        with progress.shown(stream, period_s=0.02):
            progress.count(progress.FILES_SEEN, 7)
            assert [path.name for folder in tmp_path.iterdir() for path in folder.iterdir()] == [str(os.getpid())]
            wait_for_a_line(stream)
            progress.count(progress.FILES_SEEN, 2)
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()
    said = stream.getvalue()
    assert said.endswith("\r\x1b[Klisted 9 files\n")
    assert said.count("\n") == 1
    progress.count(progress.FILES_SEEN, 1)
    time.sleep(0.1)
    assert stream.getvalue() == said
    assert list(tmp_path.iterdir()) == []


def test_a_second_job_of_one_process_begins_at_nothing() -> None:
    for _ in range(2):
        with progress.shown(stream := io.StringIO(), period_s=0.02):
            progress.count(progress.FILES_SEEN, 5)
            wait_for_a_line(stream)
        assert set(stream.getvalue().splitlines()) == {"listed 5 files"}


def test_counting_never_fails_for_want_of_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(progress._FOLDER, "/nowhere/at/all")
    progress.count(progress.FILES_SEEN, 5)

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with progress.shown(Closed(), period_s=0.01):
        progress.count(progress.FILES_SEEN, 5)
        time.sleep(0.05)


def test_a_short_job_says_nothing_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown():
        progress.count(progress.FILES_SEEN, 5)
        time.sleep(0.7)
    assert capsys.readouterr().err == ""


def test_speed_and_time_left() -> None:
    display = progress.Display()
    sums = {"files_seen": 10_000}
    assert display.update(0.0, {}) == ("", "")
    assert display.update(0.0, sums) == ("", "listed 10,000 files")
    assert display.update(1.0, {**sums, "files_inspected": 800}) == (
        "listed 10,000 files",
        "inspected 800 of 10,000 files",
    )
    # (3,200 - 800) / 4 s = 600/s; 6,800 / 600 = 11.3 s
    line = "inspected 3,200 of 10,000 files, 600/s, about 11 s left"
    assert display.update(5.0, {**sums, "files_inspected": 3200}) == ("", line)
    # No file in the next 6 s: 2,400 in 10 s, and 6,800 / 240 = 28.3.
    line = "inspected 3,200 of 10,000 files, 240/s, about 28 s left"
    assert display.update(11.0, {**sums, "files_inspected": 3200}) == ("", line)
    # Only the last 30 s count: from 5 s on, 3,200 to 6,200 in 30 s; 3,800 / 100.
    line = "inspected 6,200 of 10,000 files, 100/s, about 38 s left"
    assert display.update(35.0, {**sums, "files_inspected": 6200}) == ("", line)
    done = {**sums, "files_inspected": 10_000}
    finished = "inspected 10,000 of 10,000 files"
    assert display.update(40.0, done)[1].startswith(finished)
    assert display.update(40.0, done) == display.update(90.0, done)  # grouping comes, which is not slow inspecting
    last, line = display.update(91.0, {**done, "images_placed": 9000, "images_written": 50})
    assert last.startswith(finished)
    assert line == "written 50 of 9,000 images"


def test_long_and_slow_jobs_are_told_in_fitting_units() -> None:
    assert progress.describe(WRITTEN, 1, 4, 0.5) == "written 1 of 4 images, 0.5/s, about 6 s left"
    assert progress.describe(INSPECTED, 0, 10_000_000, 1000).endswith("1,000/s, about 2 h 47 min left")
    assert progress.describe(INSPECTED, 0, 90_000, 1000).endswith("about 2 min left")
    assert progress.describe(LISTED, 5, 0, 20) == "listed 5 files, 20/s"


WORKERS = """
import sys, time
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from preprocess import progress
from tests.preprocess import test_progress

if __name__ == "__main__":
    arguments = ["--runner=DirectRunner", "--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    pipeline = beam.Pipeline(options=PipelineOptions(arguments))
    test_progress.add_job(pipeline)
    with progress.shown(period_s=0.1):
        pipeline.run().wait_until_finish()
    print("ended", file=sys.stderr, flush=True)
"""


def test_lines_sum_what_worker_processes_count(tmp_path: pathlib.Path) -> None:
    (tmp_path / "job.py").write_text(WORKERS)
    (tmp_path / "temp").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path / "temp")}
    command = [sys.executable, str(tmp_path / "job.py")]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=True
    )
    before, _, after = done.stderr.partition("ended\n")
    sizes = [int(line.split()[1]) for line in before.splitlines() if line.startswith("inspected")]
    assert sizes == sorted(sizes)
    assert {0 < size < 100 for size in sizes} >= {True}
    assert "inspected" not in after
    assert "listed" not in after
    assert not list((tmp_path / "temp").glob("shardline-progress-*"))
