"""`trainer serve`: a run's exports in; an HTTP server, until it is told to end."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from absl import flags

from pipeline import startup
from pipeline.errors import InputError
from trainer.commands import flags as command_flags
from trainer.serving import listening
from trainer.serving.limits import Limits

_DEFAULTS = Limits()
_COUNTS = ("max_batch", "max_waiting", "max_instances")
_TIMEOUTS = {
    "header_timeout_s": "For a request's headers, then the connection is cut.",
    "body_timeout_s": "For its body, then 408.",
    "answer_timeout_s": "For an answer, then 504.",
}


def run(argv: Sequence[str]) -> int:
    values = command_flags.define("workdir")
    flags.DEFINE_string("host", "127.0.0.1", "To listen at; 0.0.0.0 is every network.", flag_values=values)
    flags.DEFINE_integer("port", 8501, "As TensorFlow Serving's; 0: a free one.", 0, 65535, flag_values=values)
    flags.DEFINE_float("poll_s", 5.0, "How often to look for a newer export.", 0.1, flag_values=values)
    flags.DEFINE_integer("max_batch", _DEFAULTS.max_batch, "Images the model runs at once.", 1, flag_values=values)
    flags.DEFINE_float(
        "max_delay_ms", 1000 * _DEFAULTS.max_delay_s, "For a batch to wait for more.", 0, flag_values=values
    )
    flags.DEFINE_integer("max_waiting", _DEFAULTS.max_waiting, "Images, then 503.", 1, flag_values=values)
    flags.DEFINE_integer("max_instances", _DEFAULTS.max_instances, "Of one request.", 1, flag_values=values)
    flags.DEFINE_integer(
        "max_request_mib", _DEFAULTS.max_request_bytes >> 20, "Of one request, then 413.", 1, flag_values=values
    )
    flags.DEFINE_float("max_megapixels", _DEFAULTS.max_pixels / 1e6, "Of one image, then 413.", 0, flag_values=values)
    for name, description in _TIMEOUTS.items():
        flags.DEFINE_float(name, getattr(_DEFAULTS, name), description, 0.1, flag_values=values)
    if command_flags.parse(values, argv):
        return 0
    command_flags.require(values, "workdir")
    try:
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(f"{error.name} is missing: pip install 'shardline[serve]'") from error
    limits = Limits(
        max_request_bytes=values.max_request_mib << 20,
        max_pixels=round(1e6 * values.max_megapixels),
        max_delay_s=values.max_delay_ms / 1000,
        **{name: values[name].value for name in (*_COUNTS, *_TIMEOUTS)},
    )

    from trainer.serving import exports  # which imports NumPy, for nothing where help is asked for

    exports.require(values.workdir)
    listener = listening.listen(values.host, values.port)
    if not listening.is_loopback(values.host):
        logging.warning("--host=%s: whoever reaches this machine can ask; there is no password", values.host)

    startup.import_tensorflow()
    from trainer.serving import server

    server.serve(workdir=values.workdir, listener=listener, limits=limits, poll_s=values.poll_s)
    return 0
