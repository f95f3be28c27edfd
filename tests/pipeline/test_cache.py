"""The cache's choice, case by case, and the free memory it is made from."""

from __future__ import annotations

import pathlib

import pytest

from pipeline import cache
from pipeline.errors import InputError

SIZES = {"stored_bytes": 100, "decoded_bytes": 1000}


@pytest.mark.parametrize(
    ("available_bytes", "expected"), [(3000, "decoded"), (2996, "encoded"), (300, "encoded"), (296, "none")]
)
def test_auto_takes_the_best_that_fits_in_a_third(available_bytes: int, expected: str) -> None:
    assert cache.choose("auto", **SIZES, available_bytes=available_bytes).mode == expected


def test_what_is_asked_for_is_what_comes() -> None:
    for mode in ("none", "encoded", "decoded"):
        assert cache.choose(mode, **SIZES, available_bytes=1).mode == mode
    with pytest.raises(InputError, match="expected one of auto, none"):
        cache.choose("ram", **SIZES, available_bytes=1)


def _machine(root: pathlib.Path, groups: str, files: dict[str, str]) -> str:
    """A folder with proc and sys of a machine with 100,000 MiB free."""
    files = {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 102400000 kB\n", "proc/self/cgroup": groups, **files}
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return str(root)


def test_the_narrowest_limit_around_a_process_counts(tmp_path: pathlib.Path) -> None:
    """A SLURM job's or a unit's lies below the root; what a pass over the shards left in the page cache is free."""
    mib = 2**20
    assert cache.available_bytes(_machine(tmp_path / "none", "0::/\n", {})) == 100_000 * mib
    two = {
        "sys/fs/cgroup/job/memory.max": f"{1000 * mib}\n",
        "sys/fs/cgroup/job/memory.current": f"{900 * mib}\n",
        "sys/fs/cgroup/job/memory.stat": f"anon 5\ninactive_file {500 * mib}\nactive_file {100 * mib}\n",
        "sys/fs/cgroup/job/step/memory.max": "max\n",
        "sys/fs/cgroup/job/step/memory.current": f"{900 * mib}\n",
        "sys/fs/cgroup/job/step/memory.stat": "inactive_file 0\nactive_file 0\n",
    }
    assert cache.available_bytes(_machine(tmp_path / "two", "0::/job/step\n", two)) == 700 * mib
    # In a container of version 1 the path is the host's, and its own limit stands at the root.
    one = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{800 * mib}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{300 * mib}\n",
        "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {50 * mib}\ntotal_active_file 0\n",
    }
    groups = "9:name=systemd:/\n4:cpu,memory:/docker/f00\n0::/\n"
    assert cache.available_bytes(_machine(tmp_path / "one", groups, one)) == 550 * mib


def test_available_bytes_is_plausible() -> None:
    assert 2**26 < cache.available_bytes() < 2**50
