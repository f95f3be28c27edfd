"""Prepares training input for trainers on other hosts: flags in, a process that serves until it is ended.

    python -m pipeline.serve --host=cpu0 --port=5050

and each trainer is given --input_service=cpu0:5050. The process needs the data under the same path as the trainer and
the same TensorFlow; everything else comes from the trainer. It keeps nothing: once ended it can't be continued, and
trainers that it fed stop with a line that says so.

Whoever reaches its ports can read and write files as its user: run it inside a private network only.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import uuid
from collections.abc import Sequence

from absl import flags

from pipeline.errors import InputError

_MINUTE_MS = 60_000


def main(argv: Sequence[str]) -> int:
    """Returns 0 after --help, 2 for what the user has to mend; once it serves, it ends with 0 on SIGTERM or Ctrl-C."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "host", "localhost", "This host's name, as trainers write it in --input_service.", flag_values=values
    )
    flags.DEFINE_integer(
        "port", 0, "Where trainers call; 0: a free one, which is printed.", 0, 65535, flag_values=values
    )
    flags.DEFINE_integer("batches_port", 0, "Where they fetch batches; 0: a free one.", 0, 65535, flag_values=values)
    if any(argument in ("--help", "-h", "--helpfull") for argument in argv):
        print(f"{__doc__}\n{values.get_help()}")
        return 0
    try:
        if rest := values(argv)[1:]:
            raise InputError(f"unexpected argument {rest[0]!r}; flags are written --name=value")
        for name in ("port", "batches_port"):
            _check_free(name, values[name].value)
        _serve(values.host, values.port, values.batches_port)
    except (InputError, flags.Error) as error:
        print(f"pipeline.serve: {error}".replace("\n", " "), file=sys.stderr)
        return 2
    return 0


def _check_free(flag: str, port: int) -> None:
    """Two gRPC servers would share a port without a word, and each get some of the calls."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port whose last owner was killed is free
        try:
            probe.bind(("", port))
        except OSError as error:
            raise InputError(f"--{flag}={port}: {error.strerror}; choose another, or 0 for a free one") from error


def _serve(host: str, port: int, batches_port: int) -> None:
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # before TensorFlow's threads, which inherit it
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    from pipeline import cache, meeting, parallel

    tf.config.set_visible_devices([], "GPU")  # a trainer on this host needs all of its memory
    # Defaults keep what a killed trainer was being sent for 5 minutes, beside what its next start asks for.
    dispatcher = tf.data.experimental.service.DispatchServer(
        tf.data.experimental.service.DispatcherConfig(
            port=port, job_gc_check_interval_ms=_MINUTE_MS // 6, job_gc_timeout_ms=_MINUTE_MS
        )
    )
    port = int(dispatcher.target.rpartition(":")[2])
    if not batches_port:
        batches_port = _free_port()
    worker = tf.data.experimental.service.WorkerServer(  # noqa: F841  # it serves as long as it is held
        tf.data.experimental.service.WorkerConfig(
            dispatcher_address=f"localhost:{port}", worker_address=f"{host}:{batches_port}", port=batches_port
        )
    )
    greeting = meeting.Greeting(
        tensorflow=tf.__version__,
        address=f"{host}:{port}",
        batches=f"{host}:{batches_port}",
        cores=parallel.cores(),
        available_bytes=cache.available_bytes(),
        process=uuid.uuid4().hex,
    )
    tf.data.experimental.service.register_dataset(
        f"grpc://localhost:{port}",
        tf.data.Dataset.from_tensors(tf.constant(json.dumps(greeting._asdict()))),
        compression=None,
        dataset_id=meeting.GREETING_ID,
    )
    print(f"serving at {host}:{port} (batches at {host}:{batches_port}), TensorFlow {tf.__version__}", flush=True)
    signal.sigwait(signals)  # the servers' own join() would not let Python see a signal
    # There is nothing to save, and an orderly stop waits for the calls that trainers keep open.
    os._exit(0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main(sys.argv))
