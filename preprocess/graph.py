"""The Beam job, from top to bottom: inputs in, a published dataset (or only its plan) out.

Image bytes never cross a shuffle. What travels are names first, then some 200 bytes of facts per image (and the keys of
the search for near-duplicates), in lists: an element is up to a few thousand images of one partition, class or shard.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsDict, AsIter, AsSingleton, TaggedOutput

from pipeline import images, manifest, storage
from preprocess import (
    accounts,
    components,
    groups,
    growth,
    identity,
    inspection,
    layout,
    ledger,
    near_duplicates,
    partitions,
    progress,
    publish,
    relations,
    report,
    samples,
    shards,
    splits,
    statistics,
    summary,
)
from preprocess.accounts import Account, Findings
from preprocess.inputs import Hidden, Input, Rejected, Source
from preprocess.inspection import Facts
from preprocess.job import Job

# Files that one element carries through inspection: a fraction of a second's work, so that workers finish together.
_BATCH = 64
_THUMBNAIL_PX = 96  # a dozen in a row on a desktop, four on a phone; about 2 KB each


def build(pipeline: beam.Pipeline, job: Job, plan_file: str | None = None) -> None:
    """Adds the whole job to `pipeline`; with `plan_file` only up to the plan, which goes there as a JSON `Summary`."""
    settings, inputs, keep_splits, fresh = job.settings, job.inputs, job.keeps_splits, job.earlier is None
    compare = settings.near_duplicates != groups.IGNORE
    once = pipeline | "Once" >> beam.Create([None])
    # What there is: the only step that lists, so what it counts is what the ledger has to account for.
    listed = (
        pipeline
        | "Pieces" >> beam.Create([(index, piece) for index, each in enumerate(inputs) for piece in each.pieces()])
        | "SpreadPieces" >> beam.Reshuffle()
        | "ListFiles" >> _step(lambda piece: _list_files(inputs[piece[0]], piece[1]), "rows", "seen")
    )
    if settings.earlier:  # what became of every file then
        earlier_rows = (
            pipeline
            | "LedgerParts" >> beam.Create(growth.ledger_parts(settings.earlier))
            | "ReadRows" >> beam.FlatMap(growth.read_rows)
        )
    if settings.replay_quarantine:  # of what there is only what was left out before; what was not stays in its shard
        listed = (
            {
                "rows": earlier_rows | "RowsByName" >> beam.FlatMap(growth.spread_names, job.earlier_partitions),
                "files": listed.main | "FilesByName" >> beam.FlatMap(growth.spread_names, job.earlier_partitions),
                "unlisted": listed.rows | "UnlistedByName" >> beam.FlatMap(growth.spread_names, job.earlier_partitions),
            }
            | "MeetNames" >> beam.CoGroupByKey()
            | "LeftOutBefore" >> _step(lambda names: growth.replay(**names[1]), "rows", "standing", "old", "seen")
        )
    seen = listed.seen | "CountSeen" >> beam.CombinePerKey(sum)
    partition_count = AsSingleton(
        seen
        | "SeenPerClass" >> beam.Values()
        | "CountFiles" >> beam.CombineGlobally(sum)
        | "Partitions" >> beam.Map(partitions.count)
    )
    # What each file is: the one complete read and decode.
    inspected = (
        listed.main
        | "SpreadFiles" >> beam.Reshuffle()
        | "Inspect" >> _step(lambda batch: inspection.inspect(batch, inputs, settings.storing, compare), "rows")
    )
    # Equal bytes are one image, or a contradiction; one of an earlier version stays in its split and as corrected.
    known = (
        (inspected.main, listed.old) | "OldAndNew" >> beam.Flatten() if settings.replay_quarantine else inspected.main
    )
    same_bytes = {"facts": known | "FactsByBytes" >> beam.FlatMap(_spread_facts, partition_count)}
    if settings.earlier:
        same_bytes["pins"] = (
            earlier_rows
            | "Pins" >> beam.FlatMap(growth.pins)
            | "PinsByBytes" >> beam.FlatMap(growth.spread_pins, partition_count)
        )
    unique = (
        same_bytes
        | "GroupByBytes" >> beam.CoGroupByKey()
        | "KeepOne"
        >> _step(
            lambda group: identity.unique(group[1]["facts"], group[1].get("pins", ())), "rows", "edges", "kept", "moved"
        )
    )
    # By the classes that files are in from here on: an earlier correction outlives what its folder is called.
    by_class = (
        (listed.seen, unique.moved) | "SeenAndMoved" >> beam.Flatten() | "CountByClass" >> beam.CombinePerKey(sum)
    )
    # What belongs together: the user's groups and near-duplicates, joined wherever they meet.
    ties = unique.edges
    if compare:
        near = (
            unique.main
            | "Hashes"
            >> beam.Map(lambda batch: partitions.Batch([(one.node, one.phash, one.texture) for one in batch]))
            | "NearDuplicates" >> near_duplicates.NearDuplicates()
        )
        ties = (ties, near) | "Ties" >> beam.Flatten()
    met = (
        {
            "facts": unique.main | "FactsByNode" >> beam.FlatMap(_spread_facts, partition_count),
            "roots": ties
            | "Components" >> components.ConnectedComponents()
            | "RootsByNode" >> beam.FlatMap(_spread_pairs, partition_count),
            "ties": ties | "TiesByNode" >> beam.FlatMap(_spread_pairs, partition_count),
        }
        | "MeetRoots" >> beam.CoGroupByKey()
        | "PartGroups" >> _step(lambda partition: groups.part(**partition[1]), "members", "ties")
    )
    grouped = (
        {"members": met.members, "ties": met.ties}
        | "GroupByRoot" >> beam.CoGroupByKey()
        | "Resolve"
        >> _step(
            lambda group: groups.resolve(group[1]["members"], group[1]["ties"], settings.near_duplicates, keep_splits),
            "rows",
            "mixed",
            "groups",
            whole=("main", "mixed", "groups"),
        )
    )
    # Where each image goes: exact counts per class, in hash order; groups of several classes first.
    alone_or_grouped = (met.main, grouped.main) | "OfOneClass" >> beam.Flatten()
    buckets = alone_or_grouped | "Buckets" >> beam.FlatMap(splits.count_buckets, settings.seed, AsDict(by_class))
    of_one_class = buckets | "CountOfOneClass" >> beam.CombinePerKey(_sum_pairs)
    mixed = (
        {
            "facts": grouped.mixed | "ByGroup" >> beam.Map(lambda group: (group[0].group_id, group)),
            "split": grouped.mixed
            | "GroupSizes" >> beam.Map(splits.size_of_mixed)
            | "OnOneWorker" >> beam.GroupBy(lambda _: None)
            | "PlaceMixed"
            >> beam.FlatMap(
                lambda sizes, counts: splits.place_mixed(sizes[1], counts, settings.splits, settings.seed),
                AsDict(of_one_class),
            ),
        }
        | "MeetSplit" >> beam.CoGroupByKey()
        | "TakeSplit" >> beam.Map(lambda group: splits.pin(group[1]["facts"], group[1]["split"]))
    )
    mixed_buckets = mixed | "MixedBuckets" >> beam.FlatMap(splits.count_buckets, settings.seed, AsDict(by_class))
    lines = (buckets, mixed_buckets) | "AllBuckets" >> beam.Flatten() | "CountBuckets" >> beam.CombinePerKey(_sum_pairs)
    sizes = (
        alone_or_grouped
        | "SizesOfGroups" >> beam.FlatMap(splits.group_sizes, settings.seed, AsDict(by_class))
        | "Few" >> beam.CombinePerKey(splits.few)
    )
    plans = once | "PlanSplits" >> beam.Map(
        lambda _, counts, sizes: splits.plan(counts, settings.splits, sizes, fresh=fresh), AsDict(lines), AsDict(sizes)
    )
    placed = (
        (alone_or_grouped, mixed)
        | "AllImages" >> beam.Flatten()
        | "ByBucket" >> beam.FlatMap(splits.spread, settings.seed, AsDict(by_class))
        | "GroupByBucket" >> beam.GroupByKey()
        | "Split"
        >> _step(
            lambda bucket, plans: splits.place(bucket[0], bucket[1], plans, settings.seed),
            "rows",
            side=[AsSingleton(plans)],
        )
    )
    counts = (
        placed.main
        | "CountPlaced" >> beam.FlatMap(layout.count, settings.storing)
        | "CountSplits" >> beam.CombinePerKey(layout.merge)
    )
    rejected = (listed.rows, inspected.rows, unique.rows, grouped.rows, placed.rows) | "Rejected" >> beam.Flatten()
    settled = rejected
    if settings.replay_quarantine:
        settled = (rejected, listed.standing) | "AlsoStanding" >> beam.Flatten()
    tally = settled | "TallyBatch" >> beam.Map(ledger.tally) | "TallyRejected" >> beam.CombineGlobally(ledger.merge)
    account = once | "Account" >> beam.Map(
        lambda _, seen, tally: Account({**dict.fromkeys(job.classes.names, 0), **seen}, tally),
        AsDict(by_class),
        AsSingleton(tally),
    )
    plan = account | "Plan" >> beam.Map(_plan, job, AsDict(counts))
    if plan_file is not None:
        _ = plan | "WritePlan" >> beam.Map(_write_plan, AsSingleton(account), plan_file)
        return
    # What the report says and shows.
    described = placed.main | "Described" >> beam.Map(lambda batch: [(one.facts.split, one.facts) for one in batch])
    if settings.replay_quarantine:
        standing = listed.old | "DescribedBefore" >> beam.Map(lambda batch: [(one.split, one) for one in batch])
        described = (described, standing) | "OldAndNewFacts" >> beam.Flatten()
    sums = described | "Sums" >> beam.Map(statistics.summarize) | "AllSums" >> beam.CombineGlobally(statistics.merge)
    related = (
        grouped.groups
        | "Relate"
        >> beam.Map(
            relations.describe, functools.partial(relations.split_alone, fractions=settings.splits, seed=settings.seed)
        )
        | "AllRelations" >> beam.CombineGlobally(relations.merge)
    )
    chosen = (
        (
            described | "Contacts" >> beam.Map(samples.choose_contacts),
            rejected | "Quarantined" >> beam.Map(samples.choose_quarantined),
        )
        | "Chosen" >> beam.Flatten()
        | "Choose" >> beam.CombineGlobally(samples.merge)
    )
    shown = (
        chosen
        | "Candidates" >> beam.FlatMap(lambda each, related: samples.finish(each, related.pairs), AsSingleton(related))
        | "SpreadCandidates" >> beam.Reshuffle()
        | "Thumbnails" >> beam.Map(_thumbnail, inputs)
    )
    kept = unique.kept | "CountKept" >> beam.CombineGlobally(sum)
    findings = once | "Findings" >> beam.Map(
        lambda _, *values: Findings(*values), AsSingleton(sums), AsSingleton(related), AsSingleton(kept)
    )
    # Whole shards, each by one worker from its own list of files: the second and last read.
    of_shards = placed.main | "ByShard" >> beam.FlatMap(_spread_over_shards, AsSingleton(plan))
    if settings.replay_quarantine:  # few images are added, and every reader gets a shard, though it be empty
        every_shard = plan | "EveryShard" >> beam.FlatMap(_empty_shards)
        of_shards = (of_shards, every_shard) | "AlsoEmpty" >> beam.Flatten()
    written = (
        of_shards
        | "GroupByShard" >> beam.GroupByKey()
        | "WriteShard"
        >> _step(
            lambda shard, plan: shards.write_shard(shard[0], shard[1], settings, plan, inputs),
            "rows",
            side=[AsSingleton(plan)],
        )
    )
    verified = written.main | "VerifyShard" >> beam.Map(shards.verify_written, settings)
    # The ledger: every file ended in exactly one of these rows.
    part_count = AsSingleton(
        seen
        | "SeenPerClassAgain" >> beam.Values()
        | "CountRows" >> beam.CombineGlobally(sum)
        | "CountParts" >> beam.Map(ledger.part_count)
    )
    rows = [rejected, written.rows]
    if settings.replay_quarantine:
        rows.append(
            listed.standing | "RenameShards" >> beam.Map(growth.rename_shards, settings.name, AsSingleton(plan))
        )
    parts = (
        tuple(rows)
        | "Rows" >> beam.Flatten()
        | "ByPart"
        >> beam.FlatMap(lambda rows, count: partitions.spread(rows, lambda row: ledger.part_of(row, count)), part_count)
        | "GroupByPart" >> beam.GroupByKey()
        | "WriteLedgerPart"
        >> beam.Map(
            lambda group, count: ledger.write_part(group[0], count, group[1], settings.staging, settings.scratch),
            part_count,
        )
    )
    # One element, after everything it looks at: the dataset exists when this ends, whoever still watches the job.
    _ = plan | "Publish" >> beam.Map(
        _publish,
        job,
        AsSingleton(account),
        AsIter(verified),
        AsIter(parts),
        AsSingleton(findings),
        AsIter(shown),
        AsIter(
            once
            | "StandingShards" >> beam.FlatMap(_standing_shards, job)
            | "VerifyStanding" >> beam.Map(shards.verify, settings.earlier)
        ),
    )


class _Route(beam.DoFn):  # type: ignore[misc]  # Beam ships no types
    """Runs one step's function, which says of each of its results by which exit it leaves."""

    def __init__(self, function: Callable[..., Iterable[tuple[str, Any]]], whole: Sequence[str]) -> None:
        self._function = function
        self._whole = whole

    def process(self, element: Any, *side_inputs) -> Iterator[Any]:  # type: ignore[no-untyped-def]  # Beam reads hints
        for tag, result in self._function(element, *side_inputs):
            if tag == "rows":
                _count_left_out(result)
            for packed in self._packed(tag, result):
                yield packed if tag == "main" else TaggedOutput(tag, packed)

    def _packed(self, tag: str, result: Any) -> Iterable[Any]:
        if not isinstance(result, list):
            return [result]
        return [partitions.Batch(result)] if tag in self._whole else partitions.cut(result)


