"""Each image's lock holds what the code in it imports, and what its *.in names."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import pathlib
import re
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.infra.docker_rules import pins

ROOT = pathlib.Path(__file__).parents[2]
IMAGES = ROOT / "infra/docker"
# What only some commands import, which no image starts, and what the preparation leaves to the trainer.
_EXPORT = {"ai-edge-litert", "onnx", "onnxruntime", "tf2onnx"}
_SERVE = {"prometheus-client", "python-multipart", "starlette", "uvicorn"}
_OF_EXTRAS = {"keras-tuner", "mlflow-skinny"} | _EXPORT | _SERVE
LEFT_OUT = {
    "trainer": _OF_EXTRAS,
    "trainer-tpu": _OF_EXTRAS | {"tensorflow"},
    "preprocess": {"keras", "ml-collections", "tensorflow"},
}
CODE = {
    "trainer": ("configs", "pipeline", "trainer"),
    "trainer-tpu": ("configs", "pipeline", "trainer"),
    "preprocess": ("pipeline", "preprocess"),
}


@functools.lru_cache
def imported(package: str) -> frozenset[str]:
    """Top-level modules that a package of ours imports, other than ours and Python's own."""
    found: set[str] = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(f"{node.module}.{node.names[0].name}" if node.module == "google.cloud" else node.module or "")
    ours = {"configs", "pipeline", "preprocess", "trainer"}
    return frozenset(name for name in found if name.partition(".")[0] not in ours | sys.stdlib_module_names)


def distribution(module: str) -> str:
    """Which one a module is of."""
    if module.startswith("google.protobuf"):
        return "protobuf"
    if module.startswith("google."):  # a namespace that many share
        parts = module.split(".")
        return canonicalize_name("-".join(parts[: 3 if parts[1] == "cloud" else 2]))
    by_module = importlib.metadata.packages_distributions()
    (name, *_) = sorted(by_module.get(module.partition(".")[0], [module]))
    return canonicalize_name(name)


@pytest.mark.parametrize("image", CODE)
def test_the_lock_holds_what_is_imported(image: str) -> None:
    modules = set().union(*(imported(package) for package in CODE[image]))
    wanted = {distribution(module) for module in modules} - LEFT_OUT[image]
    assert wanted - set(pins(IMAGES / f"{image}.txt")) == set()


@pytest.mark.parametrize("image", [*CODE, "build"])
def test_the_lock_holds_what_is_named(image: str) -> None:
    lines = (IMAGES / f"{image}.in").read_text(encoding="utf-8").splitlines()
    for line in list(lines):
        if included := re.fullmatch(r"-r (.*)", line):
            lines.remove(line)
            lines += (IMAGES / included[1]).read_text(encoding="utf-8").split()
    locked = pins(IMAGES / f"{image}.txt")
    for requirement in map(Requirement, lines):
        version = locked[canonicalize_name(requirement.name)][0].removeprefix("==")
        assert requirement.specifier.contains(version), requirement


def test_a_tpu_has_one_tensorflow() -> None:
    """Both hold the same files, so installing both breaks either."""
    locked = pins(IMAGES / "trainer-tpu.txt")
    assert "tensorflow-tpu" in locked
    assert "tensorflow" not in locked
