"""What holds for the project as a whole: the lock, the packages, the direction of imports, the size of files."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = pathlib.Path(__file__).parents[1]
# Who may import whom. Command files (__main__.py, trainer/commands) may import configs as well.
ALLOWED = {
    "configs": {"configs"},
    "pipeline": {"pipeline"},
    "preprocess": {"preprocess", "pipeline"},
    "trainer": {"trainer", "pipeline"},
}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins() -> list[tuple[Requirement, list[str]]]:
    """Each pin of the lock with its hashes; a pin is one logical line."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    parsed = []
    for line in lines:
        requirement, *hashes = line.split(" --hash=")
        parsed.append((Requirement(requirement), [value.strip() for value in hashes]))
    return parsed


def tracked_files() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def imported(source: str) -> set[str]:
    """Top-level names of all absolute imports, those inside functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are written absolutely, so that their direction can be seen"
            names.add((node.module or "").partition(".")[0])
    return names


def test_lock_pins_exactly_with_hashes_and_names_no_index() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*(#|--(extra-)?index-url|--find-links)", text, re.MULTILINE)
    for requirement, hashes in pins():
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), requirement


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_lock_holds_every_requirement_within_its_bounds(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    locked: dict[str, str] = {}
    for requirement, _ in pins():
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in locked, f"{name} is pinned twice for Python {python}"
            locked[name] = next(iter(requirement.specifier)).version
    metadata = project()["project"]
    wanted = [Requirement(line) for line in metadata["dependencies"] + metadata["optional-dependencies"]["dev"]]
    for requirement in wanted:
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_imports_run_one_way() -> None:
    for package, allowed in ALLOWED.items():
        for path in (ROOT / package).rglob("*.py"):
            ours = imported(path.read_text(encoding="utf-8")) & {*ALLOWED, "tests", "infra"}
            command = path.name == "__main__.py" or path.parent == ROOT / "trainer/commands"
            granted = {*allowed, "configs"} if command else allowed
            assert ours <= granted, f"{path.relative_to(ROOT)} imports {', '.join(sorted(ours - granted))}"


def test_files_without_tensors_do_not_import_tensorflow() -> None:
    for name in (
        "pipeline/buckets.py",
        "pipeline/colors.py",
        "pipeline/formats.py",
        "pipeline/headers.py",
        "pipeline/images.py",
        "pipeline/manifest.py",
        "pipeline/page.py",
        "pipeline/storage.py",
        "pipeline/versions.py",
        "trainer/metrics.py",
        *(str(path.relative_to(ROOT)) for path in (ROOT / "trainer/report").glob("*.py")),
    ):
        assert not imported((ROOT / name).read_text(encoding="utf-8")) & {"tensorflow", "keras"}, name


def test_no_tracked_file_is_over_1_mib() -> None:
    assert [name for name in tracked_files() if (ROOT / name).stat().st_size > 2**20] == []


def test_text_files_end_with_one_newline_and_carry_no_conflict() -> None:
    for name in tracked_files():
        data = (ROOT / name).read_bytes()
        if b"\0" in data or not data:
            continue
        assert data.endswith(b"\n"), name
        assert not data.endswith(b"\n\n"), name
        assert not re.search(rb"^(<{7}|>{7}) ", data, re.MULTILINE), name
