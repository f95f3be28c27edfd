"""All images that are tied to each other in, the same images as one group out, or the ones that cannot stay in it.

Ties are the user's group keys and near-duplicates. A group never stands in two splits, with two exceptions that are
reported and not hidden: what the source itself, or an earlier version of the dataset, has put into several splits.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from preprocess import partitions
from preprocess.identity import Edge
from preprocess.inspection import Facts
from preprocess.ledger import Row

# What is done about near-duplicates.
JOIN, DROP, IGNORE = "join", "drop", "ignore"


def part(
    facts: Iterable[Sequence[Facts]], roots: Iterable[Sequence[tuple[bytes, bytes]]], ties: Iterable[Sequence[Edge]]
) -> Iterator[tuple[str, Any]]:
    """One partition of nodes, with the component of every node that has ties, and the ties that begin at its nodes.

    Yields ("main", the images without ties), ("members", (root, images)) and ("ties", (root, ties)).
    """
    root_of = dict(itertools.chain.from_iterable(roots))
    images = [each for batch in facts for each in batch]
    if alone := [each for each in images if each.node not in root_of]:
        yield "main", alone
    tied = (each for each in images if each.node in root_of)
    for root, members in partitions.spread(tied, lambda each: root_of[each.node]):
        yield "members", (root, members)
    for root, edges in partitions.spread(itertools.chain.from_iterable(ties), lambda edge: root_of[edge[0]]):
        yield "ties", (root, edges)


def resolve(
    members: Iterable[Sequence[Facts]], edges: Iterable[Sequence[Edge]], near_duplicates: str, keep_splits: bool
) -> Iterator[tuple[str, Any]]:
    """One component of ties; what it holds must fit in a worker's memory, about 1 KB per image.

    Yields ("main", its images with their group and, where one of them has it, their split), ("mixed", the same for a
    group of several classes that has no split yet), ("rows", rows) and ("groups", the images of a group as they came).
    """
    images = sorted((facts for batch in members for facts in batch), key=_order)
    by_node = collections.defaultdict(list)
    for facts in images:
        by_node[facts.node].append(facts)
    ties = sorted({edge for batch in edges for edge in batch})
    rows: list[Row] = []
    if near_duplicates == DROP:
        images, rows = _drop(images, _neighbours(ties, by_node), keep_splits)
        left = {facts.node for facts in images}
        ties = [edge for edge in ties if all(node in left or node not in by_node for node in edge)]
    parts = [images]
    if not keep_splits and len({facts.split for facts in images} - {""}) > 1:
        parts, more = _parts_by_split(images, ties)
        rows += more
    if rows:
        yield "rows", rows
    for part in parts:
        if part:
            yield from _as_group(part, keep_splits)


def _as_group(images: Sequence[Facts], keep_splits: bool) -> Iterator[tuple[str, list[Facts]]]:
    if len(images) == 1:
        yield "main", list(images)
        return
    # What stands in a shard has its group's name there, and keeps it.
    group_id = min((facts.group_id for facts in images if facts.old), default=min(facts.sha256 for facts in images))
    splits = {facts.split for facts in images} - {""}
    pinned = "" if keep_splits or not splits else splits.pop()
    grouped = [dataclasses.replace(facts, group=group_id, split=facts.split or pinned) for facts in images]
    free = not keep_splits and not pinned
    yield "mixed" if free and len({facts.class_name for facts in images}) > 1 else "main", grouped
    yield "groups", list(images)


def _order(facts: Facts) -> tuple[Any, ...]:
    """What is there already comes first, then what has most pixels: the one to keep of several that look the same."""
    return not facts.split, not facts.old, -facts.width * facts.height, facts.input, facts.file, facts.split


def _neighbours(ties: Sequence[Edge], by_node: Mapping[bytes, Sequence[Facts]]) -> Mapping[bytes, set[bytes]]:
    """Near-duplicates only: a tie to a hub is the user's, and its images may look as different as they like."""
    result: dict[bytes, set[bytes]] = collections.defaultdict(set)
    for a, b in ties:
        if a != b and a in by_node and b in by_node:
            result[a].add(b)
            result[b].add(a)
    return result


