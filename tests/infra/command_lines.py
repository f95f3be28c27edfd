"""A container's command line and environment in, what the real flag parsers refuse out.

`python -m trainer launch` is called as it is, with a dataset that does not exist: what it says of that comes after
everything else has been accepted. `python -m preprocess` is called with an input that does not exist.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Iterator, Mapping, Sequence

from pipeline.errors import InputError
from preprocess import __main__ as preprocess
from trainer import __main__ as trainer
from trainer import launch

_ABSENT = "/there/is/no/such/place"
_DATASET = re.compile(r"gs://[a-z0-9][a-z0-9._-]+/(.+/)?[a-z][a-z0-9_]*/\d+\.\d+\.\d+")
_FOLDER = re.compile(r"gs://[a-z0-9][a-z0-9._-]+/.+[^/]")


def training(argv: Sequence[str], environments: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Problems of one command line that is started once in each of `environments`, by worker."""
    if list(argv[:4]) != ["python", "-m", "trainer", "launch"]:
        yield f"{' '.join(argv[:4])} is not the supervisor"
        return
    flags = dict(word.removeprefix("--").partition("=")[::2] for word in argv[4:])
    if len(flags) < len(argv) - 4:
        yield "a flag stands twice"
    for name, address in (("data", _DATASET), ("workdir", _FOLDER)):
        if not address.fullmatch(flags.get(name, "")):
            yield f"--{name}={flags.get(name)}: expected {address.pattern}"
    with_absent = (*argv[4:], f"--data={_ABSENT}")
    if _ABSENT not in (said := _stderr_of("launch", *with_absent)):
        yield said
        return
    places = set()
    for environment in environments:
        try:
            plan = launch.plan(environment, strategy=flags.get("strategy"))
        except InputError as error:
            yield str(error)
            return
        alone = plan.worker is None and plan.num_workers == 1
        places.add((0, 1) if alone else (plan.worker.index, plan.worker.num_workers) if plan.worker else None)
    if places != {(index, len(environments)) for index in range(len(environments))}:
        yield f"the workers think that they are {sorted(map(str, places))} of {len(environments)}"


@functools.lru_cache
def _stderr_of(command: str, *arguments: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        trainer.main(["trainer", command, *arguments])
    return said.getvalue().strip()


@functools.lru_cache
def preparation(*argv: str) -> str:
    """What is wrong with one command line, "" where nothing is."""
    if list(argv[:3]) != ["python", "-m", "preprocess"]:
        return f"{' '.join(argv[:3])} is not the preparation"
    values = preprocess._flags()
    try:
        if rest := values(argv[2:])[1:]:
            return f"{rest[0]!r} is no flag"
    except preprocess.flags.Error as error:
        return str(error)
    for name, value in [("output", values.output), *(("input", value) for value in values.input)]:
        if not _FOLDER.fullmatch(value):
            return f"--{name}={value}: expected {_FOLDER.pattern}"
    return settings_problem({name: values[name].value for name in values if name not in ("help", "h")})


def settings_problem(values: Mapping[str, object]) -> str:
    """What the command itself would say before it looks for its input."""
    from preprocess import runner, settings

    others = ("beam_args", "plan", "overwrite", "corrections")
    own = {name: value for name, value in values.items() if name not in others}
    try:
        settings.parse(**own, job="0")  # type: ignore[arg-type]
        runner.parse_options(str(values["beam_args"]))
    except InputError as error:
        return str(error)
    return ""
