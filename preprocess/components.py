"""Edges between nodes in, every node of an edge with the smallest node of its connected component out.

Alternating large-star and small-star: Kiveris, Lattanzi, Mirrokni, Rastogi, Vassilvitskii, "Connected Components in
MapReduce and Beyond", SoCC 2014, https://doi.org/10.1145/2670979.2670997. A large-star links every larger neighbour of
a node to the node's smallest neighbour, a small-star does so with the smaller ones; together they keep components as
they are and end with one star around the smallest node of each.

Edges travel in lists keyed by a partition of the nodes, because Beam's cost per element is many times that of the work.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsSingleton, TaggedOutput
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from pipeline.errors import InputError

Edge = tuple[bytes, bytes]
Key = tuple[int, int]  # a partition, and how many there are
Route = Callable[[Edge], tuple[Edge, ...]]

# One worker joins that many in some 100 MB and a second, so nearly every job has one partition, which the first step
# finishes whatever its shape; only larger graphs need the rounds.
EDGES_PER_PARTITION = 2**18
# Beam graphs have no loops, each round costs every job two shuffles even of nothing (30 ms of CPU on the local runner),
# and long paths need up to 14 rounds (10^5 nodes with names like hashes, simulated; 10^2: 6, 10^3: 9, 10^4: 11; trees,
# grids and random graphs at most 8, stars 1). So the rounds only shrink what is not yet a star until one worker can
# join it: after three, 85,054 edges are left of a path of 10^6 nodes, 43,724 of a binary tree, 42,388 of a random graph
# with as many edges as nodes. Names that rise along the path shrink nothing; hashes don't do that.
ROUNDS = 3
MAX_LEFT = 2**20
_CHUNK = 4096  # edges per element, 150 kB


class ConnectedComponents(beam.PTransform):  # type: ignore[misc]  # Beam ships no types
    """PCollection of lists of edges (bytes, bytes), loops and repetitions allowed, to lists of (node, root).

    Each node of an edge comes once, its root is the smallest node of its component in the order of bytes.

    A partition is a hash's share of the nodes, chosen so that it has about `edges_per_partition` edges. A worker holds
    its nodes with one neighbour each, however many neighbours they have, and at the end what the rounds left over.

    Raises:
      InputError: while running, where more than `max_left` edges are left over.
    """

    def __init__(
        self, rounds: int = ROUNDS, edges_per_partition: int = EDGES_PER_PARTITION, max_left: int = MAX_LEFT
    ) -> None:
        super().__init__()
        self._rounds = rounds
        self._edges_per_partition = edges_per_partition
        self._max_left = max_left

    def expand(self, edges: beam.PCollection) -> beam.PCollection:
        share, max_left = self._edges_per_partition, self._max_left
        parts = (
            edges
            | "CountEdges" >> beam.Map(len)
            | "SumEdges" >> beam.CombineGlobally(sum)
            | "Partitions" >> beam.Map(lambda count: max(1, -(-count // share)))
        )
        current = (
            edges
            | "LocalForest" >> beam.ParDo(_LocalForest(share), AsSingleton(parts))
            | "GroupForest" >> beam.GroupByKey()
            | "Forest" >> beam.FlatMap(lambda group: _send(group[0][1], forest(group[1]), _both_ways))
        )
        for number in range(1, self._rounds + 1):
            current = (
                current
                | f"GroupLarge{number}" >> beam.GroupByKey()
                | f"LargeStar{number}" >> beam.FlatMap(lambda group: _send(group[0][1], large_star(group[1]), _as_is))
                | f"GroupSmall{number}" >> beam.GroupByKey()
                | f"SmallStar{number}"
                >> beam.FlatMap(lambda group: _send(group[0][1], small_star(group[1]), _both_ways))
            )
        labels, left = (
            current
            | "GroupLabels" >> beam.GroupByKey()
            | "Labels" >> beam.FlatMap(lambda group: labelled(group[1])).with_outputs("left", main="labels")
        )
        finished = left | "JoinLeft" >> beam.CombineGlobally(_JoinLeft(max_left))
        return labels | "Roots" >> beam.Map(
            lambda labels, roots: [(node, roots.get(label, label)) for node, label in labels], AsSingleton(finished)
        )


def forest(chunks: Iterable[list[Edge]]) -> Iterator[Edge]:
    """The stars (node, root) of the components of these edges alone."""
    parents: dict[bytes, bytes] = {}
    for edges in chunks:
        _join(parents, edges)
    for node in parents:
        yield node, _find(parents, node)


def large_star(chunks: Iterable[list[Edge]]) -> Iterator[Edge]:
    """Edges (node, neighbour) of whole neighbourhoods, read twice so that none is held.

    Each node's larger neighbours are linked to the smallest of itself and all.
    """
    smallest = _smallest(chunks)
    seen: set[Edge] = set()
    for edges in chunks:
        for node, neighbour in edges:
            if neighbour >= node:  # a loop stays, for nodes that have nothing else
                seen.add((neighbour, smallest[node]))
        if len(seen) > _CHUNK:  # repetitions are dropped where that is cheap; they do no harm
            yield from seen
            seen.clear()
    yield from seen


def small_star(chunks: Iterable[list[Edge]]) -> Iterator[Edge]:
    """Edges (node, smaller neighbour); the node and its smaller neighbours are linked to the smallest of them."""
    smallest = _smallest(chunks)
    yield from smallest.items()
    seen: set[Edge] = set()
    for edges in chunks:
        for node, neighbour in edges:
            if neighbour != smallest[node]:
                seen.add((neighbour, smallest[node]))
        if len(seen) > _CHUNK:
            yield from seen
            seen.clear()
    yield from seen


def labelled(chunks: Iterable[list[Edge]]) -> Iterator[Any]:
    """Edges (node, neighbour) of whole neighbourhoods to lists of (node, its smallest neighbour or itself).

    Where that is no finished star, lists of edges between labels go to output "left": joining those joins all.
    """
    smallest = _smallest(chunks)
    left: set[Edge] = set()
    for edges in chunks:
        for node, neighbour in edges:
            label = smallest[node]
            if neighbour > node and label != node:
                left.add((label, node))
            elif neighbour < node and neighbour != label:
                left.add((label, neighbour))
        if len(left) > _CHUNK:
            yield TaggedOutput("left", list(left))
            left.clear()
    labels = iter(smallest.items())
    while some := list(itertools.islice(labels, _CHUNK)):
        yield some
    if left:
        yield TaggedOutput("left", list(left))


def _smallest(chunks: Iterable[list[Edge]]) -> dict[bytes, bytes]:
    """The smallest of each node and its neighbours."""
    smallest: dict[bytes, bytes] = {}
    for edges in chunks:
        for node, neighbour in edges:
            if neighbour < smallest.setdefault(node, node):
                smallest[node] = neighbour
    return smallest


def _join(parents: dict[bytes, bytes], edges: Iterable[Edge]) -> None:
    """Union-find in which the smaller root wins."""
    for one, other in edges:
        first, second = _find(parents, one), _find(parents, other)
        if first < second:
            parents[second] = first
        else:
            parents[first] = second


def _find(parents: dict[bytes, bytes], node: bytes) -> bytes:
    parent = parents.setdefault(node, node)
    while parent != (above := parents[parent]):  # halving the path as it is walked keeps it short
        parents[node] = above
        node, parent = parent, above
    return parent


def _as_is(edge: Edge) -> tuple[Edge, ...]:
    return (edge,)


def _both_ways(edge: Edge) -> tuple[Edge, ...]:
    return edge, edge[::-1]


def _send(parts: int, edges: Iterable[Edge], route: Route) -> Iterator[tuple[Key, list[Edge]]]:
    """Sends edges, in lists, to the partition of their first node; open lists hold about one partition's worth."""
    limit = max(1, min(_CHUNK, EDGES_PER_PARTITION // parts))
    lists: dict[int, list[Edge]] = {}
    for edge in edges:
        for routed in route(edge):
            part = zlib.crc32(routed[0]) % parts
            filling = lists.setdefault(part, [])
            filling.append(routed)
            if len(filling) >= limit:
                yield (part, parts), lists.pop(part)
    for part, filling in lists.items():
        yield (part, parts), filling


class _LocalForest(beam.DoFn):  # type: ignore[misc]  # Beam ships no types
    """Lists of edges to lists per partition, of which only a spanning forest per bundle is left."""

    def __init__(self, most_nodes: int) -> None:
        self._most_nodes = most_nodes

    def start_bundle(self) -> None:
        self._parents: dict[bytes, bytes] = {}
        self._parts = 1

    def process(self, edges: list[Edge], parts: int) -> Iterator[tuple[Key, list[Edge]]]:
        self._parts = parts
        _join(self._parents, edges)
        if len(self._parents) >= self._most_nodes:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for result in self._flush():
            yield WindowedValue(result, GlobalWindow().max_timestamp(), [GlobalWindow()])

    def _flush(self) -> list[tuple[Key, list[Edge]]]:
        # Roots go along as loops: a node may have nothing but a loop.
        stars = [(node, _find(self._parents, node)) for node in self._parents]
        self._parents = {}
        return list(_send(self._parts, stars, _as_is))


class _JoinLeft(beam.CombineFn):  # type: ignore[misc]  # Beam ships no types
    """Lists of edges to a dictionary from each of their nodes to its root."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def create_accumulator(self) -> dict[bytes, bytes]:
        return {}

    def add_input(self, parents: dict[bytes, bytes], edges: Iterable[Edge]) -> dict[bytes, bytes]:
        _join(parents, edges)
        if len(parents) > self._limit:
            raise InputError(
                f"more than {self._limit:,} images hang together in very long chains, each joined only to the next; "
                "give each chain one key by --group_by, or use --near_duplicates=ignore"
            )
        return parents

    def merge_accumulators(self, accumulators: Iterable[dict[bytes, bytes]]) -> dict[bytes, bytes]:
        merged: dict[bytes, bytes] = {}
        for parents in accumulators:
            self.add_input(merged, parents.items())
        return merged

    def extract_output(self, parents: dict[bytes, bytes]) -> dict[bytes, bytes]:
        return {node: _find(parents, node) for node in parents}
