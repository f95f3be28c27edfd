"""A finished dataset and a corrections file in, a new version out in which every image stays where it is.

Shards with corrections are written again, record by record; the others are taken over as they are. Images are never
decoded, and what the dataset was made from is not asked for. A removed image leaves its shard one record shorter than
its neighbours: see `streams`.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsDict, AsIter, AsSingleton

from pipeline import images, manifest, order, storage
from pipeline.manifest import Manifest, Split
from preprocess import (
    accounts,
    corrections,
    growth,
    ledger,
    partitions,
    publish,
    relations,
    report,
    samples,
    statistics,
    summary,
)
from preprocess.corrected_shards import Place, Plan, Written, correct_shard
from preprocess.corrections import Corrections, Resolved
from preprocess.inputs import Classes
from preprocess.inspection import Facts
from preprocess.job import Job
from preprocess.ledger import Row
from preprocess.samples import QUARANTINED
from preprocess.settings import Settings
from preprocess.shards import stored_pixels

_ALL_MIB = 2**20  # a window that is no reason for fewer streams


def open_job(settings: Settings, path: str) -> tuple[Job, Corrections]:
    """Opens the version that is corrected, and the corrections.

    Raises:
      InputError: where either can't be used.
    """
    old = manifest.load(settings.correct)
    manifest.verify(settings.correct, old, list(old.splits))
    return Job(settings, (), Classes(old.classes, ()), tuple(old.splits), old), corrections.read(path, old)


def build(pipeline: beam.Pipeline, job: Job, given: Corrections, plan_file: str | None = None) -> None:
    """Adds the whole job to `pipeline`; with `plan_file` only up to the plan, which goes there as JSON."""
    settings, old = job.settings, _earlier(job)
    once = pipeline | "Once" >> beam.Create([None])
    # What is there, and what the corrections make of it: refused before the first shard is written.
    rows = (
        pipeline
        | "LedgerParts" >> beam.Create(growth.ledger_parts(settings.correct))
        | "SpreadParts" >> beam.Reshuffle()
        | "ReadRows" >> beam.FlatMap(growth.read_rows)
    )
    matches = rows | "Match" >> beam.FlatMap(corrections.match, given)
    resolved = once | "Resolve" >> beam.Map(lambda _, found: corrections.resolve(found, given, old), AsIter(matches))
    pairs = rows | "Correct" >> beam.Map(
        lambda batch, resolved: [(row, corrections.correct(row, resolved)) for row in batch], AsSingleton(resolved)
    )
    corrected = pairs | "Corrected" >> beam.Map(lambda batch: [after for _, after in batch])
    moved = pairs | "Moved" >> beam.FlatMap(corrections.moved) | "CountMoved" >> beam.CombinePerKey(sum)
    touched = pairs | "Touched" >> beam.FlatMap(_touched) | "EachOnce" >> beam.Distinct()
    described = corrected | "Described" >> beam.Map(_describe)
    counts = (
        described
        | "Count" >> beam.FlatMap(lambda batch: [((split, facts.class_name), 1) for split, facts in batch])
        | "CountLeft" >> beam.CombinePerKey(sum)
    )
    plan = once | "Plan" >> beam.Map(
        lambda _, *found: _plan(old, *found), AsSingleton(resolved), AsIter(touched), AsDict(counts)
    )
    if plan_file is not None:
        _ = plan | "WritePlan" >> beam.Map(lambda plan: storage.write_json(plan_file, describe(plan)))
        return
    # What the report says and shows.
    sums = described | "Sums" >> beam.Map(statistics.summarize) | "AllSums" >> beam.CombineGlobally(statistics.merge)
    storing = images.Storing(**old.settings["storing"])
    pixels = (
        described
        | "StoredPixels"
        >> beam.FlatMap(lambda batch: [(split, stored_pixels(facts, storing)) for split, facts in batch])
        | "AllPixels" >> beam.CombinePerKey(sum)
    )
    fractions = growth.fractions(old)
    related = (
        described
        | "ByGroup" >> beam.FlatMap(_spread_groups, partitions.count(old.ledger["seen"]))
        | "MeetGroups" >> beam.GroupByKey()
        | "Relate" >> beam.Map(_relate, fractions, int(old.settings["seed"]))
        | "AllRelations" >> beam.CombineGlobally(relations.merge)
    )
    candidates = (
        (
            described | "Contacts" >> beam.Map(samples.choose_contacts),
            corrected | "Quarantined" >> beam.Map(samples.choose_quarantined),
        )
        | "Chosen" >> beam.Flatten()
        | "Choose" >> beam.CombineGlobally(samples.merge)
        | "Candidates" >> beam.Map(lambda each, related: samples.finish(each, related.pairs), AsSingleton(related))
    )
    # Whole shards, each by one worker, read once: checked, corrected where it has to be, and looked at for the report.
    written = (
        pipeline
        | "Shards" >> beam.Create(_places(old))
        | "SpreadShards" >> beam.Reshuffle()
        | "CorrectShard"
        >> beam.FlatMap(correct_shard, settings, old, AsSingleton(plan), AsSingleton(candidates)).with_outputs(
            "samples", main="main"
        )
    )
    parts = (
        corrected
        | "RenameShards" >> beam.Map(_rename_shards, settings.name, old)
        | "ByPart" >> beam.FlatMap(_spread_rows, ledger.part_count(old.ledger["seen"]))
        | "GroupByPart" >> beam.GroupByKey()
        | "WriteLedgerPart"
        >> beam.Map(
            lambda group: ledger.write_part(
                group[0], ledger.part_count(old.ledger["seen"]), group[1], settings.staging, settings.scratch
            )
        )
    )
    # One element, after everything it looks at: the dataset exists when this ends, whoever still watches the job.
    _ = plan | "Publish" >> beam.Map(
        _publish,
        job,
        AsIter(written.main),
        AsIter(parts),
        AsDict(moved),
        AsDict(pixels),
        AsSingleton(sums),
        AsSingleton(related),
        AsSingleton(candidates),
        AsIter(written.samples),
    )


def describe(plan: Plan) -> dict[str, int]:
    """The manifest's `statistics["corrections"]`."""
    removed = sum(not label for label in plan.resolved.labels.values())
    return {
        "relabelled": len(plan.resolved.labels) - removed,
        "removed": removed,
        "shards_rewritten": len(plan.touched),
    }


