"""Components on the real local runner, against scipy's."""

from __future__ import annotations

import hashlib
import pathlib
import pickle
import tempfile

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from pipeline.errors import InputError
from preprocess.components import ConnectedComponents, forest, large_star, small_star

Numbers = list[tuple[int, int]]
GRAPHS = st.integers(1, 60).flatmap(
    lambda nodes: st.lists(st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1)), max_size=90)
)


def name(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()[:16]


def named(edges: Numbers) -> list[tuple[bytes, bytes]]:
    return [(name(one), name(other)) for one, other in edges]


def expected(edges: Numbers) -> list[tuple[bytes, bytes]]:
    """By scipy, the root being the smallest name."""
    nodes = sorted({node for edge in edges for node in edge}, key=name)
    index = {node: place for place, node in enumerate(nodes)}
    rows, columns = ([index[edge[side]] for edge in edges] for side in (0, 1))
    _, labels = connected_components(coo_matrix((np.ones(len(edges)), (rows, columns)), shape=(len(nodes),) * 2))
    roots: dict[int, bytes] = {}
    for node, label in zip(nodes, labels, strict=True):
        roots.setdefault(label, name(node))
    return sorted((name(node), roots[label]) for node, label in zip(nodes, labels, strict=True))


def joined(edges: Numbers, **limits: int) -> list[tuple[bytes, bytes]]:
    given_edges = named(edges)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "roots"
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            _ = (
                pipeline
                | beam.Create([given_edges[start : start + 5] for start in range(0, len(edges), 5)])
                | ConnectedComponents(**limits)
                | beam.combiners.ToList()
                | beam.Map(lambda found: file.write_bytes(pickle.dumps(found)))
            )
        return sorted(pair for some in pickle.loads(file.read_bytes()) for pair in some)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(GRAPHS, st.sampled_from([0, 1, 3]), st.sampled_from([2, 9, 1000]))
def test_random_graphs_in_any_number_of_partitions(edges: Numbers, rounds: int, per_partition: int) -> None:
    assert joined(edges, rounds=rounds, edges_per_partition=per_partition) == (expected(edges) if edges else [])


@pytest.mark.parametrize(("rounds", "per_partition"), [(0, 20), (1, 20), (3, 50), (3, 10_000)])
def test_a_long_path_a_hub_and_a_node_with_only_a_loop(rounds: int, per_partition: int) -> None:
    path = [(number, number + 1) for number in range(600)]
    hub = [(1000, number) for number in range(1001, 1600)]
    edges = path + hub + [(5000, 5000)]
    assert joined(edges, rounds=rounds, edges_per_partition=per_partition) == expected(edges)


def test_rounds_shrink_a_path_as_the_comment_says() -> None:
    """What is left after three rounds of a path of 10^4 nodes is a tenth; without them it would be all of it."""
    edges = set(named([(number, number + 1) for number in range(10_000)]))
    for _ in range(3):
        edges |= {edge[::-1] for edge in edges}
        edges = set(large_star([sorted(edges)]))
        edges = set(small_star([sorted(edges)]))
    smallest = dict(sorted(edges, reverse=True))
    inner = {node for node in smallest.values() if smallest.get(node, node) != node}
    assert len(inner) < 1000
    assert sorted(forest([sorted(edges)])) == expected([(number, number + 1) for number in range(10_000)])


def test_a_chain_too_long_to_finish_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match=r"more than 20 images hang together .* --group_by"):
        joined([(number, number + 1) for number in range(400)], rounds=0, edges_per_partition=10, max_left=20)
