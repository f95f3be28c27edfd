"""Counts per class and split in, the shards of each split out: how many there are, and which image goes into which."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fractions import Fraction

from pipeline.errors import InputError


@dataclasses.dataclass(frozen=True)
class SplitLayout:
    shards: int
    source_bytes: int
    by_class: Mapping[str, int]  # examples, in class order

    @property
    def examples(self) -> int:
        return sum(self.by_class.values())


@dataclasses.dataclass(frozen=True)
class Layout:
    classes: tuple[str, ...]
    splits: Mapping[str, SplitLayout]
    # Examples of earlier classes in the split: continuing the count there, and not at 0, balances shards to within one.
    offsets: Mapping[tuple[str, str], int]

    def shard(self, split: str, class_name: str, rank: int) -> int:
        """Dealing a class out like cards gives every shard its share of every class."""
        return (self.offsets[split, class_name] + rank) % self.splits[split].shards


def make_layout(
    counts: Mapping[tuple[str, str], tuple[int, int]],
    fractions: Mapping[str, Fraction],
    shard_bytes: int,
    min_shards: int,
    found: Mapping[str, int],
    rejected: Mapping[tuple[str, str], int],
) -> Layout:
    """`counts` maps (split, class) to (examples, source bytes).

    `found` (files per class) and `rejected` (files per class and reason) explain why classes are missing.

    Raises:
      InputError: where fewer than two classes have images left.
    """
    classes = tuple(sorted({class_name for _, class_name in counts}))
    if len(classes) < 2:
        raise InputError(_too_few(classes, found, rejected))
    splits = {}
    offsets = {}
    for split in fractions:
        by_class = {}
        examples = source_bytes = 0
        for class_name in classes:
            offsets[split, class_name] = examples
            by_class[class_name], class_bytes = counts[split, class_name]
            examples += by_class[class_name]
            source_bytes += class_bytes
        splits[split] = SplitLayout(
            shard_count(examples, source_bytes, shard_bytes, min_shards), source_bytes, by_class
        )
    return Layout(classes, splits, offsets)


def shard_count(examples: int, source_bytes: int, shard_bytes: int, min_shards: int) -> int:
    """A multiple of `min_shards`, so that equal streams can be dealt to readers; never more than there are examples."""
    wanted = max(1, -(-source_bytes // (shard_bytes * min_shards))) * min_shards
    possible = examples // min_shards * min_shards or examples
    return min(wanted, possible)


def _too_few(classes: tuple[str, ...], found: Mapping[str, int], rejected: Mapping[tuple[str, str], int]) -> str:
    reasons: dict[str, list[str]] = {}
    for (class_name, reason), files in sorted(rejected.items()):
        reasons.setdefault(class_name, []).append(f"{files:,} {reason}")
    missing = [
        f"{name!r}: " + (f"of {files:,} files {', '.join(reasons.get(name, []))}" if files else "no file")
        for name, files in sorted(found.items())
        if name not in classes
    ]
    shown = "; ".join(missing[:5]) + (f"; and {len(missing) - 5} more classes" if len(missing) > 5 else "")
    left = f"only {classes[0]!r} is" if classes else "none is"
    return f"a classifier needs two classes with usable images, and {left} left ({shown}): repair or add images"
