"""The Beam job, from top to bottom: class folders in, a published dataset (or only its plan) out.

Image bytes never cross a shuffle. What travels are paths first, then about 300 bytes of facts per image.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.pvalue import AsDict, AsIter, AsSingleton, TaggedOutput
from apache_beam.runners.runner import PipelineResult

from pipeline import storage
from preprocess import identity, inspection, layout, ledger, publish, shards, sources, splits, summary
from preprocess.settings import Settings

_log = logging.getLogger(__name__)
_PROGRESS_PERIOD_S = 5.0
_HIDDEN = Metrics.counter("preprocess", "hidden_files")


def build(pipeline: beam.Pipeline, settings: Settings, classes: Sequence[str], plan_file: str | None) -> None:
    """Adds the whole job to `pipeline`; with `plan_file` only up to the plan, which goes there as a JSON `Summary`."""
    # What there is: the only step that lists, so what it counts is what the ledger has to account for.
    files = (
        pipeline
        | "Classes" >> beam.Create(list(classes))
        | "ListFiles" >> beam.FlatMap(sources.list_files, settings.input)
        | "LeaveOutHidden" >> beam.FlatMap(_count_hidden)
    )
    seen = (
        files
        | "ClassOfFile" >> beam.Map(lambda source: source.class_name)
        | "CountSeen" >> beam.combiners.Count.PerElement()
    )
    # What each file is: the one complete read and decode.
    good, unusable = (
        files
        | "SpreadFiles" >> beam.Reshuffle()
        | "Inspect" >> _step(lambda source: [inspection.inspect(source, settings.input)], "files inspected")
    )
    # Equal bytes are one image, or a contradiction.
    unique, repeated = (
        good
        | "KeyBySha256" >> beam.Map(lambda facts: (facts.sha256, facts))
        | "GroupBySha256" >> beam.GroupByKey()
        | "KeepOne" >> _step(lambda group: identity.unique(group[1]))
    )
    # Where each image goes: exact counts per class, in hash order.
    placed, too_few = (
        unique
        | "KeyByClass" >> beam.Map(lambda facts: (facts.class_name, facts))
        | "GroupByClass" >> beam.GroupByKey()
        | "Split" >> _step(lambda group: splits.place(group[1], settings.splits, settings.seed))
    )
    counts = (
        placed
        | "CountOne" >> beam.Map(lambda one: ((one.split, one.facts.class_name), (1, one.facts.bytes)))
        | "CountSplits" >> beam.CombinePerKey(_sum_pairs)
    )
    rejected = (unusable, repeated, too_few) | "Rejected" >> beam.Flatten()
    reasons = (
        rejected
        | "ReasonOfRow" >> beam.Map(lambda row: (row.class_name, row.reason or row.status))
        | "CountReasons" >> beam.combiners.Count.PerElement()
    )
    plan = (
        pipeline
        | "PlanOnce" >> beam.Create([None])
        | "Plan" >> beam.Map(_plan, settings, tuple(classes), AsDict(counts), AsDict(seen), AsDict(reasons))
    )
    if plan_file is not None:
        tally = (
            rejected
            | "TallyRow" >> beam.Map(lambda row: ledger.tally([row]))
            | "TallyRejected" >> beam.CombineGlobally(ledger.merge)
        )
        _ = plan | "WritePlan" >> beam.Map(_write_plan, AsSingleton(tally), AsDict(seen), tuple(classes), plan_file)
        return
    # Whole shards, each by one worker from its own list of files: the second and last read.
    written, written_rows = (
        placed
        | "KeyByShard" >> beam.Map(_key_by_shard, AsSingleton(plan))
        | "GroupByShard" >> beam.GroupByKey()
        | "WriteShard"
        >> _step(
            lambda group, layout: shards.write_shard(group[0], group[1], settings, layout),
            "images written",
            AsSingleton(plan),
        )
    )
    # The ledger: every file ended in exactly one of these rows.
    rows = (rejected, written_rows) | "Rows" >> beam.Flatten()
    part_count = rows | "CountRows" >> beam.combiners.Count.Globally() | "CountParts" >> beam.Map(ledger.part_count)
    parts = (
        rows
        | "KeyByPart" >> beam.Map(lambda row, count: (ledger.part_of(row, count), row), AsSingleton(part_count))
        | "GroupByPart" >> beam.GroupByKey()
        | "WriteLedgerPart"
        >> beam.Map(
            lambda group, count: ledger.write_part(group[0], count, group[1], settings.staging),
            AsSingleton(part_count),
        )
    )
    # One element, after everything it looks at: the dataset exists when this ends, whoever still watches the job.
    _ = plan | "Publish" >> beam.Map(_publish, settings, tuple(classes), AsIter(written), AsIter(parts), AsDict(seen))


def hidden_files(result: PipelineResult) -> int:
    """How many files a finished job left out because they are hidden."""
    found = result.metrics().query(MetricsFilter().with_metric(_HIDDEN))["counters"]
    return sum(counter.committed or 0 for counter in found)


class _Route(beam.DoFn):  # type: ignore[misc]  # Beam ships no types
    """Runs one step's function; ledger rows leave by their own exit, since those files go no further."""

    def __init__(self, function: Callable[..., Iterable[Any]], noun: str) -> None:
        self._function = function
        self._noun = noun

    def setup(self) -> None:
        self._done = 0
        self._logged_at = time.monotonic()

    def process(self, element: Any, *side_inputs) -> Iterator[Any]:  # type: ignore[no-untyped-def]  # Beam reads hints
        for result in self._function(element, *side_inputs):
            if self._noun and not isinstance(result, shards.Written):
                self._count()
            yield TaggedOutput("rows", result) if isinstance(result, ledger.Row) else result

    def _count(self) -> None:
        self._done += 1
        if time.monotonic() - self._logged_at > _PROGRESS_PERIOD_S:
            self._logged_at = time.monotonic()
            _log.info("%s %s so far by this worker", f"{self._done:,}", self._noun)


