"""`python -m trainer COMMAND`: flags in, exit status out. TensorFlow is imported after they parse."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Sequence

from absl import flags

from configs import loading, schema
from pipeline import manifest, startup
from pipeline.errors import InputError
from trainer import cluster, heartbeat, launch, preemption, rendezvous

_STRATEGIES = ("one", "mirrored", "multi_worker", "tpu")
_CHECKPOINTS = ("best", "newest")
_PLACE = ("coordinator", "num_workers", "worker_index")
_USAGE = """usage: python -m trainer COMMAND [--help] …

  train       --config=FILE --data=DIR --workdir=DIR [--config.FIELD=VALUE …]   train, or go on where it stopped
  launch      [--num_workers=N] and what train takes                            train, and again after a failure
  evaluate    --workdir=DIR --split=test                                        write WORKDIR/report/
  predict     --workdir=DIR IMAGE_OR_FOLDER …                                   print the likeliest classes

  find_lr     --config=FILE --data=DIR --out=DIR                                try learning rates, plot their losses
  find_batch  --config=FILE --data=DIR                                          try batch sizes, for speed and memory
  search      --config=FILE --data=DIR --out=DIR --space=FIELD=VALUES …         train with many values of fields"""


def main(argv: Sequence[str]) -> int:
    """Returns 0 on success, 1 where some of what was asked for came out bad, 2 for what the user has to mend.

    Also 1 where another process can't be reached, which may be well again at the next start.
    And `preemption.EXIT_STATUS` after a signal to end, when the same command is to be started again.
    """
    command = argv[1] if len(argv) > 1 else "--help"
    if command in ("--help", "-h", "help"):
        print(_USAGE)
        return 0
    if command not in _COMMANDS:
        print(f"trainer: unknown command {command!r}\n{_USAGE}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("absl", "tensorflow"):  # Beam, TensorFlow and Orbax narrate their insides there
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return _COMMANDS[command]([f"{argv[0]} {command}", *argv[2:]])
    except (ConnectionError, TimeoutError) as error:
        print(f"trainer {command}: {error}", file=sys.stderr)
        return 1
    except (InputError, schema.ConfigError, flags.Error, FloatingPointError, OSError) as error:
        print(f"trainer {command}: {error}", file=sys.stderr)
        return 2


def _train(argv: Sequence[str]) -> int:
    values = _flags("config", "data", "workdir", "strategy", "cluster", "training")
    overrides, rest = _split(argv)
    if _parse(values, rest):
        return 0
    _require(values, "config", "data", *([] if values.overfit_one_batch else ["workdir"]))
    if values.overfit_one_batch and (values.workdir or values.input_service or values.coordinator):
        raise InputError(
            "--overfit_one_batch keeps nothing and reads one batch: leave --workdir, --input_service and --coordinator"
        )
    settings = dataclasses.asdict(loading.read(values.config, overrides))
    worker = _worker(values)

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


def _launch(argv: Sequence[str]) -> int:
    values = _flags("config", "data", "workdir", "strategy", "cluster", "training")
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
    overrides, rest = _split(argv)
    if _parse(values, rest):
        return 0
    _require(values, "config", "data", "workdir")
    if values.overfit_one_batch:
        raise InputError("--overfit_one_batch keeps nothing that a restart could go on from: use train")
    planned = launch.plan(
        os.environ,
        strategy=values.strategy,
        **{name: values[name].value for name in _PLACE},
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


def _evaluate(argv: Sequence[str]) -> int:
    values = _flags("workdir", "strategy", "cluster", "checkpoint")
    flags.DEFINE_string("split", "test", "Of the dataset.", flag_values=values)
    flags.DEFINE_string("data", None, "Another dataset with the same classes.", flag_values=values)
    if _parse(values, argv):
        return 0
    _require(values, "workdir")
    worker = _worker(values)

    startup.import_tensorflow()
    from trainer import evaluate

    metrics = evaluate.evaluate(
        workdir=values.workdir,
        split=values.split,
        data=values.data,
        strategy=values.strategy,
        worker=worker,
        start_timeout_s=values.start_timeout_s,
        checkpoint=values.checkpoint,
    )
    loss = "not finite" if metrics["loss"] is None else f"{metrics['loss']:.4f}"
    print(
        f"{metrics['split']}: accuracy {metrics['accuracy']:.2%}, loss {loss} "
        f"on {metrics['examples']:,} examples; report in {values.workdir}/report/index.html"
    )
    return 0


def _predict(argv: Sequence[str]) -> int:
    values = _flags("workdir", "checkpoint")
    flags.DEFINE_enum("format", "table", ("table", "json"), "Of the output.", flag_values=values)
    paths: list[str] = []
    if _parse(values, argv, paths):
        return 0
    _require(values, "workdir")

    startup.import_tensorflow()
    from trainer import predict

    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # names need not be UTF-8
    predictions = list(predict.predict(workdir=values.workdir, paths=paths, checkpoint=values.checkpoint))
    print(predict.as_json(predictions) if values.format == "json" else predict.as_table(predictions))
    return 1 if any(prediction.error for prediction in predictions) else 0


def _find_lr(argv: Sequence[str]) -> int:
    values = _flags("config", "data", "out", "strategy")
    flags.DEFINE_integer("steps", 100, "Rates to try.", lower_bound=20, flag_values=values)
    overrides, rest = _split(argv)
    if _parse(values, rest):
        return 0
    _require(values, "config", "data", "out")
    settings = dataclasses.asdict(loading.read(values.config, overrides))

    startup.import_tensorflow()
    from trainer import find_lr

    found = find_lr.run(
        data=values.data, settings=settings, out=values.out, strategy=values.strategy, steps=values.steps
    )
    return 0 if found else 1


def _find_batch(argv: Sequence[str]) -> int:
    values = _flags("config", "data", "strategy")
    overrides, rest = _split(argv)
    if _parse(values, rest):
        return 0
    _require(values, "config", "data")
    settings = dataclasses.asdict(loading.read(values.config, overrides))
    from trainer import find_batch  # which leaves TensorFlow to its trials

    find_batch.run(data=values.data, settings=settings, strategy=values.strategy)
    return 0


def _search(argv: Sequence[str]) -> int:
    values = _flags("config", "data", "out", "strategy")
    flags.DEFINE_multi_string(
        "space", [], "FIELD=log(1e-4,1e-1), linear(0,1), int(1,8) or A|B; may repeat.", flag_values=values
    )
    flags.DEFINE_integer("trials", 10, "Trainings, those of an earlier start included.", flag_values=values)
    flags.DEFINE_enum("oracle", "bayesian", ("random", "bayesian"), "What chooses the values.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of its choices.", flag_values=values)
    overrides, rest = _split(argv)
    if _parse(values, rest):
        return 0
    _require(values, "config", "data", "out", "space")
    config = loading.read(values.config, overrides)
    if config.validation_split == "none":
        raise InputError("validation_split='none' gives a search nothing to compare trials by: name a split")
    from trainer import search, search_space

    for text in values.space:  # an impossible value is refused before the first trial, not in the tenth
        for extreme in search_space.extremes(search_space.parse(text)):
            loading.read(values.config, [*overrides, extreme])
    ranked = search.run(
        config=values.config,
        overrides=overrides,
        data=values.data,
        out=values.out,
        space=values.space,
        metric=config.monitor.metric,
        trials=values.trials,
        oracle=values.oracle,
        strategy=values.strategy,
        seed=values.seed,
    )
    return 0 if ranked[0].score is not None else 1


_DESCRIPTIONS = {
    "config": "The experiment: a file of configs/.",
    "data": "The dataset's folder, …/NAME/VERSION.",
    "workdir": "Of a training: checkpoints, logs and reports are there.",
    "out": "A folder for what is found.",
}


def _flags(*names: str) -> flags.FlagValues:
    """Those that several commands have."""
    values = flags.FlagValues()
    for name in names:
        if name == "strategy":
            flags.DEFINE_enum(name, "one", _STRATEGIES, "Where it runs.", flag_values=values)
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


def _worker(values: flags.FlagValues) -> cluster.Worker | None:
    """This process's place among several, None for the strategies of one process."""
    if values.strategy == "multi_worker":
        given = {name: values[name].value for name in _PLACE}
        return cluster.required(cluster.find(os.environ, **given, host=values.worker_host))
    for name in (*_PLACE, "worker_host"):
        if values[name].value is not None:
            raise InputError(f"--{name} is for --strategy=multi_worker, the others have one process")
    return None


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(overrides of the config, everything else)."""
    overrides = [argument for argument in argv if argument.startswith(loading.PREFIX)]
    return overrides, [argument for argument in argv if argument not in overrides]


def _parse(values: flags.FlagValues, argv: Sequence[str], paths: list[str] | None = None) -> bool:
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


def _require(values: flags.FlagValues, *names: str) -> None:
    if missing := [f"--{name}" for name in names if not values[name].value]:
        raise InputError(f"{', '.join(missing)} must be given; see --help")


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": _train,
    "launch": _launch,
    "evaluate": _evaluate,
    "predict": _predict,
    "find_lr": _find_lr,
    "find_batch": _find_batch,
    "search": _search,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv))