def _drop(
    images: Sequence[Facts], neighbours: Mapping[bytes, set[bytes]], keep_splits: bool
) -> tuple[list[Facts], list[Row]]:
    """Leaves out every image that looks like one kept before it, in its own class.

    What stands in a split by an earlier version stays; where the source says the splits, each is looked at by itself.
    """
    kept: list[Facts] = []
    rows = []
    standing: dict[tuple[bytes, str], Facts] = {}
    for facts in images:
        side = facts.split if keep_splits else ""
        likes = [standing[node, side] for node in sorted(neighbours.get(facts.node, ())) if (node, side) in standing]
        likes = [other for other in likes if other.class_name == facts.class_name]
        if likes and (keep_splits or not facts.split):
            rows.append(facts.row("duplicate", reason="near_duplicate", detail=f"looks like {likes[0].file}"))
        else:
            kept.append(facts)
            standing[facts.node, side] = facts
    return kept, rows


def _parts_by_split(images: Sequence[Facts], ties: Sequence[Edge]) -> tuple[list[list[Facts]], list[Row]]:
    """Takes apart a component whose images already stand in several splits.

    Images stay where they are, so ties between splits are let go. A new image goes with the one split that its ties
    lead to; one whose ties would join two is quarantined.
    """
    joined = _UnionFind()
    side: dict[bytes, str] = {}  # root -> the split that its part stands in
    old = {facts.node for facts in images if facts.split}
    for facts in images:
        if facts.split:
            side[joined.root(facts.node)] = facts.split
    newcomers = [facts for facts in images if not facts.split]
    new_nodes = {facts.node for facts in newcomers}
    around: dict[bytes, list[bytes]] = collections.defaultdict(list)
    for a, b in ties:
        around[a].append(b)
        around[b].append(a)
    hubs = set(around) - old - new_nodes
    for a in sorted(old):
        for b in around[a]:
            if b in old and side.get(joined.root(a)) == side.get(joined.root(b)):
                _join(joined, side, a, b)
    # A hub belongs to the split of its old images; where those stand in several it ties nothing to either.
    torn = set()
    for node in sorted(hubs):
        splits = {side[joined.root(other)] for other in around[node] if other in old}
        if len(splits) > 1:
            torn.add(node)
        for other in around[node]:
            if other in old and len(splits) == 1:
                _join(joined, side, node, other)
    accepted: list[Facts] = []
    rows = []
    seen: set[bytes] = set()
    for facts in sorted(newcomers, key=lambda facts: facts.sha256):
        reached = [other for other in around[facts.node] if other in old or (other in hubs - torn) or other in seen]
        splits = {side[joined.root(other)] for other in reached if joined.root(other) in side}
        if any(other in torn for other in around[facts.node]) or len(splits) > 1:
            found = ", ".join(sorted(splits)) or "several splits"
            rows.append(facts.row("quarantined", reason="joins_two_splits", detail=f"would tie together {found}"))
            continue
        seen.add(facts.node)
        accepted.append(facts)
        for other in reached:
            _join(joined, side, facts.node, other)
    parts: dict[bytes, list[Facts]] = collections.defaultdict(list)
    for facts in [*(facts for facts in images if facts.split), *accepted]:
        parts[joined.root(facts.node)].append(facts)
    return [parts[root] for root in sorted(parts)], rows


def _join(joined: _UnionFind, side: dict[bytes, str], a: bytes, b: bytes) -> None:
    split = side.get(joined.root(a)) or side.get(joined.root(b))
    root = joined.join(a, b)
    if split:
        side[root] = split


class _UnionFind:
    """Within one component, which fits in memory; `components` does the same where nothing does."""

    def __init__(self) -> None:
        self._parent: dict[bytes, bytes] = {}

    def root(self, node: bytes) -> bytes:
        while (parent := self._parent.setdefault(node, node)) != node:
            self._parent[node] = node = self._parent[parent]
        return node

    def join(self, a: bytes, b: bytes) -> bytes:
        first, second = sorted((self.root(a), self.root(b)))
        self._parent[second] = first
        return first
