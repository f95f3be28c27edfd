"""infra/tpu's script in, run with a gcloud that only writes down; what it would do wrong out."""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import subprocess
from collections.abc import Iterator

from tests.infra import command_lines, security_rules

_GCLOUD = """#!/usr/bin/env python3
import json, os, sys
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if "describe" in sys.argv:
    print("ACTIVE")
if "docker wait" in " ".join(sys.argv):
    print(os.environ.get("ENDED", "0"))
"""


def calls(script: pathlib.Path, command: str, folder: pathlib.Path, ended: int = 0) -> tuple[int, list[list[str]]]:
    """(exit status, arguments of each call of gcloud) where the container ends with `ended`."""
    folder.mkdir(parents=True, exist_ok=True)
    stub, log = folder / "gcloud", folder / "calls"
    stub.write_text(_GCLOUD, encoding="utf-8")
    stub.chmod(0o755)
    log.write_text("", encoding="utf-8")
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "CALLS": str(log), "POLL_S": "0"}
    done = subprocess.run(
        ["bash", script, command], env=environment | {"ENDED": str(ended)}, capture_output=True, text=True, timeout=60
    )
    return done.returncode, [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def problems(script: pathlib.Path, folder: pathlib.Path) -> Iterator[str]:
    for ended in (0, 2, 42):
        status, made = calls(script, "train", folder, ended)
        if status != ended:
            yield f"tpu.sh train ends with {status} where the training ends with {ended}"
        verbs = [[word for word in call if not word.startswith("-")][2:4] for call in made]
        if not verbs or verbs[-1] != ["queued-resources", "delete"]:
            yield f"tpu.sh train leaves the machine running where the training ends with {ended}"
            return
    create, *_ = made
    flags = dict(word.partition("=")[::2] for word in create if word.startswith("--"))
    if not flags.keys() & {"--spot", "--guaranteed"}:
        yield "tpu.sh create does not say whether spot or guaranteed"
    if problem := security_rules.account_problem(flags.get("--service-account", "")):
        yield problem
    if not flags.get("--valid-until-duration", "").rstrip("smhd").isdecimal():
        yield "tpu.sh create may wait in the queue for ever"
    commands = [word.removeprefix("--command=") for call in made for word in call if word.startswith("--command=")]
    (run,) = [command for command in commands if "docker run" in command]
    words = shlex.split(run.rpartition("docker run")[2])
    images = [index for index, word in enumerate(words) if not word.startswith("-")]
    if not images:
        yield f"{run}: runs no image"
        return
    image, flags_of_trainer = words[images[0]], words[images[0] + 1 :]
    if problem := security_rules.image_problem(image):
        yield problem
    if not any(f"docker pull --quiet {image}" in command for command in commands):
        yield f"the image that is run, {image}, is not the one that is pulled"
    if "--strategy=tpu" not in flags_of_trainer:
        yield "the trainer is not told that there is a TPU"
    yield from command_lines.training(["python", "-m", "trainer", "launch", *flags_of_trainer], [{}])
