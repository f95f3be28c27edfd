"""`trainer launch`: what train takes in; the same training, started again after failures, out."""

from __future__ import annotations

import os
from collections.abc import Sequence

from absl import flags

from configs import loading
from pipeline import manifest
from pipeline.errors import InputError
from trainer import launch
from trainer.commands import flags as command_flags


def run(argv: Sequence[str]) -> int:
    values = command_flags.define("config", "data", "workdir", "strategy", "cluster", "training")
    values.set_default("strategy", None)  # which is as many workers need it
    flags.DEFINE_integer("max_restarts", launch.MAX_RESTARTS, "In a row that come no further.", 0, flag_values=values)
    flags.DEFINE_float(
        "stall_timeout_s",
        launch.STALL_TIMEOUT_S,
        "Without a sign of life, a first step included.",
        1,
        flag_values=values,
    )
    flags.DEFINE_float("grace_s", launch.GRACE_S, "For workers to save after SIGTERM.", 0, flag_values=values)
    overrides, rest = command_flags.split_overrides(argv)
    if command_flags.parse(values, rest):
        return 0
    command_flags.require(values, "config", "data", "workdir")
    if values.overfit_one_batch:
        raise InputError("--overfit_one_batch keeps nothing that a restart could go on from: use train")
    planned = launch.plan(
        os.environ,
        strategy=values.strategy,
        **{name: values[name].value for name in command_flags.PLACE},
        host=values.worker_host,
    )
    # What no restart would mend is refused before anything is started.
    loading.read(values.config, overrides)
    manifest.load(values.data)
    passed = [values[name].serialize() for name in ("config", "data", "workdir", "input_service", "start_timeout_s")]
    return launch.run(
        [*overrides, *filter(None, passed)],
        planned,
        max_restarts=values.max_restarts,
        stall_timeout_s=values.stall_timeout_s,
        grace_s=values.grace_s,
    )
