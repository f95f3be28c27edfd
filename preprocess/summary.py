"""What a run did or would do in, the text a person reads out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import images
from pipeline.manifest import Manifest
from preprocess import inputs, ledger
from preprocess.layout import Layout

_ROWS = 40  # classes shown; ImageNet's thousand would scroll the rest away
ADVICE = {
    **images.REASONS,
    **inputs.REASONS,
    "cannot_read": "Check that it is a regular file, its permissions, and where its link points.",
    "file_too_large": "Is it an image? Scale it down.",
    "conflicting_labels": "The same bytes lie under several classes; decide for one and delete the others.",
    "class_too_small": "A class needs a group of images for every split; add images, or give fewer --splits, or "
    "--near_duplicates=ignore if look-alikes are the reason.",
    "joins_two_splits": "Its likes stand in several splits already, and images don't move; delete it, or start anew.",
    "duplicate": "Kept once; nothing to do.",
    "removed": "A correction took it out; nothing to do.",
    "near_duplicate": "Left out by --near_duplicates=drop; nothing to do.",
}


@dataclasses.dataclass(frozen=True)
class Summary:
    """Holds only what JSON can, so that a plan can come back from wherever it was made."""

    splits: Mapping[str, Mapping[str, int]]  # name -> examples, shards, bytes (estimated in a plan)
    examples_by_class: Mapping[str, Mapping[str, int]]  # split -> class -> examples
    ledger: Mapping[str, Any]
    left_out: Mapping[str, Mapping[str, Any]]  # reason -> files, first
    groups: Mapping[str, Any] | None = None  # `relations.to_json`; a plan has none


def of_plan(layout: Layout, rejected: ledger.Tally, seen: Mapping[str, int]) -> Summary:
    written = {name: sum(split.by_class[name] for split in layout.splits.values()) for name in layout.classes}
    planned = ledger.Tally({(name, "written", "written"): count for name, count in written.items()}, {})
    sums = ledger.merge([planned, rejected])
    return Summary(
        {
            name: {"examples": split.examples, "shards": split.shards, "bytes": split.bytes}
            for name, split in layout.splits.items()
        },
        {name: dict(split.by_class) for name, split in layout.splits.items()},
        ledger.balance(seen, sums),
        {reason: {"files": files, "first": list(sums.named[reason])} for reason, files in sums.by_reason.items()},
    )


def of_manifest(manifest: Manifest) -> Summary:
    return Summary(
        {
            name: {
                "examples": split.examples,
                "shards": len(split.shards),
                "bytes": sum(shard.bytes for shard in split.shards),
            }
            for name, split in manifest.splits.items()
        },
        manifest.statistics["examples_by_class"],
        manifest.ledger,
        manifest.statistics["left_out"],
        manifest.statistics["groups"],
    )


def render(summary: Summary, splits: Sequence[str]) -> str:
    """A table of classes and splits (in the order given), then every reason for which files were left out."""
    by_class = summary.ledger["by_class"]
    rows = [["class", *splits, "quarantined", "duplicates"]]
    shown = [name for name, counts in by_class.items() if counts["seen"]]
    for name in shown[:_ROWS]:
        counts = [summary.examples_by_class[split].get(name, 0) for split in splits]
        rows.append([name, *map(_number, [*counts, by_class[name]["quarantined"], by_class[name]["duplicates"]])])
    if len(shown) > _ROWS:
        rows.append([f"… {len(shown) - _ROWS} more"] + [""] * (len(splits) + 2))
    totals = [summary.splits[split]["examples"] for split in splits]
    rows.append(["all", *map(_number, [*totals, summary.ledger["quarantined"], summary.ledger["duplicates"]])])
    rows.append(["shards", *(_number(summary.splits[split]["shards"]) for split in splits), "", ""])
    rows.append(["MB", *(f"{summary.splits[split]['bytes'] / 1e6:,.1f}" for split in splits), "", ""])
    lines = [*_table(rows), *_groups(summary.groups), ""]
    for reason, left in sorted(summary.left_out.items()):
        lines.append(f"{reason} ({left['files']:,}): {ADVICE[reason]}")
        lines += [f"  {name}" for name in left["first"]]
        if left["files"] > len(left["first"]):
            lines.append(f"  and {left['files'] - len(left['first']):,} more")
    return "\n".join(lines)


def _groups(groups: Mapping[str, Any] | None) -> list[str]:
    if not groups or not groups["separated"]["groups"]:
        return []
    what = f"{groups['separated']['images']:,} images in {groups['separated']['groups']:,} groups"
    if groups["own_splits"]:
        return ["", f"leaks: {what} belong together and stand in several splits, as the input has it (see the report)"]
    return ["", f"{what} would have been torn apart by splitting them one by one; each group is in one split"]


def _number(value: int) -> str:
    return f"{value:,}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
