"""`python -m trainer COMMAND`: flags in, exit status out. TensorFlow is imported after they parse."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from absl import flags

from configs import schema
from pipeline.errors import InputError
from trainer.commands import (
    compare,
    evaluate,
    explain,
    export,
    find_batch,
    find_lr,
    label_errors,
    launch,
    predict,
    search,
    serve,
    train,
)

_USAGE = """usage: python -m trainer COMMAND [--help] …

  train       --config=FILE --data=DIR --workdir=DIR [--config.FIELD=VALUE …]   train, or go on where it stopped
  launch      [--num_workers=N] and what train takes                            train, and again after a failure
  evaluate    --workdir=DIR --split=test                                        write WORKDIR/report/
  compare     --workdir=DIR --other=DIR                                         two evaluated runs, example by example
  predict     --workdir=DIR IMAGE_OR_FOLDER …                                   print the likeliest classes
  explain     --workdir=DIR IMAGE_OR_FOLDER …                                   draw where a class is seen in them
  export      --workdir=DIR [--formats=onnx,tflite_int8,…]                      write WORKDIR/exports/N/
  serve       --workdir=DIR [--host=… --port=8501]                              answer HTTP with the newest export
  label_errors --workdir=DIR [--limit=200]                                      rank labels that may be wrong

  find_lr     --config=FILE --data=DIR --out=DIR                                try learning rates, plot their losses
  find_batch  --config=FILE --data=DIR                                          try batch sizes, for speed and memory
  search      --config=FILE --data=DIR --out=DIR --space=FIELD=VALUES …         train with many values of fields"""
_COMMANDS = {
    "train": train.run,
    "launch": launch.run,
    "evaluate": evaluate.run,
    "compare": compare.run,
    "predict": predict.run,
    "explain": explain.run,
    "export": export.run,
    "serve": serve.run,
    "label_errors": label_errors.run,
    "find_lr": find_lr.run,
    "find_batch": find_batch.run,
    "search": search.run,
}


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


if __name__ == "__main__":
    sys.exit(main(sys.argv))
