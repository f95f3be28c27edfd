"""The flags of `python -m preprocess` and Beam's in one list in, a staged Dataflow job out: what a Flex Template runs.

Dataflow's launcher names a file with --template_location, where Beam writes the job instead of submitting it; Dataflow
starts it from there, so nobody here may wait for its end.
https://cloud.google.com/dataflow/docs/guides/templates/configuring-flex-templates
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import shlex
import sys
import uuid
from collections.abc import Sequence

from absl import flags

from pipeline.errors import InputError
from preprocess import __main__ as command


def main(argv: Sequence[str]) -> int:
    """Returns 0 when the job is staged, 2 for input that cannot be used (one line on stderr)."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    values = command._flags()  # the very flags of the command, so that a template cannot have others
    own, beam_args = split(argv[1:], values)
    try:
        if rest := values([argv[0], *own])[1:]:
            raise InputError(f"unexpected argument {rest[0]!r}: flags are written --name=value")
        _stage(values, beam_args)
    except (InputError, flags.Error) as error:
        print(f"error: {error}".replace("\n", " "), file=sys.stderr)
        return 2
    return 0


def split(arguments: Sequence[str], values: flags.FlagValues) -> tuple[list[str], list[str]]:
    """(flags of the command, Beam's arguments); no name is both."""
    own = [argument for argument in arguments if argument.lstrip("-").partition("=")[0] in values]
    return own, [argument for argument in arguments if argument not in own]


def _stage(values: flags.FlagValues, beam_args: Sequence[str]) -> None:
    if values.correct or values.corrections:
        raise InputError("--correct is no part of this template, whose jobs read an input: run `python -m preprocess`")
    from preprocess import graph, job, places, runner, settings

    names = set(inspect.signature(settings.parse).parameters) - {"job"}
    opened = job.open_job(settings.parse(**{name: values[name].value for name in names}, job=uuid.uuid4().hex[:12]))
    # The workers' image holds Beam; nothing is to be fetched for them.
    pipeline = runner.new_pipeline(shlex.join([*beam_args, "--sdk_location=container"]))
    with places.prepare(opened.settings, overwrite=values.overwrite) as ready:
        graph.build(pipeline, dataclasses.replace(opened, settings=ready.settings))
        pipeline.run()
    print(f"staged; the dataset goes to {opened.settings.directory}")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
