"""Facts and ledger rows in, the few of them whose pictures the report shows out.

Chosen by hash: a choice of choices is the choice of all, so workers choose apart and nothing large ever meets.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from preprocess import ledger

# A thumbnail of 96 pixels has about 2 KB, 3 in the page's text: what is below gives 2 MB of page as a rule and 4 MB
# with 1,000 classes, which a telephone still opens. It is also how many files are read once more.
_CONTACTS = 480
_PER_CLASS = 8
_MAX_CONTACTS = 1000  # every class has one at least, up to so many classes
_QUARANTINED = 120
_PER_REASON = 12
PAIRS = 40
# All thumbnails together; a guard against a defect elsewhere, since what is gathered here meets in one worker.
MAX_SAMPLES = _MAX_CONTACTS + _QUARANTINED + 2 * PAIRS
_CAPTION_CHARACTERS = 200

CONTACT, QUARANTINED, PAIR = "contact", "quarantined", "pair"


class WrittenFacts(Protocol):
    @property
    def input(self) -> int: ...
    @property
    def file(self) -> str: ...
    @property
    def class_name(self) -> str: ...
    @property
    def sha256(self) -> str: ...


class RejectedRow(Protocol):
    @property
    def input(self) -> int: ...
    @property
    def file(self) -> str: ...
    @property
    def class_name(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def detail(self) -> str: ...


@dataclasses.dataclass(frozen=True, order=True)
class Candidate:
    """A file whose picture may be shown; the smaller `key`, the rather."""

    key: str
    input: int
    file: str
    class_name: str
    kind: str  # CONTACT, QUARANTINED or PAIR
    caption: str  # of a contact its split, of a quarantined one its reason's detail, of a pair's its split
    reason: str = ""  # of a quarantined one
    pair: str = ""  # equal for the two of a pair

    def sample(self, thumbnail: bytes) -> Sample:
        return Sample(self.class_name, self.file, self.kind, self.caption, thumbnail, self.reason, self.pair)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A picture to show. `thumbnail` is a JPEG, or empty where none could be made of the file."""

    class_name: str
    file: str
    kind: str
    caption: str
    thumbnail: bytes
    reason: str = ""
    pair: str = ""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The candidates with the smallest keys, in rising order."""

    contacts: Mapping[str, tuple[Candidate, ...]]  # class -> at most `_PER_CLASS`
    quarantined: Mapping[str, tuple[Candidate, ...]]  # reason -> at most `_PER_REASON`


def choose_contacts(images: Iterable[tuple[str, WrittenFacts]]) -> Chosen:
    """Takes (split, facts) of written images. Their own hash decides, so a grown dataset shows mostly the same ones."""
    by_class: dict[str, list[Candidate]] = {}
    for split, facts in images:
        by_class.setdefault(facts.class_name, []).append(
            Candidate(facts.sha256, facts.input, facts.file, facts.class_name, CONTACT, split)
        )
    return Chosen({name: _smallest(found, _PER_CLASS) for name, found in by_class.items()}, {})


def choose_quarantined(rows: Iterable[RejectedRow]) -> Chosen:
    """Takes ledger rows and passes over those that are not quarantined."""
    by_reason: dict[str, list[Candidate]] = {}
    for row in rows:
        if row.status == "quarantined":
            caption = row.detail[:_CAPTION_CHARACTERS]
            key = ledger.name_hash(row.input, row.file).hex()
            by_reason.setdefault(row.reason, []).append(
                Candidate(key, row.input, row.file, row.class_name, QUARANTINED, caption, reason=row.reason)
            )
    return Chosen({}, {reason: _smallest(found, _PER_REASON) for reason, found in by_reason.items()})


def merge(parts: Iterable[Chosen]) -> Chosen:
    """Any grouping of the same files gives the same choice."""
    contacts: dict[str, tuple[Candidate, ...]] = {}
    quarantined: dict[str, tuple[Candidate, ...]] = {}
    for part in parts:
        for merged, found, limit in (
            (contacts, part.contacts, _PER_CLASS),
            (quarantined, part.quarantined, _PER_REASON),
        ):
            for name, candidates in found.items():
                kept = merged.get(name, ())
                if len(kept) == limit and kept[-1] < candidates[0]:
                    continue  # nearly always, once many have been seen
                merged[name] = _smallest((*kept, *candidates), limit)
    return Chosen(contacts, quarantined)


def finish(chosen: Chosen, pairs: Sequence[tuple[Candidate, Candidate]] = ()) -> list[Candidate]:
    """What to make thumbnails of: fewer per class the more classes there are, and at most `MAX_SAMPLES`."""
    per_class = min(_PER_CLASS, max(1, _CONTACTS // max(1, len(chosen.contacts))))
    contacts = [one for found in chosen.contacts.values() for one in found[:per_class]]
    per_reason = min(_PER_REASON, max(1, _QUARANTINED // max(1, len(chosen.quarantined))))
    quarantined = [one for found in chosen.quarantined.values() for one in found[:per_reason]]
    return [
        *heapq.nsmallest(_MAX_CONTACTS, contacts),
        *heapq.nsmallest(_QUARANTINED, quarantined),
        *(one for pair in pairs[:PAIRS] for one in pair),
    ]


def _smallest(candidates: Sequence[Candidate], limit: int) -> tuple[Candidate, ...]:
    return tuple(heapq.nsmallest(limit, candidates))
