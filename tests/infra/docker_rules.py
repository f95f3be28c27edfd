"""A Dockerfile and what lies beside it in, what hadolint lets pass but a build or a cluster would not out."""

from __future__ import annotations

import json
import pathlib
import re
import shlex
from collections.abc import Callable, Iterator
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.infra import command_lines, security_rules

# What starts each role; "" is a program of Beam's or Dataflow's, which need root (see the Dockerfile).
_ROLES = {
    "trainer": "python -m trainer launch",
    "trainer-tpu": "python -m trainer launch",
    "preprocess": "python -m preprocess",
    "worker": "/opt/apache/beam/boot",
    "launcher": "/opt/google/dataflow/python_template_launcher",
}
_PYTHON = "3.11"  # for which `make lock` resolves the images' packages
_TRAINING = [
    "--strategy=multi_worker",
    "--config=configs/leaves_mobilenetv2.py",
    "--data=gs://bucket/data/leaves/1.0.0",
    "--workdir=gs://bucket/runs/leaves",
]
_PREPARATION = ["--input=gs://bucket/photos", "--output=gs://bucket/data", "--name=leaves"]


class Stage(NamedTuple):
    base: str
    instructions: list[tuple[str, str]]  # of the stages it grows from, too


def problems(root: pathlib.Path, reference: pathlib.Path) -> Iterator[str]:
    """`root` holds infra/ and the builder's ignore file; `reference` what is copied from beside them."""
    dockerfile = (root / "infra/docker/Dockerfile").read_text(encoding="utf-8")
    found = stages(dockerfile)
    if missing := sorted(set(_ROLES) - set(found)):
        yield f"Dockerfile has no stage {missing}"
        return
    for stage in found.values():
        if stage.base not in found and (problem := security_rules.image_problem(stage.base)):
            yield f"Dockerfile: {problem}"
    for name, command in _ROLES.items():
        yield from (f"stage {name}: {problem}" for problem in _role(found[name], name, command))
    yield from _instructions(dockerfile, root, reference)
    yield from _locks(root, reference, dockerfile)


def stages(dockerfile: str) -> dict[str, Stage]:
    """By name, with build arguments in their places."""
    arguments: dict[str, str] = {}
    found: dict[str, Stage] = {}
    name = ""
    for word, rest in _lines(dockerfile):
        if word == "ARG" and not found:
            key, _, value = rest.partition("=")
            arguments[key] = value
        elif word == "FROM":
            base, _, name = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], rest).partition(" AS ")
            found[name] = Stage(base, list(found[base].instructions) if base in found else [])
        else:
            found[name].instructions.append((word, rest))
    return found


def _lines(dockerfile: str) -> Iterator[tuple[str, str]]:
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE))
    for line in filter(None, map(str.strip, joined.splitlines())):
        word, _, rest = line.partition(" ")
        yield word.upper(), rest.strip()


def _role(stage: Stage, name: str, command: str) -> Iterator[str]:
    users = [rest.partition(":")[0] for word, rest in stage.instructions if word == "USER"]
    if name in ("worker", "launcher"):
        if users[-1:] != ["0"]:
            yield "Dataflow needs root"
    elif not users or users[-1] in ("0", "root"):
        yield "runs as root"
    entries = [rest for word, rest in stage.instructions if word == "ENTRYPOINT"]
    try:
        argv = json.loads(entries[-1])
    except (IndexError, ValueError):
        yield "ENTRYPOINT has to be a list, so that signals reach the program and not a shell"
        return
    if argv != command.split():
        yield f"starts {argv}"
    if argv[1:3] == ["-m", "trainer"]:
        yield from command_lines.training([*argv, *_TRAINING], [])
    if argv[1:3] == ["-m", "preprocess"] and (problem := command_lines.preparation(*argv, *_PREPARATION)):
        yield problem
    if any(word == "CMD" for word, _ in stage.instructions):
        yield "CMD would be taken for flags"