def _count_left_out(rows: Iterable[ledger.Row]) -> None:
    reasons = collections.Counter((row.status, row.reason) for row in rows if row.status != "written")
    for (status, reason), number in reasons.items():
        progress.count_left_out(status, reason, number)


def _step(
    function: Callable[..., Iterable[tuple[str, Any]]], *tags: str, side: Sequence[Any] = (), whole: Sequence[str] = ()
) -> beam.PTransform:
    """Lists become elements of bounded size, but for the exits in `whole`, where a list is one thing."""
    return beam.ParDo(_Route(function, whole), *side).with_outputs(*tags, main="main")


def _list_files(source: Input, piece: str) -> Iterator[tuple[str, Any]]:
    """Yields ("main", sources) and ("rows", rows), up to `_BATCH` at a time, and ("seen", (class, files))."""
    batches: dict[str, list[Any]] = {"main": [], "rows": []}
    for one in source.sources(piece):
        if isinstance(one, Hidden):
            progress.count(progress.HIDDEN_FILES)
            continue
        if isinstance(one, Source) and source.group_by and not one.group:
            progress.count(progress.NOT_GROUPED)
        tag = "main" if isinstance(one, Source) else "rows"
        batches[tag].append(inspection.row_of(one) if isinstance(one, Rejected) else one)
        if len(batches[tag]) == _BATCH:
            yield from _counted(tag, batches[tag])
            batches[tag] = []
    for tag, batch in batches.items():
        if batch:
            yield from _counted(tag, batch)


