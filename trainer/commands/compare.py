"""`trainer compare`: two runs evaluated on the same examples in; which is better, and where they differ, printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from absl import flags

from pipeline import startup
from trainer.commands import flags as command_flags


def run(argv: Sequence[str]) -> int:
    values = command_flags.define("workdir")
    flags.DEFINE_string(
        "other", None, "The run to compare it with; either may be a report/predictions.npz.", flag_values=values
    )
    flags.DEFINE_string("split", None, "That both have to be evaluated on, if it matters which.", flag_values=values)
    flags.DEFINE_enum("format", "table", ("table", "json"), "Of the output.", flag_values=values)
    if command_flags.parse(values, argv):
        return 0
    command_flags.require(values, "workdir", "other")

    startup.import_tensorflow()
    from trainer import compare

    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # names need not be UTF-8
    found = compare.compare(values.workdir, values.other, split=values.split)
    if values.format == "json":
        print(
            json.dumps({**found._asdict(), "disagreements": [one._asdict() for one in found.disagreements]}, indent=1)
        )
    else:
        print(compare.as_text(found, values.workdir, values.other))
    return 0