def render(found: Mapping[str, int]) -> str:
    """What `describe` found, in a line."""
    return (
        f"{found['relabelled']:,} images with another label, {found['removed']:,} removed; "
        f"{found['shards_rewritten']:,} shards written anew, the others are taken over as they are"
    )


def notes(old: Manifest, new: Manifest) -> Iterator[str]:
    """What somebody who trains on `new` should know.

    Shards that were written together differ by one record at most. Removing images ends that, and where they differ by
    more the trainer deals fewer streams (see `order.plan`), in the worst case one that all workers read.
    """
    for name, split in new.splits.items():
        before, after = (
            len(order.plan(one, global_batch=order.MAX_STREAMS, shuffle_mib=_ALL_MIB).streams)
            for one in (old.splits[name], split)
        )
        if after < before:
            sizes = [shard.examples for shard in split.shards]
            yield (
                f"the shards of {name} hold {min(sizes):,} to {max(sizes):,} images now: training reads {after}, not "
                f"{before}, equal streams, which costs several workers time; --grow_from writes them evenly again"
            )


def _earlier(job: Job) -> Manifest:
    if job.earlier is None:
        raise ValueError("nothing to correct")
    return job.earlier


def _touched(pairs: Iterable[tuple[Row, Row]]) -> Iterator[str]:
    yield from {before.shard for before, after in pairs if before.status == "written" and before != after}


def _describe(rows: Iterable[Row]) -> list[tuple[str, Facts]]:
    return [(row.split, growth.old_facts(row)) for row in rows if row.status == "written"]


def _plan(old: Manifest, resolved: Resolved, touched: Iterable[str], counts: Mapping[tuple[str, str], int]) -> Plan:
    corrections.check_left(counts, old)
    return Plan(resolved, frozenset(touched))


