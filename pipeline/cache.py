"""Where to keep a split between epochs: its size and the memory there is go in, a choice and its reason come out."""

from __future__ import annotations

import os
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


def available_bytes() -> int:
    """Memory this process may still take: the machine's, or the container's limit where that is lower."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/proc/meminfo") as stream:  # MemAvailable also counts what the page cache would give back
            fields = dict(line.split(":", 1) for line in stream)
        available = int(fields["MemAvailable"].split()[0]) * 1024
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as current:
            available = min(available, max(0, int(limit.read()) - int(current.read())))
    except (OSError, KeyError, ValueError):  # no procfs or cgroup v2, or the limit reads "max"
        pass
    return available


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"
