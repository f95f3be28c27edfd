"""Where to keep a split between epochs: its size and the memory there is go in, a choice and its reason come out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.errors import InputError

MODES = ("auto", "none", "encoded", "decoded", "disk")
# A third of what is free: the model, its optimizer and the shuffle and prefetch buffers need the rest.
MEMORY_SHARE = 1 / 3


class Choice(NamedTuple):
    # none: read every epoch; encoded: stored bytes in memory; decoded: uint8 pixels in memory; disk: on a local disk
    mode: str
    reason: str


def choose(
    mode: str, *, stored_bytes: int, decoded_bytes: int, available_bytes: int, disk_bytes: int | None = None
) -> Choice:
    """Resolves `mode`; bytes are those of one worker's part of the split.

    Args:
      disk_bytes: what decoded images may take on disk, None where nobody allowed it; needed for `disk`.

    Raises:
      InputError: for an unknown mode, or a disk that is too small.
    """
    if mode not in MODES:
        raise InputError(f"cache={mode!r}: expected one of {', '.join(MODES)}")
    if mode == "disk" and disk_bytes is not None and decoded_bytes > disk_bytes:
        raise InputError(
            f"cache='disk': the decoded images take {_mib(decoded_bytes)}, the cache's bound is {_mib(disk_bytes)}: "
            "raise input.cache_gib, give another input.cache_dir, or choose another cache"
        )
    if mode != "auto":
        return Choice(mode, "as configured")
    budget = int(available_bytes * MEMORY_SHARE)
    if decoded_bytes <= budget:
        return Choice("decoded", f"{_mib(decoded_bytes)} fit in a third of the {_mib(available_bytes)} free")
    if disk_bytes is not None and decoded_bytes <= disk_bytes:
        return Choice("disk", f"{_mib(decoded_bytes)} fit on disk, not in a third of the {_mib(available_bytes)} free")
    if stored_bytes <= budget:
        return Choice("encoded", f"{_mib(stored_bytes)} fit in a third of the {_mib(available_bytes)} free")
    return Choice("none", f"{_mib(stored_bytes)} exceed a third of the {_mib(available_bytes)} free")


def available_bytes(root: str = "/") -> int:
    """Memory this process may still take: what the machine has, or a container's or job's limit leaves of it.

    What the page cache would give back counts as free, on the machine and within a limit, else one pass over the shards
    would look like a lack of memory.

    Args:
      root: where proc and sys are mounted.
    """
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, KeyError, ValueError):
        available = _numbers(os.path.join(root, "proc/meminfo"))["MemAvailable:"] * 1024
    return max(0, min([available, *_left_by_limits(root)]))


def _left_by_limits(root: str) -> Iterator[int]:
    """What each control group that this process is in leaves, the outer ones too: any of them may be the narrowest.

    Version 2: https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files, version 1:
    https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
    """
    try:
        with open(os.path.join(root, "proc/self/cgroup")) as stream:
            groups = [line.rstrip("\n").split(":", 2) for line in stream]
    except OSError:
        return
    for _, controllers, path in groups:
        if not controllers:
            mount, most, used, prefix = "sys/fs/cgroup", "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            mount, most, used, prefix = (
                "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_",
            )  # fmt: skip
        else:
            continue
        parts = path.strip("/").split("/")
        for depth in range(len(parts) + 1):
            folder = os.path.join(root, mount, *parts[:depth])
            with contextlib.suppress(OSError, ValueError, KeyError):  # not there, or the limit reads "max"
                with open(os.path.join(folder, most)) as limit, open(os.path.join(folder, used)) as current:
                    left = int(limit.read()) - int(current.read())
                stat = _numbers(os.path.join(folder, "memory.stat"))
                yield left + sum(stat[f"{prefix}{kind}_file"] for kind in ("inactive", "active"))


def _numbers(path: str) -> dict[str, int]:
    """Of a file with a name and a number on each line."""
    with open(path) as stream:
        lines = [line.split() for line in stream]
    return {line[0]: int(line[1]) for line in lines if len(line) > 1}


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"
