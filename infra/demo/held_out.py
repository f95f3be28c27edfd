"""A dataset's folder and its input folder in; the paths of five test images, each of another class, out."""

from __future__ import annotations

import json
import pathlib
import sys


def choose(dataset: pathlib.Path, photos: pathlib.Path, count: int) -> list[pathlib.Path]:
    """The first test image of each of the first `count` classes, by the dataset's ledger."""
    first: dict[str, str] = {}
    for part in sorted(dataset.glob("ledger-*.jsonl")):
        for line in part.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["split"] == "test":
                first[row["class"]] = min(row["file"], first.get(row["class"], row["file"]))
    return [photos / first[name] for name in sorted(first)[:count]]


if __name__ == "__main__":
    print(*choose(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), 5), sep="\n")
