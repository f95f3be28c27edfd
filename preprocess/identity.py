"""All files with the same bytes in, at most one of them out; the others become ledger rows that name it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from preprocess.inspection import Facts
from preprocess.ledger import Row

_NAMED = 3  # how many other files a ledger row names before it only counts


def unique(same_bytes: Iterable[Facts]) -> Iterator[Facts | Row]:
    """Keeps the first path of equal files; where they lie under several classes nobody knows which is right: none."""
    files = sorted(same_bytes, key=lambda facts: facts.file)
    if len({facts.class_name for facts in files}) > 1:
        for facts in files:
            others = [other.file for other in files if other.class_name != facts.class_name]
            named = ", ".join(others[:_NAMED]) + (f" and {len(others) - _NAMED} more" if len(others) > _NAMED else "")
            yield facts.row("quarantined", reason="conflicting_labels", detail=f"same bytes as {named}")
        return
    first, *others_of_class = files
    yield first
    for facts in others_of_class:
        yield facts.row("duplicate", detail=f"same bytes as {first.file}")
