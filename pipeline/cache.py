"""Where to keep a split between epochs: its size and the memory there is go in, a choice and its reason come out."""

from __future__ import annotations

import os
from typing import NamedTuple

from pipeline.errors import InputError

MODES = ("auto", "none", "encoded", "decoded")
# A third of what is free: the model, its optimizer and the shuffle and prefetch buffers need the rest.
MEMORY_SHARE = 1 / 3


class Choice(NamedTuple):
    mode: str  # none: read every epoch; encoded: stored bytes in memory; decoded: uint8 pixels in memory
    reason: str


def choose(
    mode: str, *, stored_bytes: int, decoded_bytes: int, available_bytes: int, examples: int, shuffle_buffer: int
) -> Choice:
    """Resolves `mode`; bytes are those of one worker's part of the split, examples those of all workers together.

    Only a split that the shuffle buffer holds whole can be cached: a larger one is read with its shards in another
    order each epoch, and a cache would pin the first epoch's order.

    Raises:
      InputError: for an unknown mode, or a cache asked for a split larger than the shuffle buffer.
    """
    if mode not in MODES:
        raise InputError(f"cache={mode!r}: expected one of {', '.join(MODES)}")
    fits_buffer = examples <= shuffle_buffer
    if mode == "none":
        return Choice("none", "as configured")
    if mode != "auto":
        if not fits_buffer:
            raise InputError(
                f"cache={mode!r} needs shuffle_buffer >= {examples:,} (the split's examples), it is "
                f"{shuffle_buffer:,}: raise input.shuffle_buffer or use cache=none"
            )
        return Choice(mode, "as configured")
    if not fits_buffer:
        return Choice("none", f"{examples:,} examples exceed the shuffle buffer of {shuffle_buffer:,}")
    budget = int(available_bytes * MEMORY_SHARE)
    for candidate, needed in (("decoded", decoded_bytes), ("encoded", stored_bytes)):
        if needed <= budget:
            return Choice(candidate, f"{_mib(needed)} fit in a third of the {_mib(available_bytes)} free")
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
