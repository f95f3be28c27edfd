"""Images and the splits that some of them already have in, a split and a rank for each out: exact, by hash order alone.

A class is a line of its images in hash order, groups standing together; the splits are consecutive lengths of it, and
a group belongs to the split in which its first image lies. So each split is within one group of its share, and which
images go where depends on no worker, no listing and no clock. The line is cut into buckets, counted first and dealt
then, each by any worker: no machine holds a class.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from fractions import Fraction
from typing import Any

from preprocess import partitions, progress
from preprocess.inspection import Facts

# (class, split that its images already have or "", index on the line)
Bucket = tuple[str, str, int]
# (place on the line, images) of a group that is to be placed
Size = tuple[bytes, int]
# Of a class with several buckets. Where there are more, no split's length lies within one of them, or hardly ever.
_FEW_GROUPS = 1000
# The index of images that stand in shards already: they count, and are not placed again.
_OLD = -1


@dataclasses.dataclass(frozen=True)
class Placed:
    facts: Facts  # its split is decided
    pinned: bool  # and was before
    position: int  # consecutive among those of its class, split and `pinned`, from some first one on


@dataclasses.dataclass(frozen=True)
class ClassPlan:
    """Where the splits of one class begin and end."""

    images: int
    groups: int
    too_small: bool  # fewer groups than splits
    quotas: Mapping[str, int]  # split -> images to come, in the order of the line
    filled: frozenset[str]  # splits that have images already
    starts: Mapping[tuple[str, int], int]  # (split or "", index) -> images before this bucket


def order_key(seed: int, text: str) -> bytes:
    """32 bytes; sorting by them shuffles, and depends on nothing else."""
    return hashlib.sha256(f"{seed}/{text}".encode()).digest()


def exact_counts(total: int, fractions: Mapping[str, Fraction]) -> dict[str, int]:
    """Largest remainder: whole numbers that sum to `total`, each within one of its share.

    Equal remainders go to the split named first. Where `total` allows it no split stays empty: each empty one takes
    one from the largest. https://en.wikipedia.org/wiki/Quota_method
    """
    counts = _largest_remainder(total, fractions)
    if total >= len(counts):
        for name in counts:
            if not counts[name]:
                counts[max(counts, key=lambda other: counts[other])] -= 1
                counts[name] = 1
    return counts


def quotas(total: int, pinned: Mapping[str, int], fractions: Mapping[str, Fraction]) -> dict[str, int]:
    """How many of the `total - sum(pinned)` free images each split gets, so that all together come to `fractions`.

    A split that already has more than its share gets none, and the others share what is missing to them.
    """
    free = total - sum(pinned.values())
    missing = {name: max(0, count - pinned.get(name, 0)) for name, count in exact_counts(total, fractions).items()}
    wanted = sum(missing.values())
    if wanted == free:
        return missing
    return _largest_remainder(free, {name: Fraction(count, wanted) for name, count in missing.items()})


def bucket(facts: Facts, seed: int, seen: Mapping[str, int]) -> Bucket:
    """Where the image's group lies on the line of its class, which has a bucket for every few thousand files `seen`."""
    if facts.old:
        return facts.class_name, facts.split, _OLD
    key = order_key(seed, facts.group_id)
    return facts.class_name, facts.split, partitions.of_node(key, partitions.count(seen[facts.class_name]))


def count_buckets(
    batch: Sequence[Facts], seed: int, seen: Mapping[str, int]
) -> Iterator[tuple[Bucket, tuple[int, int]]]:
    """Images and groups per bucket; all of a group has to come in one batch."""
    for where, images in partitions.spread(batch, lambda facts: bucket(facts, seed, seen)):
        yield where, (len(images), len({facts.group_id for facts in images}))


def group_sizes(batch: Sequence[Facts], seed: int, seen: Mapping[str, int]) -> Iterator[tuple[str, Sequence[Size]]]:
    """The groups that are to be placed, by class, of classes with several buckets; all of a group in one batch."""
    images = collections.Counter(
        (facts.class_name, facts.group_id)
        for facts in batch
        if not facts.old and not facts.split and partitions.count(seen[facts.class_name]) > 1
    )
    by_class: dict[str, list[Size]] = collections.defaultdict(list)
    for (class_name, group_id), count in images.items():
        by_class[class_name].append((order_key(seed, group_id), count))
    yield from by_class.items()


def few(parts: Iterable[Sequence[Size]]) -> list[Size]:
    """All of them, or too many to matter."""
    return list(itertools.islice(itertools.chain.from_iterable(parts), _FEW_GROUPS + 1))


