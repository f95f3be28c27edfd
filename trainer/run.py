"""What a working directory says of itself: `run.json`, written before the first step, read by every later command."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

from pipeline import manifest as manifest_lib
from pipeline import storage
from pipeline.errors import InputError

FILE = "run.json"
# What may change between two starts of one run: how long and how often, never what is learned.
_MAY_CHANGE = ("max_steps", "evaluate_every_epochs", "checkpoint_every_steps", "log_every_steps")


@dataclasses.dataclass(frozen=True)
class Run:
    data: str  # the dataset's folder
    dataset_fingerprint: str
    classes: tuple[str, ...]
    config: Mapping[str, Any]
    code: str  # version, and the git commit where there is one

    @property
    def fingerprint(self) -> str:
        """SHA-256 over dataset, config and code version: stands in every report, checkpoint and prediction."""
        lasting = {key: value for key, value in self.config.items() if key not in _MAY_CHANGE}
        content = [self.dataset_fingerprint, list(self.classes), lasting, self.code]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def describe(data: str, manifest: manifest_lib.Manifest, config: Mapping[str, Any]) -> Run:
    plain = json.loads(json.dumps(config))  # tuples become lists, as they will when they are read back
    return Run(
        data=data if "://" in data else os.path.abspath(data),
        dataset_fingerprint=manifest.fingerprint,
        classes=tuple(manifest.classes),
        config=plain,
        code=code_version(),
    )


def open_or_create(workdir: str, run: Run, *, write: bool) -> None:
    """Writes `run` into a new working directory; where one is already there, checks that it is the same run.

    Raises:
      InputError: where the directory holds a run of another dataset or config, naming the difference.
    """
    path = storage.join(workdir, FILE)
    if not storage.exists(path):
        if write:
            storage.write_json(path, {**dataclasses.asdict(run), "fingerprint": run.fingerprint})
        return
    existing = load(workdir)
    check_classes(existing, run.classes, run.data)
    if existing.dataset_fingerprint != run.dataset_fingerprint:
        raise InputError(f"{workdir} holds a run on other data ({existing.data}): use another --workdir for {run.data}")
    if changed := _differences(existing.config, run.config):
        raise InputError(f"{workdir} holds a run with another config ({changed}): use another --workdir")


def load(workdir: str) -> Run:
    """Raises InputError where `workdir` holds no run."""
    path = storage.join(workdir, FILE)
    if not storage.exists(path):
        raise InputError(f"{workdir} holds no run ({FILE} is missing): give the --workdir of `python -m trainer train`")
    try:
        value = storage.read_json(path)
        fields = {field.name: value[field.name] for field in dataclasses.fields(Run)}
        return Run(**{**fields, "classes": tuple(fields["classes"])})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error!r}): train again in another --workdir") from error


def check_classes(run: Run, classes: tuple[str, ...], data: str) -> None:
    """Raises InputError, showing both lists, where `data` has other classes or another order than the model."""
    if run.classes != tuple(classes):
        raise InputError(
            f"the model knows the classes {list(run.classes)}, {data} has {list(classes)}: "
            "names and order must be the same"
        )


def code_version() -> str:
    try:
        version = importlib.metadata.version("shardline")
    except importlib.metadata.PackageNotFoundError:
        version = "source"  # run from a checkout that isn't installed
    git = ["git", "-C", os.path.dirname(os.path.abspath(__file__)), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{version}+{commit}"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "config.") -> str:
    differences = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if key in _MAY_CHANGE or before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            differences.append(_differences(before, after, f"{prefix}{key}."))
        else:
            differences.append(f"{prefix}{key} was {before!r}, now {after!r}")
    return "; ".join(differences)