def _instructions(dockerfile: str, root: pathlib.Path, reference: pathlib.Path) -> Iterator[str]:
    ignored = _ignored(root / ".dockerignore")
    for word, rest in _lines(dockerfile):
        if word in ("ENV", "ARG"):
            pairs = dict(pair.partition("=")[::2] for pair in shlex.split(rest))
            yield from security_rules.secrets(pairs)
        if word == "ADD":
            yield "ADD fetches and unpacks: COPY does what it says"
        if word == "COPY" and "--from=" not in rest:
            for source in rest.split()[:-1]:
                if not ((root if source.startswith("infra/") else reference) / source).exists():
                    yield f"COPY {source}: there is none"
                elif ignored(source):
                    yield f"COPY {source}: .dockerignore keeps it from the builder"
        for step in re.split(r"&&|;", rest) if word == "RUN" else ():
            if "pip install" in step or "pip wheel" in step:
                yield from _pip(step)


def _pip(step: str) -> Iterator[str]:
    if "--no-cache-dir" not in step:
        yield f"{step.strip()}: keeps pip's cache in the image"
    hashed = "--require-hashes" in step and re.search(r"--requirement /?[\w./-]+\.txt", step)
    ours = "--no-deps" in step and re.search(r"(/wheels/\*\.whl|--no-build-isolation .* \.)$", step.strip())
    if not hashed and not ours:
        yield f"{step.strip()}: takes packages that no hash pins"


def _ignored(file: pathlib.Path) -> Callable[[str], bool]:
    """What a .dockerignore leaves out: the last pattern that a path or one of its parents matches decides."""
    patterns = [line for line in file.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]

    def is_ignored(path: str) -> bool:
        parents = [path, *(str(parent) for parent in pathlib.PurePosixPath(path).parents)]
        left_out = False
        for pattern in patterns:
            plain = pattern.removeprefix("!")
            alike = [parent for parent in parents if parent.count("/") == plain.count("/")]
            if any(pathlib.PurePosixPath(parent).match(plain) for parent in alike):
                left_out = not pattern.startswith("!")
        return left_out

    return is_ignored


def pins(file: pathlib.Path) -> dict[str, tuple[str, int]]:
    """(version, number of hashes) by name, of the lines that hold for the images' Python."""
    found = {}
    for line in file.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        requirement, *hashes = line.split(" --hash=sha256:")
        parsed = Requirement(requirement)
        environment = {"python_version": _PYTHON, "python_full_version": f"{_PYTHON}.14", "sys_platform": "linux"}
        if not parsed.marker or parsed.marker.evaluate(environment):
            found[canonicalize_name(parsed.name)] = (str(parsed.specifier), len(hashes))
    return found


def _locks(root: pathlib.Path, reference: pathlib.Path, dockerfile: str) -> Iterator[str]:
    """The images' packages are pinned by hash, at the versions that tests run with."""
    tested = pins(reference / "requirements.lock")
    for file in sorted((root / "infra/docker").glob("*.txt")):
        for name, (version, hashes) in pins(file).items():
            if not version.startswith("==") or not hashes:
                yield f"{file.name}: {name}{version} is not pinned by hash"
            # tensorflow-tpu has bounds of its own.
            if file.stem != "trainer-tpu" and name in tested and tested[name][0] != version:
                yield f"{file.name}: {name}{version}, but tests run with {tested[name][0]}"
    beam = pins(root / "infra/docker/preprocess.txt").get("apache-beam", ("", 0))[0].removeprefix("==")
    wanted = {"BASE": f"python:{_PYTHON}.", "BEAM": f"beam_python{_PYTHON}_sdk:{beam}"}
    for name, part in wanted.items():
        if not re.search(rf"^ARG {name}=\S*{re.escape(part)}", dockerfile, re.MULTILINE):
            yield f"ARG {name} is not {part}, for which the packages are"
