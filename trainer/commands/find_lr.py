"""`trainer find_lr`: an experiment and a dataset in; losses over learning rates out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from absl import flags

from configs import loading
from pipeline import startup
from trainer.commands import flags as command_flags


def run(argv: Sequence[str]) -> int:
    values = command_flags.define("config", "data", "out", "strategy")
    flags.DEFINE_integer("steps", 100, "Rates to try.", lower_bound=20, flag_values=values)
    overrides, rest = command_flags.split_overrides(argv)
    if command_flags.parse(values, rest):
        return 0
    command_flags.require(values, "config", "data", "out")
    settings = dataclasses.asdict(loading.read(values.config, overrides))

    startup.import_tensorflow()
    from trainer import find_lr

    found = find_lr.run(
        data=values.data, settings=settings, out=values.out, strategy=values.strategy, steps=values.steps
    )
    return 0 if found else 1
