"""`python -m trainer train|evaluate|predict`: flags in, exit status out. TensorFlow is imported after they parse."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable, Sequence

from absl import flags

from configs import loading, schema
from pipeline import startup
from pipeline.errors import InputError

_STRATEGIES = ("one", "mirrored", "multi_worker", "tpu")
_USAGE = """usage: python -m trainer COMMAND [--help] …

  train     --config=FILE --data=DIR --workdir=DIR [--config.FIELD=VALUE …]   train, or go on where it stopped
  evaluate  --workdir=DIR --split=test                                        write WORKDIR/report/
  predict   --workdir=DIR IMAGE_OR_FOLDER …                                   print the likeliest classes"""


def main(argv: Sequence[str]) -> int:
    """Returns 0 on success, 1 where some inputs of a prediction failed, 2 for what the user has to mend."""
    command = argv[1] if len(argv) > 1 else "--help"
    if command in ("--help", "-h", "help"):
        print(_USAGE)
        return 0
    if command not in _COMMANDS:
        print(f"trainer: unknown command {command!r}\n{_USAGE}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("absl").setLevel(logging.WARNING)  # Beam, TensorFlow and Orbax narrate their insides there
    try:
        return _COMMANDS[command]([f"{argv[0]} {command}", *argv[2:]])
    except (InputError, schema.ConfigError, flags.Error, FloatingPointError, OSError) as error:
        print(f"trainer {command}: {error}", file=sys.stderr)
        return 2


def _train(argv: Sequence[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("config", None, "The experiment: a file of configs/.", flag_values=values)
    flags.DEFINE_string("data", None, "The dataset's folder, …/NAME/VERSION.", flag_values=values)
    flags.DEFINE_string("workdir", None, "Checkpoints, logs and reports go here.", flag_values=values)
    flags.DEFINE_enum("strategy", "one", _STRATEGIES, "Where it runs.", flag_values=values)
    flags.DEFINE_list(
        "input_service", [], "HOST:PORT of each `python -m pipeline.serve` that prepares the input.", flag_values=values
    )
    overrides = [argument for argument in argv if argument.startswith(loading.PREFIX)]
    if _parse(values, [argument for argument in argv if argument not in overrides]):
        return 0
    _require(values, "config", "data", "workdir")
    config = loading.read(values.config, overrides)

    startup.import_tensorflow()
    from trainer import train

    result = train.train(
        data=values.data,
        workdir=values.workdir,
        strategy=values.strategy,
        input_service=values.input_service,
        **dataclasses.asdict(config),
    )
    validation = f", validation accuracy {result['accuracy']:.2%}" if "accuracy" in result else ""
    print(f"finished at step {result['step']}{validation}; weights {result['weights_sha256']}; {values.workdir}")
    return 0


def _evaluate(argv: Sequence[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "Of `python -m trainer train`.", flag_values=values)
    flags.DEFINE_string("split", "test", "Of the dataset.", flag_values=values)
    flags.DEFINE_string("data", None, "Another dataset with the same classes.", flag_values=values)
    flags.DEFINE_enum("strategy", "one", _STRATEGIES, "Where it runs.", flag_values=values)
    if _parse(values, argv):
        return 0
    _require(values, "workdir")

    startup.import_tensorflow()
    from trainer import evaluate

    metrics = evaluate.evaluate(workdir=values.workdir, split=values.split, data=values.data, strategy=values.strategy)
    loss = "not finite" if metrics["loss"] is None else f"{metrics['loss']:.4f}"
    print(
        f"{metrics['split']}: accuracy {metrics['accuracy']:.2%}, loss {loss} "
        f"on {metrics['examples']:,} examples; report in {values.workdir}/report/index.html"
    )
    return 0


def _predict(argv: Sequence[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "Of `python -m trainer train`.", flag_values=values)
    flags.DEFINE_enum("format", "table", ("table", "json"), "Of the output.", flag_values=values)
    paths: list[str] = []
    if _parse(values, argv, paths):
        return 0
    _require(values, "workdir")

    startup.import_tensorflow()
    from trainer import predict

    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # names need not be UTF-8
    predictions = list(predict.predict(workdir=values.workdir, paths=paths))
    print(predict.as_json(predictions) if values.format == "json" else predict.as_table(predictions))
    return 1 if any(prediction.error for prediction in predictions) else 0


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


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"train": _train, "evaluate": _evaluate, "predict": _predict}

if __name__ == "__main__":
    sys.exit(main(sys.argv))