def spread(batch: Sequence[Facts], seed: int, seen: Mapping[str, int]) -> Iterator[tuple[Bucket, Sequence[Facts]]]:
    """The same images by bucket, without those that stand in shards already."""
    new = [facts for facts in batch if not facts.old]
    return partitions.spread(new, lambda facts: bucket(facts, seed, seen))


def size_of_mixed(group: Sequence[Facts]) -> tuple[str, dict[str, int]]:
    """A group's name and how many images of each class it has."""
    return group[0].group_id, dict(collections.Counter(facts.class_name for facts in group))


def pin(groups: Iterable[Sequence[Facts]], splits: Iterable[str]) -> list[Facts]:
    """One group and the one split that it was given: its images, with it."""
    (group,), (split,) = groups, splits
    return [dataclasses.replace(facts, split=split) for facts in group]


def plan(
    counts: Mapping[Bucket, tuple[int, int]],
    fractions: Mapping[str, Fraction],
    sizes: Mapping[str, Sequence[Size]],
    fresh: bool = True,
) -> dict[str, ClassPlan]:
    """Where each class's splits begin and end.

    Args:
      counts: a bucket to (images, groups).
      fractions: of the splits; without any every image has its split already.
      sizes: by class, see `few` and `group_sizes`.
      fresh: False where an earlier version has decided which classes are large enough.
    """
    by_class: dict[str, dict[tuple[str, int], tuple[int, int]]] = collections.defaultdict(dict)
    for (class_name, split, index), pair in counts.items():
        by_class[class_name][split, index] = pair
    return {
        name: _plan_class(buckets, fractions, sorted(sizes.get(name, ())), fresh)
        for name, buckets in sorted(by_class.items())
    }


def place(
    where: Bucket, batches: Iterable[Sequence[Facts]], plans: Mapping[str, ClassPlan], seed: int
) -> Iterator[tuple[str, Any]]:
    """Deals one bucket.

    Yields ("main", list of `Placed`), or ("rows", rows) where the class has fewer groups than there are splits.
    """
    class_name, split, index = where
    plan = plans[class_name]
    groups: dict[str, list[Facts]] = collections.defaultdict(list)
    for facts in itertools.chain.from_iterable(batches):
        groups[facts.group_id].append(facts)
    ordered = [
        sorted(groups[group], key=lambda facts: (facts.sha256, facts.input, facts.file))
        for group in sorted(groups, key=lambda group: order_key(seed, group))
    ]
    images = list(itertools.chain.from_iterable(ordered))
    progress.count(progress.IMAGES_PLACED, len(images))
    start = plan.starts[split, index]
    if plan.too_small:
        what = f"{plan.images} usable images" if plan.groups == plan.images else f"{plan.groups} groups of images"
        detail = f"{what}, fewer than splits"
        yield "rows", [facts.row("quarantined", reason="class_too_small", detail=detail) for facts in images]
    elif split:
        yield "main", [Placed(facts, True, position) for position, facts in enumerate(images, start)]
    else:
        dealt = _deal(ordered, start, plan)
        if sum(not split for split, _ in plan.starts) == 1:
            dealt = _fill_empty(dealt, plan.filled)
        yield "main", list(itertools.chain.from_iterable(dealt.values()))


def place_mixed(
    groups: Iterable[tuple[str, Mapping[str, int]]],
    counts: Mapping[Bucket, tuple[int, int]],
    fractions: Mapping[str, Fraction],
    seed: int,
) -> Iterator[tuple[str, str]]:
    """(group, images per class) to (group, split) for groups that hold several classes; on one worker, in hash order.

    Each goes where most is missing, counting what is missing to a class as a share of that class, unless no more groups
    are left than splits that have nothing. That is iterative stratification (Sechidis et al. 2011,
    https://doi.org/10.1007/978-3-642-23808-6_10) with all labels at once. What it leaves uneven the groups of one class
    make good, since those are placed after it.
    """
    ordered = sorted(groups, key=lambda group: order_key(seed, group[0]))
    totals: collections.Counter[str] = collections.Counter()
    pinned: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for (class_name, split, _), (images, _) in counts.items():
        totals[class_name] += images
        if split:
            pinned[class_name][split] += images
    for _, by_class in ordered:
        totals.update(by_class)
    missing = {
        name: {split: count - pinned[name][split] for split, count in exact_counts(total, fractions).items()}
        for name, total in totals.items()
    }
    empty = set(fractions) - {split for sizes in pinned.values() for split in sizes}
    groups_of: collections.Counter[str] = collections.Counter()
    for (class_name, _, _), (_, count) in counts.items():
        groups_of[class_name] += count
    groups_of.update(name for _, by_class in ordered for name in by_class)
    large_enough = {name for name, count in groups_of.items() if count >= len(fractions)}
    others = sum(groups for (name, split, _), (_, groups) in counts.items() if not split and name in large_enough)
    for index, (group_id, by_class) in enumerate(ordered):
        last_chance = len(ordered) - index + others <= len(empty)
        gain = {
            split: sum(count * missing[name][split] / totals[name] for name, count in sorted(by_class.items()))
            for split in fractions
            if split in empty or not last_chance
        }
        split = max(gain, key=lambda name: gain[name])
        empty.discard(split)
        for name, count in by_class.items():
            missing[name][split] -= count
        yield group_id, split


