"""`trainer find_batch`: an experiment and a dataset in; speed and memory over batch sizes printed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from configs import loading
from trainer.commands import flags as command_flags


def run(argv: Sequence[str]) -> int:
    values = command_flags.define("config", "data", "strategy")
    overrides, rest = command_flags.split_overrides(argv)
    if command_flags.parse(values, rest):
        return 0
    command_flags.require(values, "config", "data")
    settings = dataclasses.asdict(loading.read(values.config, overrides))
    from trainer import find_batch  # which leaves TensorFlow to its trials

    find_batch.run(data=values.data, settings=settings, strategy=values.strategy)
    return 0
