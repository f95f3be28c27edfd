"""All files with the same bytes in, one of them out; the others become ledger rows that name it.

Also where an image learns what it is tied to: the split it already stands in, and the groups that the user named.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from preprocess.inspection import Facts
from preprocess.ledger import REMOVED, Row

_NAMED = 3  # how many other files a ledger row names before it only counts

Edge = tuple[bytes, bytes]


@dataclasses.dataclass(frozen=True)
class Pin:
    """Where an image of an earlier version stands."""

    sha256: str
    class_name: str
    split: str  # "" where a correction removed it
    corrected_from: str = ""  # see `ledger.Row`


def hub(key: str) -> bytes:
    """The node to which all images of the user's group `key` are tied."""
    return hashlib.sha256(f"group/{key}".encode("utf-8", "surrogateescape")).digest()[:16]


def unique(batches: Iterable[Sequence[Facts]], pins: Iterable[Sequence[Pin]] = ()) -> Iterator[tuple[str, Any]]:
    """Keeps the first path of equal files, for every split that the source itself puts them into.

    What was corrected in the earlier version stays corrected for as long as the input says what it said then.

    Yields ("main", list of Facts), ("rows", list of Row), ("edges", list of node pairs), ("kept", number of images
    of the earlier version that are still there) and ("moved", (class, files more or less than its input has)).
    """
    by_sha256: dict[str, list[Facts]] = collections.defaultdict(list)
    for batch in batches:
        for facts in batch:
            by_sha256[facts.sha256].append(facts)
    # Where a ledger calls an image written and removed, the removal counts.
    pinned = {pin.sha256: pin for pin in sorted(itertools.chain.from_iterable(pins), key=lambda pin: not pin.split)}
    kept: list[Facts] = []
    rows: list[Row] = []
    edges: list[Edge] = []
    moved: collections.Counter[str] = collections.Counter()
    for sha256 in sorted(by_sha256):
        pin = pinned.get(sha256)
        same = sorted(by_sha256[sha256], key=_order)
        if pin and not pin.split and same[0].old:  # it stands in a shard, and that is not written again
            pin = None
        if pin and not pin.split:
            rows += [facts.row("quarantined", reason=REMOVED, detail="by an earlier correction") for facts in same]
            continue
        if pin and pin.corrected_from:
            corrected = [_corrected(facts, pin) for facts in same]
            moved.update(facts.class_name for facts in corrected)
            moved.subtract(facts.class_name for facts in same)
            same = corrected
        files, contradicting = _agreeing(same, pin)
        rows += contradicting
        by_split: dict[str, list[Facts]] = collections.defaultdict(list)
        for facts in files:
            by_split[files[0].split if files[0].old else facts.split].append(facts)
        for split in sorted(by_split):
            first, *others = by_split[split]
            kept.append(dataclasses.replace(first, split=pin.split) if pin else first)
            rows += [facts.row("duplicate", detail=_copy_of(facts, first)) for facts in others]
        if files:
            edges += [(files[0].node, hub(key)) for key in sorted({facts.key for facts in files if facts.key})]
            if len(by_split) > 1:  # an edge to itself: it has to be looked at as a group of several
                edges.append((files[0].node, files[0].node))
    for tag, values in (("main", kept), ("rows", rows), ("edges", edges)):
        if values:
            yield tag, values
    if count := sum(facts.old or facts.sha256 in pinned for facts in kept):
        yield "kept", count
    for class_name, number in moved.items():
        if number:
            yield "moved", (class_name, number)


def _corrected(facts: Facts, pin: Pin) -> Facts:
    if facts.class_name != pin.corrected_from:  # its folder was changed since, which is the newer word
        return facts
    return dataclasses.replace(facts, class_name=pin.class_name, corrected_from=pin.corrected_from)


def _order(facts: Facts) -> tuple[Any, ...]:
    """What is there already, then by name, then by whatever a listing says twice of one file."""
    return not facts.old, facts.input, facts.file, facts.split, facts.class_name, facts.key


def _copy_of(facts: Facts, first: Facts) -> str:
    twice = (facts.input, facts.file) == (first.input, first.file)
    return "listed twice" if twice else f"same bytes as {first.file}"


def _agreeing(files: Sequence[Facts], pin: Pin | None) -> tuple[list[Facts], list[Row]]:
    """Files of one class; where they lie under several and nobody knows which is right, none.

    An image of an earlier version, or in a shard already, keeps its class: the contradiction is the newcomer's.
    """
    names = {facts.class_name for facts in files}
    if len(names) == 1:
        return list(files), []
    known = files[0].class_name if files[0].old else pin.class_name if pin and pin.class_name in names else None
    agreeing = [facts for facts in files if facts.class_name == known]
    rows = []
    for facts in files:
        if facts.class_name != known:
            others = [other.file for other in files if other.class_name != facts.class_name]
            named = ", ".join(others[:_NAMED]) + (f" and {len(others) - _NAMED} more" if len(others) > _NAMED else "")
            rows.append(facts.row("quarantined", reason="conflicting_labels", detail=f"same bytes as {named}"))
    return agreeing, rows
