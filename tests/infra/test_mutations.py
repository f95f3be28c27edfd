"""Of sixty mistakes in what infra/ holds the checks find all but two; they find none in what is there."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from tests.infra import checks
from tests.infra.mutations import MUTATIONS, Mutation

_AREAS = ("kubernetes", "dataflow", "vertex", "docker", "tpu")
MAY_PASS = 2


def mutated(mutation: Mutation, folder: pathlib.Path) -> pathlib.Path:
    """A copy with the mistake in it."""
    for area in _AREAS:
        shutil.copytree(checks.ROOT / "infra" / area, folder / "infra" / area)
    shutil.copy(checks.ROOT / ".dockerignore", folder)
    for name, old, new in mutation.edits:
        file = folder / "infra" / name
        text = file.read_text(encoding="utf-8")
        assert old in text, f"{mutation.name}: {name} has no {old!r}"
        file.write_text(text.replace(old, new, 1), encoding="utf-8")
    return folder


def test_sixty_are_different() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len({mutation.edits for mutation in MUTATIONS}) == 60


@pytest.mark.parametrize("area", _AREAS)
def test_what_is_there_is_right(area: str) -> None:
    assert list(checks.AREAS[area](checks.ROOT)) == []


def test_mistakes_are_found(tmp_path: pathlib.Path) -> None:
    passed = []
    for number, mutation in enumerate(MUTATIONS):
        area = mutation.edits[0][0].partition("/")[0]
        problem = next(checks.AREAS[area](mutated(mutation, tmp_path / str(number))), "")
        print(f"{mutation.name}: {problem or 'NOT FOUND'}")
        if not problem:
            passed.append(mutation.name)
    assert len(passed) <= MAY_PASS, passed
