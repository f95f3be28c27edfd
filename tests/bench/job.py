"""A folder and flags in, what the real preparation command cost out; and its writing pass alone.

The one place that knows the command's flags and the names of its inner functions.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

from tests.bench import baselines, measure
from tests.bench.data import FOLDER

OUTPUT = FOLDER / "out"
WORKERS = "--beam_args=--runner=DirectRunner --direct_num_workers={} --direct_running_mode=multi_processing"


@functools.cache
def _help() -> str:
    command = [sys.executable, "-m", "preprocess", "--help"]
    return subprocess.run(command, cwd=measure.REPOSITORY, check=True, capture_output=True, text=True).stdout


def flags(mode: str, near_duplicates: str) -> list[str] | None:
    """What makes the command do a baseline's work; None where this version cannot."""
    wanted = {"near_duplicates": near_duplicates, "shorter_side": "0"}
    if mode == "resize":
        wanted |= {"shorter_side": str(baselines.SIDE), "jpeg_quality": str(baselines.QUALITY)}
        wanted |= {"chroma": baselines.CHROMA}
    missing = [name for name in wanted if f"--{name}=" not in _help()]
    if missing and (mode == "resize" or near_duplicates != "ignore"):
        return None
    return [f"--{name}={value}" for name, value in wanted.items() if name not in missing]


def run(folder: pathlib.Path, arguments: list[str]) -> measure.Cost:
    """The command on `folder`, in a process of its own, with its output removed afterwards."""
    shutil.rmtree(OUTPUT, ignore_errors=True)
    command = [sys.executable, "-m", "preprocess", f"--input={folder}", f"--output={OUTPUT}", "--name=bench"]
    cost = measure.run([*command, *arguments])
    shutil.rmtree(OUTPUT)
    return cost


def main(mode: str, root: str, output: str) -> None:
    """`python -m tests.bench.job MODE INPUT OUTPUT` prints the CPU seconds of the writing pass alone."""
    spent = write_only(mode, os.path.abspath(root), os.path.abspath(output))
    print(json.dumps({"cpu_s": spent}))


def write_only(mode: str, root: str, output: str) -> float:
    """Inspects everything first, untimed; then times what one worker does for all shards, one after the other."""
    from preprocess import inspection, job, layout, settings, shards, splits

    resize = mode == "resize"
    opened = job.open_job(
        settings.parse(
            input=[root],
            output=output,
            name="bench",
            version="1.0.0",
            splits="train=1",
            seed=42,
            shard_bytes=0,
            max_workers=baselines.SHARDS,
            shorter_side=baselines.SIDE if resize else 0,
            jpeg_quality=baselines.QUALITY,
            chroma=baselines.CHROMA,
            lossless=False,
            group_by="",
            near_duplicates="ignore",
            grow_from="",
            replay_quarantine="",
            job="bench",
        )
    )
    checked, (source,) = opened.settings, opened.inputs
    for folder in (checked.staging, checked.scratch):
        os.makedirs(folder)
    found = [one for piece in source.pieces() for one in source.sources(piece)]
    facts = [
        one for tag, some in inspection.inspect(found, opened.inputs, checked.storing) if tag == "main" for one in some
    ]
    placed = [
        splits.Placed(dataclasses.replace(one, split="train"), False, position) for position, one in enumerate(facts)
    ]
    counts = {deck: dataclasses.replace(count, position=0) for deck, count in layout.count(placed, checked.storing)}
    planned = layout.make_layout(counts, ["train"], checked.shard_bytes, checked.max_workers, {}, {})
    by_shard: dict[int, list[inspection.Facts]] = {}
    for one in placed:
        by_shard.setdefault(planned.shard(one), []).append(one.facts)
    before = baselines.cpu_s()
    for index, group in sorted(by_shard.items()):
        for _ in shards.write_shard(("train", index), [group], checked, planned, opened.inputs):
            pass
    return baselines.cpu_s() - before


if __name__ == "__main__":
    main(*sys.argv[1:])
