"""The keys of one partition in, the edges between images that share one and show one picture out."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from preprocess import similarity

Edge = tuple[bytes, bytes]
Rows = tuple[bytes, bytes, bytes, bytes]  # nodes, hashes; keys (uint64) and the images they belong to (uint32)
_Ints = npt.NDArray[np.int64]

NODE_BYTES = 16
KEY_SIGNS = 32  # in a key, above the 3 bits that say in which way the image is to be turned before comparing
# An image is compared with so many of either side among those that share a key, in the order of all 32 signs.
WINDOW = 31
_MOST_ROWS = 2**19
_PAIRS_AT_ONCE = 16_384
_NO_ROWS = np.zeros(0, np.int64)


def find_edges(chunks: Iterable[Rows], bits: int) -> Iterator[list[Edge]]:
    """One partition's keys to the edges found in it, at most one less than its images.

    Where there are more than 2^19, so because very many images share keys, those found so far are represented
    by up to 32 per key when the next portion comes.
    """
    held: list[Rows] = []
    rows = 0
    for chunk in chunks:
        held.append(chunk)
        rows += len(chunk[3]) // 4
        if rows > _MOST_ROWS:
            edges, representatives = _search(held, bits)
            yield edges
            held, rows = [representatives], len(representatives[3]) // 4
    edges, _ = _search(held, bits)
    if edges:
        yield edges


def _search(chunks: list[Rows], bits: int) -> tuple[list[Edge], Rows]:
    """The edges between the rows' images, and the rows that represent them."""
    nodes = np.frombuffer(b"".join(chunk[0] for chunk in chunks), f"V{NODE_BYTES}")
    hashes = np.frombuffer(b"".join(chunk[1] for chunk in chunks), np.uint8).reshape(-1, similarity.HASH_BYTES)
    keys = np.frombuffer(b"".join(chunk[2] for chunk in chunks), np.uint64)
    offsets = np.cumsum([0, *(len(chunk[0]) // NODE_BYTES for chunk in chunks)])
    owners = np.concatenate(
        [np.frombuffer(chunk[3], np.uint32) + offset for chunk, offset in zip(chunks, offsets, strict=False)]
    ).astype(np.int64)
    # By key, and by node where keys are equal, so that it does not matter in which order rows arrive.
    ranks = _ranks(nodes)
    order = np.lexsort((ranks[owners], keys))
    keys, owners = keys[order], owners[order]
    prefixes = keys >> np.uint64(3 + KEY_SIGNS - bits)
    found = _Found(hashes, nodes, ranks, owners, (keys & np.uint64(7)).astype(np.int64))
    near = 1
    while near <= WINDOW:  # 1, 2 and 3, 4 to 7 …: the nearest join most, and what is joined needs no comparison
        pairs = [_pairs_apart(prefixes, apart) for apart in range(near, min(2 * near, WINDOW + 1))]
        found.compare(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
        near *= 2
    runs = np.flatnonzero(np.diff(prefixes, prepend=~prefixes[:1]))
    within = np.arange(len(prefixes)) - np.repeat(runs, np.diff(runs, append=len(prefixes)))
    kept = np.flatnonzero(within <= WINDOW)
    used, index = np.unique(owners[kept], return_inverse=True)
    left = (nodes[used].tobytes(), hashes[used].tobytes(), keys[kept].tobytes(), index.astype(np.uint32).tobytes())
    return found.edges, left


class _Found:
    """What is known while one portion of a partition is searched: the edges, and pairs that need no comparison."""

    def __init__(
        self,
        hashes: npt.NDArray[np.uint8],
        nodes: npt.NDArray[np.void],
        ranks: _Ints,
        owners: _Ints,
        ways: _Ints,
    ) -> None:
        self.edges: list[Edge] = []
        self._hashes, self._nodes, self._ranks = hashes, nodes, ranks
        self._owners, self._ways = owners, ways
        self._roots = np.arange(len(nodes))
        self._tried = np.zeros(0, np.int64)
        self._coarse = np.zeros((len(nodes), similarity.COARSE), np.float32)
        self._known = np.zeros(len(nodes), bool)

    def compare(self, one: _Ints, other: _Ints) -> None:
        """Compares the images of rows `one` with those of rows `other`, in the ways in which the rows' keys agree."""
        swap = self._ranks[self._owners[one]] > self._ranks[self._owners[other]]  # so that arrival does not matter
        one, other = np.where(swap, other, one), np.where(swap, one, other)
        first, second = self._owners[one], self._owners[other]
        way = _relative_ways()[self._ways[one], self._ways[other]]
        code, position = np.unique((first * len(self._nodes) + second) * 8 + way, return_index=True)
        new = (self._roots[first] != self._roots[second])[position] & ~np.isin(code, self._tried, assume_unique=True)
        code, position = code[new], position[new]
        self._tried = np.concatenate([self._tried, code])
        for start in range(0, len(position), _PAIRS_AT_ONCE):
            some = position[start : start + _PAIRS_AT_ONCE]
            self._join(first[some], second[some], way[some])

    def _join(self, first: _Ints, second: _Ints, way: _Ints) -> None:
        asked = np.unique(np.concatenate([first, second]))
        unknown = asked[~self._known[asked]]  # most images never become a candidate in most partitions
        self._coarse[unknown] = similarity.coarse(self._hashes[unknown])
        self._known[unknown] = True
        likely = (self._roots[first] != self._roots[second]) & similarity.likely(
            self._coarse[first], self._coarse[second], way
        )
        first, second, way = first[likely], second[likely], way[likely]
        one = similarity.unpack(self._hashes[first])
        other = similarity.oriented(similarity.unpack(self._hashes[second]), way)
        same = similarity.same_picture(one, other)
        for left, right in zip(first[same], second[same], strict=True):
            a, b = self._root(left), self._root(right)
            if a != b:
                self._roots[max(a, b)] = min(a, b)
                self.edges.append((self._nodes[left].tobytes(), self._nodes[right].tobytes()))
        while not np.array_equal(above := self._roots[self._roots], self._roots):
            self._roots = above

    def _root(self, image: int) -> int:
        while (parent := int(self._roots[image])) != image:
            image = parent
        return image


def _pairs_apart(prefixes: npt.NDArray[np.uint64], apart: int) -> tuple[_Ints, _Ints]:
    """Rows with the same key that many places from each other."""
    one = np.flatnonzero(prefixes[apart:] == prefixes[: len(prefixes) - apart]) if apart < len(prefixes) else _NO_ROWS
    return one, one + apart


def _ranks(nodes: npt.NDArray[np.void]) -> _Ints:
    """[n] places of the nodes in the order of bytes."""
    halves = np.frombuffer(nodes.tobytes(), ">u8").reshape(-1, 2)
    return np.argsort(np.lexsort((halves[:, 1], halves[:, 0])))


@functools.cache
def _relative_ways() -> _Ints:
    """[8, 8]: the way to turn the second of two images so that it lies like the first.

    Given is how each has to be turned for both to lie alike.
    """
    picture = np.random.default_rng(0).normal(size=(1, 256)).astype(np.float32)

    def turned(image: similarity.Floats, way: int) -> similarity.Floats:
        return similarity.oriented(image, np.array([way]))

    return np.array(
        [
            [
                next(way for way in range(8) if (turned(turned(picture, way), one) == turned(picture, other)).all())
                for other in range(8)
            ]
            for one in range(8)
        ]
    )
