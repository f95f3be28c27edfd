"""What a working directory says of itself: `run.json`, written before the first step, read by every command."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline import manifest as manifest_lib
from pipeline import storage
from pipeline.errors import InputError

FILE = "run.json"
# What may change between two starts of one run: how far, how often, what is written and how it is computed; never what
# a step learns.
_MAY_CHANGE = (
    "max_steps",
    "monitor.patience",
    "monitor.restore_best",  # every checkpoint says whether it was the best: the end may take either
    "divergence",  # acts only where the run would have ended; a rollback's lower rate stays with the run
    "checkpoint_every_steps",
    "checkpoints_kept",
    "logs",
    "xla",
    "steps_per_call",
    "input.cache",
    "input.cache_dir",
    "input.cache_gib",
)
_PACKAGES = ("shardline", "tensorflow", "tensorflow-tpu", "keras", "numpy", "apache-beam", "tensorflow-datasets")


@dataclasses.dataclass(frozen=True)
class Run:
    data: str  # the dataset's folder
    dataset_fingerprint: str
    classes: tuple[str, ...]
    config: Mapping[str, Any]
    code: str  # version, and the git commit where there is one
    packages: Mapping[str, str]  # versions of Python and of what decides a result
    storing: Mapping[str, Any]  # the dataset's `pipeline.images.Storing`, which prediction has to repeat

    @property
    def fingerprint(self) -> str:
        """SHA-256 over dataset, config and code version; stands in `run.json`, every checkpoint and every report."""
        lasting = {name: value for name, value in _flatten(self.config) if not _may_change(name, self.config)}
        content = [self.dataset_fingerprint, list(self.classes), lasting, self.code]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def about(self) -> dict[str, Any]:
        """All of it as JSON, with the fingerprint: the content of `run.json`, carried by every checkpoint, too."""
        return {**dataclasses.asdict(self), "classes": list(self.classes), "fingerprint": self.fingerprint}


def describe(data: str, manifest: manifest_lib.Manifest, config: Mapping[str, Any]) -> Run:
    plain = json.loads(json.dumps(config))  # tuples become lists, as they will when they are read back
    return Run(
        data=data if "://" in data else os.path.abspath(data),
        dataset_fingerprint=manifest.fingerprint,
        classes=tuple(manifest.classes),
        config=plain,
        code=code_version(),
        packages=package_versions(),
        storing=dict(manifest.settings.get("storing", {})),
    )


def number_of(run: Run) -> int:
    """Of all that workers have to agree on, the settings that may change between two starts included; below 2**60."""
    content = json.dumps([run.fingerprint, run.config], sort_keys=True)
    return int(hashlib.sha256(content.encode()).hexdigest()[:15], 16)


def write(workdir: str, run: Run) -> None:
    storage.write_json(storage.join(workdir, FILE), run.about())


def check_same(workdir: str, run: Run) -> None:
    """Checks that the checkpoints in `workdir` belong to this run; warns where other code or packages go on with it.

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
        if not _may_change(name, run.config) and before.get(name) != now.get(name)
    ]
    if changed:
        raise InputError(f"{workdir} holds a run with another config ({'; '.join(changed)}): use another --workdir")
    if other := _other_versions(existing, run):
        logging.warning("%s goes on with other versions, so the last bits may differ: %s", workdir, "; ".join(other))


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
        raise InputError(
            f"{path} is damaged or of another version ({error!r}): train again in another --workdir"
        ) from error


def check_classes(run: Run, classes: tuple[str, ...], data: str) -> None:
    """Raises InputError, showing both lists, where `data` has other classes or another order than the model."""
    check_class_names(run.classes, classes, data)


def check_class_names(known: Sequence[str], classes: Sequence[str], data: str) -> None:
    """`check_classes` for a model that knows the classes `known`."""
    if list(known) != list(classes):
        raise InputError(
            f"the model knows the classes {list(known)}, {data} has {list(classes)}: names and order must be the same"
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


def package_versions() -> dict[str, str]:
    """Python's version and those of the installed packages that decide a result."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _other_versions(before: Run, now: Run) -> list[str]:
    """What code and packages were and are, where they differ."""
    old, new = {"code": before.code, **before.packages}, {"code": now.code, **now.packages}
    return [
        f"{name} was {old.get(name, 'missing')}, now {new.get(name, 'missing')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _may_change(name: str, config: Mapping[str, Any]) -> bool:
    """Whether the field with this dotted name, or the group it is in, may change in a run with this config."""
    if name == "evaluate_every_epochs":
        # A plateau's rate falls by the number of evaluations without gain: how often is what a step learns there.
        return all(phase.get("schedule") != "plateau" for phase in config["phases"])
    return name in _MAY_CHANGE or name.partition(".")[0] in _MAY_CHANGE


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