def _counted(tag: str, batch: list[Any]) -> Iterator[tuple[str, Any]]:
    progress.count(progress.FILES_SEEN, len(batch))
    yield tag, batch
    for class_name, files in collections.Counter(one.class_name for one in batch).items():
        yield "seen", (class_name, files)


def _spread_facts(batch: Sequence[Facts], count: int) -> Iterator[tuple[int, Sequence[Facts]]]:
    return partitions.spread(batch, lambda facts: partitions.of_node(facts.node, count))


def _spread_pairs(
    batch: Sequence[tuple[bytes, bytes]], count: int
) -> Iterator[tuple[int, Sequence[tuple[bytes, bytes]]]]:
    return partitions.spread(batch, lambda pair: partitions.of_node(pair[0], count))


def _spread_over_shards(
    batch: Sequence[splits.Placed], plan: layout.Layout
) -> Iterator[tuple[tuple[str, int], Sequence[Facts]]]:
    for key, placed in partitions.spread(batch, lambda one: (one.facts.split, plan.shard(one))):
        yield key, partitions.Batch([one.facts for one in placed])


def _sum_pairs(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    firsts, seconds = zip(*pairs, strict=True)
    return sum(firsts), sum(seconds)


def _plan(account: Account, job: Job, counts: dict[layout.Deck, layout.Count]) -> layout.Layout:
    shard_bytes, max_workers = job.settings.shard_bytes, job.settings.max_workers
    if job.earlier and job.settings.replay_quarantine:
        return layout.extend(job.earlier, counts, shard_bytes, max_workers)
    return layout.make_layout(counts, job.splits, shard_bytes, max_workers, account.seen, account.rejected.by_class)


def _empty_shards(plan: layout.Layout) -> Iterator[tuple[tuple[str, int], Sequence[Facts]]]:
    for split, planned in plan.splits.items():
        for index in range(planned.first, planned.shards):
            yield (split, index), ()


def _standing_shards(_: None, job: Job) -> Iterator[manifest.Shard]:
    """The shards that are taken over as they are."""
    if job.earlier and job.settings.replay_quarantine:
        for split in job.earlier.splits.values():
            yield from split.shards


def _thumbnail(candidate: samples.Candidate, inputs: Sequence[Input]) -> samples.Sample:
    try:
        data = inputs[candidate.input].read(candidate.file, inspection.MAX_FILE_BYTES)
    except OSError:
        return candidate.sample(b"")
    return candidate.sample(images.thumbnail(data, _THUMBNAIL_PX) or b"")


def _write_plan(plan: layout.Layout, account: Account, file: str) -> None:
    storage.write_json(file, dataclasses.asdict(summary.of_plan(plan, account.rejected, account.seen)))


def _publish(
    plan: layout.Layout,
    job: Job,
    account: Account,
    written: Iterable[shards.Written],
    parts: Iterable[tuple[str, ledger.Tally]],
    findings: Findings,
    shown: Iterable[samples.Sample],
    standing: Iterable[str],
) -> None:
    list(standing)  # whose reading is their verification
    parts = list(parts)
    sums = ledger.merge(tally for _, tally in parts)
    result = accounts.make_manifest(job, plan, written, sums, account.seen, findings)
    page = report.render(result.to_json(), list(shown), summary.ADVICE)
    publish.publish(job, result, [name for name, _ in parts], page)
