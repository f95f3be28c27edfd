"""`trainer export`: a run in; its model in the formats asked for, compared with the trainer, out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from pipeline import startup
from pipeline.errors import InputError
from trainer.commands import flags as command_flags
from trainer.export import formats


def run(argv: Sequence[str]) -> int:
    values = command_flags.define("workdir", "checkpoint")
    flags.DEFINE_list(
        "formats",
        list(formats.DEFAULT),
        f"Of {', '.join(formats.FILES)}; saved_model is always written.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "int8_budget",
        0.5,
        "Points of accuracy that tflite_int8 may lose; of few validation images and training images together.",
        0,
        100,
        flag_values=values,
    )
    flags.DEFINE_integer("examples", 64, "Validation images to compare every format on.", 1, flag_values=values)
    flags.DEFINE_string("data", None, "The dataset, where it is no longer where the run had it.", flag_values=values)
    if command_flags.parse(values, argv):
        return 0
    command_flags.require(values, "workdir")
    chosen = formats.check(values.formats)
    if "tflite_int8" not in chosen and not values["int8_budget"].using_default_value:
        raise InputError("--int8_budget is for tflite_int8: add it to --formats, or leave the budget")

    startup.import_tensorflow()
    from trainer.export import export, gate

    try:
        made = export.export(
            workdir=values.workdir,
            formats=chosen,
            checkpoint=values.checkpoint,
            data=values.data,
            int8_budget=values.int8_budget,
            examples=values.examples,
        )
    except gate.ParityError as error:
        print(f"trainer export: {error}", file=sys.stderr)
        return 1
    print("\n".join([*export.summary(made), f"{values.workdir}/exports/{made.version}"]))
    return 0
