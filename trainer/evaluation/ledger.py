"""A dataset's folder in; what its ledger knows of each written image, as a column of values, out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline import storage
from pipeline.errors import InputError

# What is computed from the ledger's own columns; see `_derived`.
_DERIVED = ("shorter_side", "brightness")


def columns(data: str) -> tuple[str, ...]:
    """The columns that `read` knows, in the ledger's order; none where the dataset has no ledger.

    Raises:
      InputError: where the ledger is damaged.
    """
    for row in _rows(_parts(data)[:1]):
        return (*row, *_DERIVED)
    return ()


def read(data: str, split: str, names: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Values of the columns `names` by the image's id, the SHA-256 of its file, of all images written to `split`.

    A file with the same bytes is in the ledger as a duplicate, which no example stands for.

    Args:
      names: of `columns`.

    Raises:
      InputError: where a part is damaged or of another version.
    """
    found = {}
    for row in _rows(_parts(data)):
        if row["status"] == "written" and row["split"] == split:
            values = {**row, **_derived(row)}
            found[row["sha256"]] = tuple(values[name] for name in names)
    return found


def _derived(row: Mapping[str, Any]) -> dict[str, int]:
    """`shorter_side` in pixels of the upright source image; `brightness`, its luma in 0..255, as preparation has it."""
    red, green, blue = bytes.fromhex(row["channels"])[:3]  # means, and behind them the standard deviations
    brightness = (299 * red + 587 * green + 114 * blue) // 1000  # ITU-R BT.601-7, section 2.5.1
    return {"shorter_side": min(row["width"], row["height"]), "brightness": brightness}


def _parts(data: str) -> list[str]:
    names = [name for name, _ in storage.children(data) if name.startswith("ledger-") and name.endswith(".jsonl")]
    return [storage.join(data, name) for name in names]


def _rows(paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    for path in paths:
        with storage.open_file(path) as stream:
            for number, line in enumerate(stream, 1):
                try:
                    row = json.loads(line)
                    if not {"sha256", "status", "split", "channels", "width", "height"} <= row.keys():
                        raise ValueError("columns are missing")
                except (AttributeError, ValueError) as error:
                    raise InputError(
                        f"{path}, line {number}, is no ledger row ({error}): copy the file again"
                    ) from error
                yield row
