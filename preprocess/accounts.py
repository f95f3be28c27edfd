"""Everything a job has found out in, the manifest of its dataset out; what contradicts itself is not published."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline import manifest
from pipeline.manifest import Manifest, Shard, Split
from preprocess import growth, ledger, relations, statistics
from preprocess.job import Job
from preprocess.layout import Layout
from preprocess.shards import Written


@dataclasses.dataclass(frozen=True)
class Account:
    """Files per class, and what became of those that no shard will hold."""

    seen: Mapping[str, int]
    rejected: ledger.Tally


@dataclasses.dataclass(frozen=True)
class Findings:
    """What is said about the images beyond their number."""

    statistics: statistics.Statistics
    relations: relations.Relations
    kept: int  # images of the earlier version that are still there


def make_manifest(
    job: Job,
    layout: Layout,
    written: Iterable[Written],
    sums: ledger.Tally,
    seen: Mapping[str, int],
    findings: Findings,
) -> Manifest:
    """Checks that everything that was planned is written and everything that was seen is accounted for.

    Raises:
      RuntimeError: where shards, ledger and layout contradict each other, which is a defect of this program.
    """
    found = {(one.split, one.index): one for one in written}
    splits: dict[str, Split] = {}
    pixels: dict[str, int] = {}
    for name, planned in layout.splits.items():
        new = [found.pop((name, index), None) for index in range(planned.first, planned.shards)]
        splits[name], pixels[name] = _split(job, name, planned.shards, [one for one in new if one])
        by_class = {
            class_name: sum(one.by_class.get(class_name, 0) for one in new if one) for class_name in layout.classes
        }
        if None in new or by_class != dict(planned.by_class):
            raise RuntimeError(f"split {name!r} was planned as {planned} but holds {by_class}")
    if found:
        raise RuntimeError(f"shards that nobody planned: {sorted(found)}")
    described = statistics.to_json(findings.statistics, list(splits), layout.classes)
    for name, split in splits.items():
        if sum(described["examples_by_class"][name].values()) != split.examples:
            raise RuntimeError(f"split {name!r} has {split.examples} examples, described are {described}")
    return Manifest(
        name=job.settings.name,
        version=job.settings.version,
        fingerprint=manifest.fingerprint(layout.classes, splits),
        grown_from=job.earlier.fingerprint if job.earlier else None,
        classes=layout.classes,
        splits=splits,
        ledger=ledger.balance(seen, sums),
        settings=job.settings.content(),
        statistics={
            **described,
            **_growth(job, sum(split.examples for split in splits.values()), findings.kept),
            "groups": relations.to_json(findings.relations, own_splits=job.keeps_splits),
            "pixels": pixels,
            "left_out": left_out(sums),
        },
    )


def left_out(sums: ledger.Tally) -> dict[str, Any]:
    """The manifest's `statistics["left_out"]`: how many files for each reason, and the first of them by name."""
    return {
        reason: {"files": files, "first": list(sums.named[reason])} for reason, files in sorted(sums.by_reason.items())
    }


def _split(job: Job, name: str, shards: int, new: Sequence[Written]) -> tuple[Split, int]:
    """The split with the shards it takes over in front, and its stored pixels."""
    old: tuple[Shard, ...] = ()
    pixels = sum(one.pixels for one in new)
    if job.earlier and job.settings.replay_quarantine:
        old = tuple(
            dataclasses.replace(shard, file=growth.shard_name(job.settings.name, shard.file, shards))
            for shard in job.earlier.splits[name].shards
        )
        pixels += job.earlier.statistics["pixels"][name]
    both = (*old, *(one.shard for one in new))
    return Split(sum(shard.examples for shard in both), both), pixels


def _growth(job: Job, examples: int, kept: int) -> dict[str, Any]:
    if not job.earlier:
        return {}
    before = sum(split.examples for split in job.earlier.splits.values())
    return {"growth": {"kept": kept, "added": examples - kept, "gone": before - kept}}
