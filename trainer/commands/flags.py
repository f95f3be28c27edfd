"""What the commands share: flags by name, a process's place in a cluster, overrides of a config, and their checks."""

from __future__ import annotations

import os
from collections.abc import Sequence

from absl import flags

from configs import loading
from pipeline.errors import InputError
from trainer import cluster, rendezvous

STRATEGIES = ("one", "mirrored", "multi_worker", "tpu")
_CHECKPOINTS = ("best", "newest")
PLACE = ("coordinator", "num_workers", "worker_index")
_DESCRIPTIONS = {
    "config": "The experiment: a file of configs/.",
    "data": "The dataset's folder, …/NAME/VERSION.",
    "workdir": "Of a training: checkpoints, logs and reports are there.",
    "out": "A folder for what is found.",
}


def define(*names: str) -> flags.FlagValues:
    """Those that several commands have."""
    values = flags.FlagValues()
    for name in names:
        if name == "strategy":
            flags.DEFINE_enum(name, "one", STRATEGIES, "Where it runs.", flag_values=values)
        elif name == "cluster":
            flags.DEFINE_string("coordinator", None, "Of multi_worker: HOST:PORT of worker 0.", flag_values=values)
            flags.DEFINE_integer(
                "num_workers",
                None,
                "Of multi_worker: how many there are; alone, launch starts them here.",
                flag_values=values,
            )
            flags.DEFINE_integer(
                "worker_index", None, "Of multi_worker: which one this is, from 0.", flag_values=values
            )
            flags.DEFINE_string("worker_host", None, "How the others reach it, if not by its IP.", flag_values=values)
            flags.DEFINE_float(
                "start_timeout_s", rendezvous.START_TIMEOUT_S, "To wait for all workers.", 0, flag_values=values
            )
        elif name == "training":
            flags.DEFINE_list(
                "input_service",
                [],
                "HOST:PORT of each `python -m pipeline.serve` that prepares the input.",
                flag_values=values,
            )
            flags.DEFINE_boolean(
                "overfit_one_batch",
                False,
                "Only see whether the model can learn one batch by heart.",
                flag_values=values,
            )
        elif name == "checkpoint":
            flags.DEFINE_enum(name, "best", _CHECKPOINTS, "Whose weights, by validation.", flag_values=values)
        else:
            flags.DEFINE_string(name, None, _DESCRIPTIONS[name], flag_values=values)
    return values


def worker(values: flags.FlagValues) -> cluster.Worker | None:
    """This process's place among several, None for the strategies of one process."""
    if values.strategy == "multi_worker":
        given = {name: values[name].value for name in PLACE}
        return cluster.required(cluster.find(os.environ, **given, host=values.worker_host))
    for name in (*PLACE, "worker_host"):
        if values[name].value is not None:
            raise InputError(f"--{name} is for --strategy=multi_worker, the others have one process")
    return None


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(overrides of the config, everything else)."""
    overrides = [argument for argument in argv if argument.startswith(loading.PREFIX)]
    return overrides, [argument for argument in argv if argument not in overrides]


def parse(values: flags.FlagValues, argv: Sequence[str], paths: list[str] | None = None) -> bool:
    """Parses into `values` and, where the command takes any, `paths`; True if help was asked for and printed."""
    if any(argument in ("--help", "-h", "--helpfull") for argument in argv):
        print(f"usage: {argv[0]} …\n{values.get_help()}")
        return True
    rest = values(argv)[1:]
    if paths is None and rest:
        raise InputError(f"unexpected argument {rest[0]!r}; flags are written --name=value")
    if paths is not None:
        paths.extend(rest)
    return False


def require(values: flags.FlagValues, *names: str) -> None:
    if missing := [f"--{name}" for name in names if not values[name].value]:
        raise InputError(f"{', '.join(missing)} must be given; see --help")
