"""Everything before publishing, on four images; as a process of its own it then waits for a line and publishes.

    python tests/preprocess/publisher.py

takes lines INPUT OUTPUT JOB [--overwrite], says "ready" to each, and after one more line "published", or the one line
that the loser of a race is told.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import sys
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
    logging.disable(logging.WARNING)  # importing Beam warns about Google libraries that only Dataflow needs

from pipeline.errors import InputError
from preprocess import accounts, inspection, job, ledger, places, publish, relations, settings, shards, statistics
from preprocess.inputs import Source
from preprocess.layout import Layout, SplitLayout
from preprocess.settings import Settings

LAYOUT = Layout(("ant", "bee"), {"train": SplitLayout(2, 400, {"ant": 2, "bee": 2})}, {})
SEEN = {"ant": 2, "bee": 2}


def new_settings(source: str, output: str, job: str) -> Settings:
    return settings.parse(
        input=[source],
        output=output,
        name="tiny",
        version="1.0.0",
        splits="train=1",
        seed=42,
        shard_bytes=0,
        max_workers=2,
        shorter_side=0,
        jpeg_quality=95,
        chroma="4:4:4",
        lossless=False,
        group_by="",
        near_duplicates="join",
        grow_from="",
        replay_quarantine="",
        job=job,
    )


@dataclasses.dataclass(frozen=True)
class Staged:
    """Two shards of an ant and a bee each, and all that is known about them."""

    job: job.Job
    written: tuple[shards.Written, ...]
    part: tuple[str, ledger.Tally]
    findings: accounts.Findings

    def manifest(self, **changed: Any) -> accounts.Manifest:
        given = {"written": self.written, "seen": SEEN, **changed}
        return accounts.make_manifest(self.job, LAYOUT, sums=self.part[1], findings=self.findings, **given)

    def publish(self) -> None:
        publish.publish(self.job, self.manifest(), [self.part[0]], "<p>report</p>")


def staged(settings: Settings) -> Staged:
    """Runs everything before publishing."""
    opened = job.open_job(settings)
    written: list[shards.Written] = []
    rows: list[ledger.Row] = []
    images: list[inspection.Facts] = []
    for index in range(2):
        batch = [Source(0, f"{name}/{index}.png", name) for name in LAYOUT.classes]
        ((_, found),) = inspection.inspect(batch, opened.inputs, settings.storing)
        images += [facts for facts in found if isinstance(facts, inspection.Facts)]
        for tag, result in shards.write_shard(("train", index), [images[-2:]], settings, LAYOUT, opened.inputs):
            if tag == "rows":
                rows += result
            else:
                written.append(shards.verify_written(result, settings))
    part = ledger.write_part(0, 1, [rows], settings.staging, settings.scratch)
    sums = statistics.summarize(("train", facts) for facts in images)
    return Staged(opened, tuple(written), part, accounts.Findings(sums, relations.EMPTY, 0))


def main() -> None:
    while line := sys.stdin.readline():
        source, output, job, *overwrite = line.split()
        try:
            with places.prepare(new_settings(source, output, job), overwrite=bool(overwrite)) as ready:
                given = staged(ready.settings)
                print("ready", flush=True)
                sys.stdin.readline()
                given.publish()
        except InputError as error:
            print(f"error: {error}", flush=True)
        else:
            print("published", flush=True)


if __name__ == "__main__":
    main()
