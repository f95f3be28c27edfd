"""`trainer train`: an experiment, a dataset and a working directory in; a trained model there out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from configs import loading
from pipeline import startup
from pipeline.errors import InputError
from trainer import heartbeat, preemption
from trainer.commands import flags as command_flags


def run(argv: Sequence[str]) -> int:
    values = command_flags.define("config", "data", "workdir", "strategy", "cluster", "training")
    overrides, rest = command_flags.split_overrides(argv)
    if command_flags.parse(values, rest):
        return 0
    command_flags.require(values, "config", "data", *([] if values.overfit_one_batch else ["workdir"]))
    if values.overfit_one_batch and (values.workdir or values.input_service or values.coordinator):
        raise InputError(
            "--overfit_one_batch keeps nothing and reads one batch: leave --workdir, --input_service and --coordinator"
        )
    settings = dataclasses.asdict(loading.read(values.config, overrides))
    worker = command_flags.worker(values)

    if values.overfit_one_batch:
        startup.import_tensorflow()
        from trainer import overfit

        return overfit.run(data=values.data, settings=settings, strategy=values.strategy)
    try:
        with preemption.Signals() as signals:
            startup.import_tensorflow()
            from trainer import train

            result = train.train(
                data=values.data,
                workdir=values.workdir,
                strategy=values.strategy,
                worker=worker,
                start_timeout_s=values.start_timeout_s,
                signals=signals,
                beat=heartbeat.Heartbeat(os.environ.get(heartbeat.VARIABLE)),
                input_service=values.input_service,
                **settings,
            )
    except preemption.Preempted as ended:
        print(ended)
        return preemption.EXIT_STATUS
    validation = f", validation accuracy {result['accuracy']:.2%}" if "accuracy" in result else ""
    print(f"finished at step {result['step']}{validation}; weights {result['weights_sha256']}; {values.workdir}")
    return 0