def _step(function: Callable[..., Iterable[Any]], noun: str = "", *side_inputs: Any) -> beam.PTransform:
    return beam.ParDo(_Route(function, noun), *side_inputs).with_outputs("rows", main="main")


def _count_hidden(source: sources.Source | None) -> Iterator[sources.Source]:
    if source is None:
        _HIDDEN.inc()
    else:
        yield source


def _sum_pairs(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    firsts, seconds = zip(*pairs, strict=True)
    return sum(firsts), sum(seconds)


def _plan(
    _: None,
    settings: Settings,
    classes: Sequence[str],
    counts: dict[tuple[str, str], tuple[int, int]],
    seen: dict[str, int],
    reasons: dict[tuple[str, str], int],
) -> layout.Layout:
    return layout.make_layout(
        counts,
        settings.splits,
        settings.shard_bytes,
        settings.min_shards,
        {name: seen.get(name, 0) for name in classes},
        reasons,
    )


def _key_by_shard(one: splits.Placed, plan: layout.Layout) -> tuple[tuple[str, int], splits.Placed]:
    return (one.split, plan.shard(one.split, one.facts.class_name, one.rank)), one


def _write_plan(
    plan: layout.Layout, tally: ledger.Tally, seen: dict[str, int], classes: Sequence[str], file: str
) -> None:
    result = summary.of_plan(plan, tally, {name: seen.get(name, 0) for name in classes})
    storage.write_json(file, dataclasses.asdict(result))


def _publish(
    plan: layout.Layout,
    settings: Settings,
    classes: Sequence[str],
    written: Iterable[shards.Written],
    parts: Iterable[tuple[str, ledger.Tally]],
    seen: dict[str, int],
) -> None:
    publish.publish(settings, plan, written, list(parts), {name: seen.get(name, 0) for name in classes})
