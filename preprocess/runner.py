"""Beam's own arguments in, a pipeline on that runner out; a built pipeline in, its finished result out."""

from __future__ import annotations

import argparse
import logging
import re
import shlex
import socket

import apache_beam as beam
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions, WorkerOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineResult

from pipeline.errors import InputError
from preprocess import progress

# Worker processes send errors as text, with the whole traceback; in this process the exception itself arrives.
_ERROR_IN_TEXT = re.compile(rf"{re.escape(InputError.__module__)}\.{InputError.__qualname__}: (.*)")
_UNREACHABLE = re.compile(r"\bConnectionError: (gs://.*)")
_WORKER_DIED = "Channel closed prematurely"  # how Beam's local runner says it
_ANSWER_TIMEOUT_S = 10.0
_WHILE_RUNNING = re.compile(r" \[while running '[^']*'\]$")


def new_pipeline(beam_args: str) -> beam.Pipeline:
    """Without `beam_args` it will run in this process.

    `DirectRunner` uses the same engine, but looks for Prism first, which may mean a download.

    Raises:
      InputError: for arguments and runners that do not exist, or that lack something.
    """
    options = parse_options(beam_args)
    _check_endpoint(options)
    if not options.view_as(WorkerOptions).default_sdk_harness_log_level:  # else each worker process tells its life
        options.view_as(WorkerOptions).default_sdk_harness_log_level = "ERROR"
    try:
        return beam.Pipeline(runner=None if beam_args.strip() else FnApiRunner(), options=options)
    except (ValueError, ImportError) as error:  # unknown runner, missing --project, extras that are not installed
        raise InputError(f"--beam_args={beam_args!r}: {error}") from error


def _check_endpoint(options: PipelineOptions) -> None:
    """Raises InputError where nobody answers at the job server's address; Beam itself would wait without end."""
    host, _, port = (options.view_as(PortableOptions).job_endpoint or "").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), _ANSWER_TIMEOUT_S).close()
        except OSError as error:
            raise InputError(f"--beam_args: nobody answers at --job_endpoint={host}:{port} ({error})") from None


def run(pipeline: beam.Pipeline) -> PipelineResult:
    """Runs a built pipeline to its end.

    Raises:
      InputError: where a step of the job raised one, in whatever process or machine.
      ConnectionError: likewise, where a bucket can't be reached.
    """
    for name in ("apache_beam.runners.common", "apache_beam.runners.worker.sdk_worker"):
        logging.getLogger(name).addFilter(_is_unexpected)
    try:
        result = pipeline.run()
        result.wait_until_finish()
    except Exception as error:
        if message := _input_error(error):
            raise InputError(message) from error
        if message := _connection_error(error):
            raise ConnectionError(message) from error
        if _WORKER_DIED in str(error):
            raise InputError(
                "a worker process ended in the middle of the job, killed or out of memory: run the same command again, "
                "with fewer worker processes if memory was short"
            ) from error
        raise
    return result


def counted(result: PipelineResult, name: str) -> int:
    """What a finished job counted under one of `progress.COUNTERS`."""
    found = result.metrics().query(MetricsFilter().with_metric(progress.counter(name)))["counters"]
    return sum(counter.committed or 0 for counter in found)


def parse_options(beam_args: str) -> PipelineOptions:
    """`--runner=DataflowRunner --region=…` to options; Beam itself would ignore a misspelt argument with a warning."""

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> None:  # type: ignore[override]  # argparse's own prints its usage and exits
            raise InputError(f"--beam_args={beam_args!r}: {message}")

    try:
        words = shlex.split(beam_args)
    except ValueError as error:
        raise InputError(f"--beam_args={beam_args!r}: {error}") from None
    parser = Parser(allow_abbrev=False, add_help=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(words)
    if unknown:
        raise InputError(f"--beam_args={beam_args!r}: Beam has no argument {unknown[0]!r}; check its spelling")
    return PipelineOptions(words)


def _is_unexpected(record: logging.LogRecord) -> bool:
    """Drops Beam's own tracebacks of errors that are reported as one line."""
    if record.exc_info and isinstance(record.exc_info[1], InputError | ConnectionError):
        return False
    return not (_ERROR_IN_TEXT.search(record.getMessage()) or _UNREACHABLE.search(record.getMessage()))


def _input_error(error: BaseException) -> str:
    if isinstance(error, InputError):
        return _WHILE_RUNNING.sub("", str(error))
    found = _ERROR_IN_TEXT.findall(str(error))
    return _WHILE_RUNNING.sub("", found[-1].strip()) if found else ""


def _connection_error(error: BaseException) -> str:
    if isinstance(error, ConnectionError):
        return _WHILE_RUNNING.sub("", str(error))
    found = _UNREACHABLE.findall(str(error))
    return _WHILE_RUNNING.sub("", found[-1].strip()) if found else ""
