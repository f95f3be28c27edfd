"""Counts per class and split in, the shards of each split out: how many there are, and which image goes into which."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pipeline.errors import InputError
from pipeline.images import Storing
from pipeline.manifest import Manifest
from preprocess import partitions
from preprocess.inspection import Facts
from preprocess.splits import Placed

# TFDS asks for files of 64 MiB to 1 GiB: long sequential reads from a bucket, few requests. At 256 MiB a lost worker
# repeats less than a minute of work, and ImageNet gets some 550 shards, enough for 512 readers.
# https://www.tensorflow.org/datasets/api_docs/python/tfds/core/ShardConfig
SHARD_BYTES = 256 * 2**20
# Whoever writes a shard holds the facts of its images, about 1 KB each, whatever their size.
MAX_SHARD_EXAMPLES = 2**16


# (split, class, pinned): images that are dealt together
Deck = tuple[str, str, bool]


@dataclasses.dataclass(frozen=True)
class Count:
    """How many images a deck has. Their positions are consecutive, from `position` on."""

    examples: int
    bytes: int  # of images as they will be stored, about
    position: int


@dataclasses.dataclass(frozen=True)
class SplitLayout:
    shards: int
    bytes: int  # of images as they will be stored, about
    by_class: Mapping[str, int]  # examples, in class order
    first: int = 0  # shards before this one are another version's, taken over as they are

    @property
    def examples(self) -> int:
        return sum(self.by_class.values())


@dataclasses.dataclass(frozen=True)
class Layout:
    classes: tuple[str, ...]
    splits: Mapping[str, SplitLayout]
    # What to add to the positions of a deck: going on counting where the deck before it ended, and not at 0, balances
    # shards to within one.
    offsets: Mapping[Deck, int]

    def shard(self, one: Placed) -> int:
        """Dealing images out like cards gives every shard its share of every class."""
        planned = self.splits[one.facts.split]
        dealt = self.offsets[one.facts.split, one.facts.class_name, one.pinned] + one.position
        return planned.first + dealt % (planned.shards - planned.first)


def count(batch: Sequence[Placed], storing: Storing) -> Iterator[tuple[Deck, Count]]:
    """The decks that a batch of placed images belongs to, and what it adds to each."""
    decks = partitions.spread(batch, lambda one: (one.facts.split, one.facts.class_name, one.pinned))
    for deck, placed in decks:
        stored_bytes = sum(_stored_bytes(one.facts, storing) for one in placed)
        yield deck, Count(len(placed), stored_bytes, min(one.position for one in placed))


def merge(counts: Iterable[Count]) -> Count:
    """The sum of counts of one deck."""
    counts = list(counts)
    return Count(
        sum(count.examples for count in counts),
        sum(count.bytes for count in counts),
        min((count.position for count in counts), default=0),
    )


def make_layout(
    counts: Mapping[Deck, Count],
    splits: Sequence[str],
    shard_bytes: int,
    max_workers: int,
    seen: Mapping[str, int],
    reasons: Mapping[str, Mapping[str, int]],
) -> Layout:
    """The layout of a dataset that is written whole. `shard_bytes` of 0 leaves the size to the rule above.

    `seen` (files per class) and `reasons` (class -> reason -> files) explain why classes are missing.

    Raises:
      InputError: where fewer than two classes have images left, or a split has none.
    """
    classes = tuple(sorted({class_name for _, class_name, _ in counts}))
    if len(classes) < 2:
        raise InputError(_too_few(classes, seen, reasons))
    planned: dict[str, SplitLayout] = {}
    offsets: dict[Deck, int] = {}
    for split in splits:
        by_class, stored_bytes = _deal(split, counts, classes, offsets)
        examples = sum(by_class.values())
        if not examples:
            raise InputError(
                f"no image is left for the split {split!r}: its files cannot be used, or groups are so large that "
                "others take all; give fewer --splits, or --near_duplicates=ignore if look-alikes are the reason"
            )
        shards = shard_count(examples, stored_bytes, shard_bytes, max_workers)
        planned[split] = SplitLayout(shards, stored_bytes, by_class)
    return Layout(classes, planned, offsets)


def extend(old: Manifest, counts: Mapping[Deck, Count], shard_bytes: int, max_workers: int) -> Layout:
    """The layout of `old` with more shards behind its own, as many for every reader, even where some stay empty.

    Raises:
      InputError: where there is nothing to add, or a class that `old` does not have.
    """
    if not counts:
        raise InputError(f"nothing to add to {old.name} {old.version}: none of the files it left out can be used now")
    if new := sorted({class_name for _, class_name, _ in counts} - set(old.classes)):
        raise InputError(
            f"{old.name} {old.version} has no class {new[0]!r}, and adding it would change the labels of its records: "
            "use --grow_from, which writes them anew"
        )
    planned: dict[str, SplitLayout] = {}
    offsets: dict[Deck, int] = {}
    for split, written in old.splits.items():
        by_class, stored_bytes = _deal(split, counts, old.classes, offsets)
        first = len(written.shards)
        shards = first + (
            _wanted(sum(by_class.values()), stored_bytes, shard_bytes, max_workers) if stored_bytes else 0
        )
        planned[split] = SplitLayout(shards, stored_bytes, by_class, first)
    return Layout(old.classes, planned, offsets)


def _deal(
    split: str, counts: Mapping[Deck, Count], classes: Sequence[str], offsets: dict[Deck, int]
) -> tuple[dict[str, int], int]:
    """Examples per class and bytes of one split; its decks are entered into `offsets`."""
    by_class = dict.fromkeys(classes, 0)
    stored_bytes = 0
    for deck, count in sorted(counts.items()):
        if deck[0] == split:
            offsets[deck] = sum(by_class.values()) - count.position
            by_class[deck[1]] += count.examples
            stored_bytes += count.bytes
    return by_class, stored_bytes


def shard_count(examples: int, stored_bytes: int, shard_bytes: int, max_workers: int) -> int:
    """A multiple of `max_workers`, so that each has equally many to read; never more than there are examples."""
    possible = examples // max_workers * max_workers or examples
    return min(_wanted(examples, stored_bytes, shard_bytes, max_workers), possible)


def _wanted(examples: int, stored_bytes: int, shard_bytes: int, max_workers: int) -> int:
    wanted = max(-(-stored_bytes // (shard_bytes or SHARD_BYTES)), -(-examples // MAX_SHARD_EXAMPLES), 1)
    return -(-wanted // max_workers) * max_workers


def _stored_bytes(facts: Facts, storing: Storing) -> int:
    """Encoding anew keeps about as many bytes per pixel as there were."""
    shorter = min(facts.width, facts.height)
    if facts.kept or not storing.shorter_side or shorter <= storing.shorter_side:
        return facts.size_bytes
    return round(facts.size_bytes * (storing.shorter_side / shorter) ** 2)


def _too_few(classes: Sequence[str], seen: Mapping[str, int], reasons: Mapping[str, Mapping[str, int]]) -> str:
    missing = []
    for name, files in sorted(seen.items()):
        if name not in classes:
            named = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.get(name, {}).items()))
            missing.append(f"{name!r}: " + (f"of {files:,} files {named}" if files else "no file"))
    shown = "; ".join(missing[:5]) + (f"; and {len(missing) - 5} more classes" if len(missing) > 5 else "")
    left = f"only {classes[0]!r} is" if classes else "none is"
    cure = "repair or add images"
    if any(reasons.get(name, {}).get("class_too_small", 0) > 1 for name in seen):
        cure += ", or give --near_duplicates=ignore if look-alikes are the reason"
    return f"a classifier needs two classes with usable images, and {left} left ({shown}): {cure}"
