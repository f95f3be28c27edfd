"""What a working directory says of itself: `run.json`, written before the first step, read by every command."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline import manifest as manifest_lib
from pipeline import storage
from pipeline.errors import InputError

FILE = "run.json"
# What may change between two starts of one run: how far, how often and from where in memory, never what a step learns.
_MAY_CHANGE = (
    "max_steps",
    "evaluate_every_epochs",
    "checkpoint_every_steps",
    "log_every_steps",
    "input.cache",
    "input.cache_dir",
    "input.cache_gib",
)


@dataclasses.dataclass(frozen=True)
class Run:
    data: str  # the dataset's folder
    dataset_fingerprint: str
    classes: tuple[str, ...]
    config: Mapping[str, Any]
    code: str  # version, and the git commit where there is one
    storing: Mapping[str, Any]  # the dataset's `pipeline.images.Storing`, which prediction has to repeat

    @property
    def fingerprint(self) -> str:
        """SHA-256 over dataset, config and code version; stands in `run.json`, every checkpoint and every report."""
        lasting = {name: value for name, value in _flatten(self.config) if name not in _MAY_CHANGE}
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
        storing=dict(manifest.settings.get("storing", {})),
    )


def write(workdir: str, run: Run) -> None:
    storage.write_json(storage.join(workdir, FILE), {**dataclasses.asdict(run), "fingerprint": run.fingerprint})


def check_same(workdir: str, run: Run) -> None:
    """Checks that the checkpoints in `workdir` belong to this run.

    Raises:
      InputError: where they are of other classes, another dataset or another config, naming the difference.
    """
    existing = load(workdir)
    check_classes(existing, run.classes, run.data)
    if existing.dataset_fingerprint != run.dataset_fingerprint:
        raise InputError(f"{workdir} holds a run on other data ({existing.data}): use another --workdir for {run.data}")
    before, now = dict(_flatten(existing.config)), dict(_flatten(run.config))
    changed = [
        f"config.{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if name not in _MAY_CHANGE and before.get(name) != now.get(name)
    ]
    if changed:
        raise InputError(f"{workdir} holds a run with another config ({'; '.join(changed)}): use another --workdir")


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
    """The installed version, or `source`; with the commit where this is a checkout of its own."""
    try:
        version = importlib.metadata.version("shardline")
    except importlib.metadata.PackageNotFoundError:
        version = "source"
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not os.path.exists(os.path.join(root, ".git")):  # an installed copy may lie inside somebody else's checkout
        return version
    git = ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{version}+{commit}"


def _flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every field, with items of lists numbered."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else key)
    elif isinstance(config, list):
        for index, value in enumerate(config):
            yield from _flatten(value, f"{prefix}[{index}]")
    else:
        yield prefix, config