def _spread_groups(described: Sequence[tuple[str, Facts]], count: int) -> Iterator[tuple[int, Sequence[Facts]]]:
    return partitions.spread(
        [facts for _, facts in described], lambda facts: partitions.of_node(bytes.fromhex(facts.group_id[:32]), count)
    )


def _relate(met: tuple[int, Iterable[Sequence[Facts]]], fractions: Mapping[str, Any], seed: int) -> relations.Relations:
    """Relations of one partition's groups; where planning chose the splits, each image's own is forgotten."""
    groups: dict[str, list[Facts]] = collections.defaultdict(list)
    for batch in met[1]:
        for facts in batch:
            groups[facts.group_id].append(dataclasses.replace(facts, split="") if fractions else facts)
    alone = functools.partial(relations.split_alone, fractions=fractions, seed=seed)
    return relations.merge(relations.describe(group, alone) for group in groups.values())


def _places(old: Manifest) -> list[Place]:
    return [Place(name, index, shard) for name, split in old.splits.items() for index, shard in enumerate(split.shards)]


def _rename_shards(rows: Sequence[Row], name: str, old: Manifest) -> list[Row]:
    return [
        dataclasses.replace(row, shard=growth.shard_name(name, row.shard, len(old.splits[row.split].shards)))
        if row.shard
        else row
        for row in rows
    ]


def _spread_rows(rows: Sequence[Row], parts: int) -> Iterator[tuple[int, Sequence[Row]]]:
    return partitions.spread(rows, lambda row: ledger.part_of(row, parts))


def _publish(
    plan: Plan,
    job: Job,
    written: Iterable[Written],
    parts: Iterable[tuple[str, ledger.Tally]],
    moved: Mapping[str, int],
    pixels: Mapping[str, int],
    sums: statistics.Statistics,
    related: relations.Relations,
    candidates: Sequence[samples.Candidate],
    shown: Iterable[samples.Sample],
) -> None:
    parts = list(parts)
    tally = ledger.merge(tally for _, tally in parts)
    result = _manifest(job, plan, written, tally, moved, pixels, sums, related)
    pictures = [*shown, *(one.sample(b"") for one in candidates if one.kind == QUARANTINED)]
    page = report.render(result.to_json(), pictures, summary.ADVICE)
    publish.publish(job, result, [name for name, _ in parts], page)


def _manifest(
    job: Job,
    plan: Plan,
    written: Iterable[Written],
    tally: ledger.Tally,
    moved: Mapping[str, int],
    pixels: Mapping[str, int],
    sums: statistics.Statistics,
    related: relations.Relations,
) -> Manifest:
    """Settings stay those of the version that is corrected, so that it can grow like that one.

    Raises:
      RuntimeError: where shards and ledger contradict each other, which is a defect of this program.
    """
    old = _earlier(job)
    found = {(one.place.split, one.place.index): one.shard for one in written}
    lists = {name: [found[name, index] for index in range(len(split.shards))] for name, split in old.splits.items()}
    splits = {name: Split(sum(one.examples for one in stored), tuple(stored)) for name, stored in lists.items()}
    described = statistics.to_json(sums, list(splits), old.classes)
    if any(sum(described["examples_by_class"][name].values()) != split.examples for name, split in splits.items()):
        raise RuntimeError(f"the shards hold {splits}, the ledger says {described['examples_by_class']}")
    before, after = (sum(split.examples for split in some.values()) for some in (old.splits, splits))
    seen = {name: counts["seen"] + moved.get(name, 0) for name, counts in old.ledger["by_class"].items()}
    return Manifest(
        name=job.settings.name,
        version=job.settings.version,
        fingerprint=manifest.fingerprint(old.classes, splits),
        grown_from=old.fingerprint,
        classes=old.classes,
        splits=splits,
        ledger=ledger.balance(seen, tally),
        settings=old.settings,
        statistics={
            **described,
            "corrections": describe(plan),
            "growth": {"kept": after, "added": 0, "gone": before - after},
            "groups": relations.to_json(related, own_splits=not old.settings["splits"]),
            "pixels": dict(pixels),
            "left_out": accounts.left_out(tally),
        },
    )
