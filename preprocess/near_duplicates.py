"""Images' hashes in, edges between those that show one picture out: the search that does not compare all with all.

Each image gets 40 keys, and images that share one are candidates, which `similarity.same_picture` confirms. A key is
the signs of some low frequencies, in the orientation of the eight whose signs read smallest, so that an image and its
mirrored and turned copies have the same keys, and sharing one tells which orientation to compare in. It has
some bits more than it takes to number all images: the more images, the longer, so that chance candidates stay few.

Cost: 80 bytes per image and 12 per key cross the one shuffle, at most 3.7 kB per image where each key goes to a
partition of its own (37 GB for ten million images), never a byte of an image. A partition holds about 2^18 keys, 25 MB.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.pvalue import AsSingleton
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from preprocess import similarity
from preprocess.candidates import KEY_SIGNS, NODE_BYTES, Rows, find_edges

Image = tuple[bytes, bytes, int]  # node (16 bytes), hash, texture

BANDS = 8  # choices of frequencies
_PROBES = 4  # for each, the least certain signs of the image are tried the other way, one at a time
KEYS = BANDS * (1 + _PROBES)
_SIGNS = KEY_SIGNS  # per band; the first of them make the key, the rest orders images that share it
_HIGHEST = 8  # of horizontal plus vertical frequency in keys: a crop by 5 % leaves 90 % of these signs as they are
# Signs are not quite independent, so one more for each doubling would let chance candidates grow.
_BITS_PER_DOUBLING = 1.15
_SPARE_BITS = 3
_MIN_BITS = 14
_ROWS_PER_PARTITION = 2**18
_MIN_PARTITIONS = 4  # so that several workers have something to do
_IMAGES_AT_ONCE = 2_048  # so that an element has some 150 kB; see partitions.ITEMS_PER_ELEMENT
_KEYS_AT_ONCE = 2_048


class NearDuplicates(beam.PTransform):  # type: ignore[misc]  # Beam ships no types
    """PCollection of lists of (node, hash, texture) to lists of edges (smaller node, larger node).

    Similar images end in one component of these edges, not each with an edge of its own. What is missed: pairs that
    share no key, and, where more than 32 images share one, pairs more than 31 places apart that nothing between them
    joins. So no image has more than 40 * 62 candidates, however many look alike, and a partition in which very many do
    is worked through in portions of 2^19 keys.

    Longer keys miss more crops: of 600 planted copies of trashnet's photos it finds 99.3 % with keys for a thousand
    images, 98.3 % for 10^4, 95.7 % for 10^5, 90.7 % for 10^6 and 85.5 % for 10^7 (66 % of crops, 98 % of the rest).
    """

    def expand(self, images: beam.PCollection) -> beam.PCollection:
        count = (
            images
            | "CountImages" >> beam.Map(lambda some: sum(texture >= similarity.MIN_TEXTURE for _, _, texture in some))
            | "SumImages" >> beam.CombineGlobally(sum)
        )
        return (
            images
            | "Keys" >> beam.ParDo(_Keys(), AsSingleton(count))
            | "GroupByPartition" >> beam.GroupByKey()
            | "Compare" >> beam.FlatMap(lambda group, count: find_edges(group[1], key_bits(count)), AsSingleton(count))
        )


def key_bits(images: int) -> int:
    """How many signs make a key: 15 for a thousand images, 19 for ten thousand, 30 for ten million."""
    return min(_SIGNS, max(_MIN_BITS, math.ceil(_BITS_PER_DOUBLING * math.log2(max(images, 1))) + _SPARE_BITS))


def partitions(images: int) -> int:
    return max(_MIN_PARTITIONS, -(-images * KEYS // _ROWS_PER_PARTITION))


def candidate_keys(features: similarity.Floats, bits: int) -> npt.NDArray[np.uint64]:
    """[n, 256] features to [n, 40] keys of 38 bits.

    From the top 3 bits for the band, 32 for the signs, the first `bits` of which must agree in two images for them to
    be candidates, and 3 for the way in which the image is to be turned before comparing.
    """
    return np.concatenate([_band_keys(features, band, bits) for band in range(BANDS)], axis=1)


@functools.cache
def _bands() -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Per band and way: which coefficients make the key, with which signs, and each one's place in the key (or -1).

    [8, 8, 32], [8, 8, 32], [8, 8, 256]. A band begins with a coefficient that only left-right mirroring changes and its
    transpose, which only mirroring upside down does, so that these two decide most of the orientation.
    """
    below = range(_HIGHEST + 1)
    pairs = [((u, v), (v, u)) for u in below for v in range(u) if u + v <= _HIGHEST]
    pairs += [((u, u), (u + 1, u + 1)) for u in (1, 3)]  # a transposition keeps pairs together, if not in order
    leading = [pair for pair in pairs if sum(pair[0]) % 2]
    sources, signs = similarity.ways()
    chosen = np.zeros((BANDS, 8, _SIGNS), np.intp)
    turned = np.zeros((BANDS, 8, _SIGNS), np.uint8)
    where = np.full((BANDS, 8, sources.shape[1]), -1)
    for band in range(BANDS):
        first = leading[band % 4]
        rest = sorted((pair for pair in pairs if pair != first), key=functools.partial(_shuffled, band))
        places = np.array([16 * u + v for pair in [first, *rest] for u, v in pair][:_SIGNS])
        chosen[band], turned[band] = sources[:, places], signs[:, places] < 0
        for way in range(8):
            where[band, way, chosen[band, way]] = _SIGNS - 1 - np.arange(_SIGNS)
    return chosen, turned, where


