"""`trainer predict`: a run and images in; their likeliest classes printed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from pipeline import startup
from trainer.commands import flags as command_flags


def run(argv: Sequence[str]) -> int:
    values = command_flags.define("workdir", "checkpoint")
    flags.DEFINE_enum("format", "table", ("table", "json"), "Of the output.", flag_values=values)
    paths: list[str] = []
    if command_flags.parse(values, argv, paths):
        return 0
    command_flags.require(values, "workdir")

    startup.import_tensorflow()
    from trainer import predict

    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # names need not be UTF-8
    predictions = list(predict.predict(workdir=values.workdir, paths=paths, checkpoint=values.checkpoint))
    print(predict.as_json(predictions) if values.format == "json" else predict.as_table(predictions))
    return 1 if any(prediction.error for prediction in predictions) else 0
