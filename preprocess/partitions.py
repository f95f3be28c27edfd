"""Lists in, the same things in lists by partition out: how work is shared without one Beam element per image.

An element costs Beam some 30 microseconds a step, as much as hashing a small file. So facts travel in lists, and what
has to meet (equal bytes, one class, one shard) meets in a partition of a bounded number of images.
"""

from __future__ import annotations

import collections
import pickle
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

# About 4 MB of facts at a time in a worker's memory, and few enough elements that Beam's own cost disappears.
IMAGES_PER_PARTITION = 4096
# About 150 kB of facts or rows: Flink sorts in buffers that a few larger elements would overflow ("Record too large").
ITEMS_PER_ELEMENT = 512

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


class Batch(Sequence[Item]):
    """A list that is pickled once, however many shuffles it passes, and unpickled only where it is looked at."""

    __slots__ = ("_data", "_items")

    def __init__(self, items: list[Item] | None, data: bytes = b"") -> None:
        self._items = items
        self._data = data

    def __reduce__(self) -> tuple[type[Batch[Item]], tuple[None, bytes]]:
        self._data = self._data or pickle.dumps(self._items, protocol=5)
        return Batch, (None, self._data)

    def _list(self) -> list[Item]:
        if self._items is None:
            self._items = pickle.loads(self._data)
        return self._items

    def __iter__(self) -> Iterator[Item]:
        return iter(self._list())

    def __len__(self) -> int:
        return len(self._list())

    def __getitem__(self, index: Any) -> Any:
        return self._list()[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._list() == list(other)

    def __hash__(self) -> int:
        raise TypeError("a Batch is no key")


def count(images: int) -> int:
    """How many partitions `images` are spread over, at least one."""
    return max(1, -(-images // IMAGES_PER_PARTITION))


def of_node(node: bytes, partitions: int) -> int:
    """Nodes are hashes, so their leading bits are as good as random."""
    return int.from_bytes(node[:4], "big") * partitions >> 32


def cut(items: list[Item]) -> Iterator[Batch[Item]]:
    """The same items in elements that no runner finds too large."""
    for start in range(0, len(items), ITEMS_PER_ELEMENT):
        yield Batch(items[start : start + ITEMS_PER_ELEMENT])


def spread(items: Iterable[Item], key: Callable[[Item], Key]) -> Iterator[tuple[Key, Batch[Item]]]:
    """(key, items) for every key that occurs, once unless there are very many."""
    lists: dict[Key, list[Item]] = collections.defaultdict(list)
    for item in items:
        lists[key(item)].append(item)
    for name, values in lists.items():
        for batch in cut(values):
            yield name, batch