def _shuffled(band: int, pair: object) -> str:
    return hashlib.sha256(f"{band}/{pair}".encode()).hexdigest()  # the same with every version of numpy


def _band_keys(features: similarity.Floats, band: int, bits: int) -> npt.NDArray[np.uint64]:
    chosen, turned, where = (table[band] for table in _bands())
    signs = np.packbits((features < 0)[:, chosen] ^ turned, axis=2).view(">u4")[:, :, 0].astype(np.uint64)
    used = chosen[0, :bits]
    gain = np.hypot(used // 16, used % 16)
    weakest = used[np.argsort(np.abs(features[:, used]) / gain, axis=1, kind="stable")[:, :_PROBES]]
    ways = np.arange(8, dtype=np.uint64)
    found = [signs << np.uint64(3) | ways]
    for probe in range(_PROBES):
        place = where[:, weakest[:, probe]].T
        flipped = signs ^ np.where(place >= 0, np.uint64(1) << np.maximum(place, 0).astype(np.uint64), np.uint64(0))
        found.append(flipped << np.uint64(3) | ways)
    read_smallest = np.stack([keys.min(axis=1) for keys in found], axis=1)
    return np.asarray(read_smallest | np.uint64(band << (3 + _SIGNS)), np.uint64)


class _Keys(beam.DoFn):  # type: ignore[misc]  # Beam ships no types
    """Lists of images to (partition, rows); images are collected per bundle, because rows travel in long arrays."""

    def start_bundle(self) -> None:
        self._images: list[Image] = []
        self._count = 0

    def process(self, images: list[Image], count: int) -> Iterator[tuple[int, Rows]]:
        self._count = count
        self._images += [image for image in images if image[2] >= similarity.MIN_TEXTURE]
        if len(self._images) >= _IMAGES_AT_ONCE:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[Any]:
        for result in self._flush():
            yield WindowedValue(result, GlobalWindow().max_timestamp(), [GlobalWindow()])

    def _flush(self) -> Iterator[tuple[int, Rows]]:
        images, self._images = self._images, []
        if images:
            yield from _rows(images, self._count)


def _rows(images: list[Image], count: int) -> Iterator[tuple[int, Rows]]:
    bits = key_bits(count)
    nodes = np.frombuffer(b"".join(node for node, _, _ in images), np.uint8).reshape(-1, NODE_BYTES)
    hashes = np.frombuffer(b"".join(code for _, code, _ in images), np.uint8).reshape(-1, similarity.HASH_BYTES)
    keys = np.concatenate(
        [
            candidate_keys(similarity.unpack(hashes[start : start + _KEYS_AT_ONCE]), bits)
            for start in range(0, len(hashes), _KEYS_AT_ONCE)
        ]
    ).ravel()
    owners = np.repeat(np.arange(len(images), dtype=np.uint32), KEYS)
    # Multiplying spreads keys evenly whatever images are alike (Knuth, The Art of Computer Programming, 6.4).
    parts = ((keys >> np.uint64(35 - bits)) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)) % np.uint64(
        partitions(count)
    )
    order = np.argsort(parts, kind="stable")
    starts = np.flatnonzero(np.diff(parts[order], prepend=np.uint64(2**63)))
    for rows in np.split(order, starts[1:]):
        used, index = np.unique(owners[rows], return_inverse=True)
        packed = (nodes[used].tobytes(), hashes[used].tobytes(), keys[rows].tobytes())
        yield int(parts[rows[0]]), (*packed, index.astype(np.uint32).tobytes())
