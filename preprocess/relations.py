"""Groups of images in, how they relate out: how many and how large, and which images would stand in several splits.

A group never stands in several splits, unless the splits are the source's own, which are kept as they are. What is
told here is what planning by groups prevented, or, with the source's own splits, what leaks.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol

from preprocess import samples
from preprocess.samples import PAIRS, Candidate, WrittenFacts
from preprocess.splits import order_key

# Bins by number of images: 2, 3, 4 to 5, 6 to 10 and so on; the last one is everything above.
SIZES = (3, 4, 6, 11, 21, 51, 101, 1001)
_LARGEST = 10
_NAMED = 3  # files named of a large group
_COMPARED = 8  # images per split among which a pair is sought; 64 comparisons a group cost some 30 microseconds


class Member(WrittenFacts, Protocol):
    @property
    def split(self) -> str: ...  # where the source itself says one, else empty
    @property
    def phash(self) -> bytes: ...


@dataclasses.dataclass(frozen=True, order=True)
class Group:
    rank: tuple[int, str]  # minus its images, its first file: the largest group is the smallest in order
    classes: tuple[tuple[str, int], ...]  # (class, images), sorted
    files: tuple[str, ...]  # the first few

    @property
    def images(self) -> int:
        return -self.rank[0]


@dataclasses.dataclass(frozen=True)
class Relations:
    """Only groups of two images and more count."""

    groups: int
    images: int  # in those groups
    sizes: tuple[int, ...]  # groups per bin
    mixed: int  # groups with several classes
    separated: int  # groups whose images, looked at singly, stand in several splits
    separated_images: int
    between: Mapping[str, int]  # "test, train" -> separated groups
    largest: tuple[Group, ...]
    pairs: tuple[tuple[Candidate, Candidate], ...]  # two images of a separated group, from different splits


EMPTY = Relations(0, 0, (0,) * (len(SIZES) + 1), 0, 0, 0, {}, (), ())


def split_alone(image: Member, fractions: Mapping[str, Fraction], seed: int) -> str:
    """The split that an image has where no other image is looked at: its source's own, or by its own hash."""
    if image.split:
        return image.split
    place, end = int.from_bytes(order_key(seed, image.sha256), "big"), Fraction(0)
    for name, fraction in fractions.items():
        end += fraction
        if place < end * 2**256:
            return name
    raise ValueError(f"fractions {fractions} sum to less than 1")


def describe(group: Iterable[Member], alone: Callable[[Member], str]) -> Relations:
    """Takes one group's images, which may be very many, and their `split_alone`; of a single image, `EMPTY`."""
    by_split: dict[str, list[Member]] = {}
    classes: collections.Counter[str] = collections.Counter()
    files: list[str] = []
    for image in group:
        classes[image.class_name] += 1
        files = heapq.nsmallest(_NAMED, (*files, image.file))
        split = alone(image)
        by_split[split] = heapq.nsmallest(_COMPARED, (*by_split.get(split, ()), image), key=lambda one: one.sha256)
    images = classes.total()
    if images < 2:
        return EMPTY
    sizes = [0] * (len(SIZES) + 1)
    sizes[bisect.bisect_right(SIZES, images)] = 1
    separated = len(by_split) > 1
    return Relations(
        groups=1,
        images=images,
        sizes=tuple(sizes),
        mixed=int(len(classes) > 1),
        separated=int(separated),
        separated_images=images if separated else 0,
        between={", ".join(sorted(by_split)): 1} if separated else {},
        largest=(Group((-images, files[0]), tuple(sorted(classes.items())), tuple(files)),),
        pairs=(_pair(by_split),) if separated else (),
    )


def merge(parts: Iterable[Relations]) -> Relations:
    """Any grouping of the same groups gives the same sum; of nothing, `EMPTY`."""
    parts = [EMPTY, *parts]
    between: collections.Counter[str] = collections.Counter()
    for part in parts:
        between.update(part.between)
    return Relations(
        groups=sum(part.groups for part in parts),
        images=sum(part.images for part in parts),
        sizes=tuple(map(sum, zip(*(part.sizes for part in parts), strict=True))),
        mixed=sum(part.mixed for part in parts),
        separated=sum(part.separated for part in parts),
        separated_images=sum(part.separated_images for part in parts),
        between=dict(between),
        largest=tuple(heapq.nsmallest(_LARGEST, (group for part in parts for group in part.largest))),
        pairs=tuple(heapq.nsmallest(PAIRS, (pair for part in parts for pair in part.pairs))),
    )


def to_json(relations: Relations, *, own_splits: bool) -> dict[str, Any]:
    """The manifest's `statistics["groups"]`; `own_splits` says that the source's splits were kept, leaks and all."""
    return {
        "own_splits": own_splits,
        "groups": relations.groups,
        "images": relations.images,
        "sizes": {"bounds": list(SIZES), "groups": list(relations.sizes)},
        "mixed": relations.mixed,
        "separated": {
            "groups": relations.separated,
            "images": relations.separated_images,
            "between": dict(sorted(relations.between.items())),
        },
        "largest": [
            {
                "images": group.images,
                "classes": dict(group.classes),
                # Names that are not UTF-8 are shown escaped: the manifest and the page hold text only.
                "first": [file.encode("utf-8", "backslashreplace").decode() for file in group.files],
            }
            for group in relations.largest
        ],
    }


def _pair(by_split: Mapping[str, Sequence[Member]]) -> tuple[Candidate, Candidate]:
    """Of a few images, the two from different splits whose perceptual hashes differ in the fewest bits, as they lie."""
    _, first, second = min(
        (
            (int.from_bytes(one.phash, "big") ^ int.from_bytes(other.phash, "big")).bit_count(),
            _candidate(split, one),
            _candidate(other_split, other),
        )
        for split, other_split in itertools.combinations(sorted(by_split), 2)
        for one in by_split[split]
        for other in by_split[other_split]
    )
    pair = first.key
    return dataclasses.replace(first, pair=pair), dataclasses.replace(second, pair=pair)


def _candidate(split: str, image: Member) -> Candidate:
    return Candidate(image.sha256, image.input, image.file, image.class_name, samples.PAIR, split)