def _largest_remainder(total: int, fractions: Mapping[str, Fraction]) -> dict[str, int]:
    shares = {name: total * fraction for name, fraction in fractions.items()}
    counts = {name: int(share) for name, share in shares.items()}
    by_remainder = sorted(counts, key=lambda name: counts[name] - shares[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def _plan_class(
    buckets: Mapping[tuple[str, int], tuple[int, int]],
    fractions: Mapping[str, Fraction],
    line: Sequence[Size],
    fresh: bool,
) -> ClassPlan:
    starts = {}
    images: collections.Counter[str] = collections.Counter()
    groups = 0
    for (split, index), (bucket_images, bucket_groups) in sorted(buckets.items()):
        if index != _OLD:
            starts[split, index] = images[split]
        images[split] += bucket_images
        groups += bucket_groups
    pinned = {split: count for split, count in images.items() if split}
    total = sum(images.values())
    too_small = groups < len(fractions) and (fresh or not pinned)
    free = quotas(total, pinned, fractions) if images[""] and not too_small else {}
    if free and 0 < len(line) <= _FEW_GROUPS:
        free = with_a_group_each(free, [count for _, count in line], pinned.keys())
    return ClassPlan(total, groups, too_small, free, frozenset(pinned), starts)


def with_a_group_each(quotas: Mapping[str, int], sizes: Sequence[int], filled: Set[str]) -> dict[str, int]:
    """Moves the ends of splits as little as lets a group begin in each that has nothing yet, where there are as many.

    Large groups can cover the whole length of a split; without an image there nothing could be measured. What
    `_fill_empty` does for a class that lies in one bucket.

    Args:
      quotas: split -> images, in the order of the line.
      sizes: images of each group, in the same order.
      filled: splits that have images already.
    """
    begins = [0, *itertools.accumulate(sizes)]
    natural = [bisect.bisect_left(begins, end, hi=len(sizes)) for end in itertools.accumulate(quotas.values())]
    wanting = [name not in filled for name in quotas]
    ends: list[int] = []  # the groups before each split's end
    for place, end in enumerate(natural):
        taken = ends[-1] if ends else 0
        least, most = taken + wanting[place], len(sizes) - sum(wanting[place + 1 :])
        ends.append(max(taken, min(max(end, least), most)))
    if ends == natural:
        return dict(quotas)
    images = [begins[end] for end in ends]
    return {name: end - begin for name, begin, end in zip(quotas, [0, *images], images, strict=False)}


def _deal(ordered: Sequence[Sequence[Facts]], start: int, plan: ClassPlan) -> dict[str, list[Placed]]:
    """The groups of one bucket by split; the first image of them is number `start` of the line."""
    ends = dict(zip(plan.quotas, itertools.accumulate(plan.quotas.values()), strict=True))
    dealt: dict[str, list[Placed]] = {split: [] for split in plan.quotas}
    position = start
    for group in ordered:
        split = next(name for name, end in ends.items() if position < end)
        for facts in group:
            dealt[split].append(Placed(dataclasses.replace(facts, split=split), False, position))
            position += 1
    return dealt


def _fill_empty(dealt: dict[str, list[Placed]], filled: Set[str]) -> dict[str, list[Placed]]:
    """Gives each empty split the smallest group of the one that has most; all free images of a class are in `dealt`.

    Large groups can cover the whole length of a split; without an image there nothing could be measured.
    """
    for empty in dealt:
        if dealt[empty] or empty in filled:
            continue
        groups = {split: collections.Counter(one.facts.group_id for one in placed) for split, placed in dealt.items()}
        giver = max(dealt, key=lambda split: len(groups[split]))
        if len(groups[giver]) < 2:
            break
        smallest = min(groups[giver], key=lambda group: (groups[giver][group], group))
        moved = [one for one in dealt[giver] if one.facts.group_id == smallest]
        dealt[giver] = [one for one in dealt[giver] if one.facts.group_id != smallest]
        dealt[empty] = [dataclasses.replace(one, facts=dataclasses.replace(one.facts, split=empty)) for one in moved]
    return {
        split: [dataclasses.replace(one, position=position) for position, one in enumerate(placed)]
        for split, placed in dealt.items()
    }
