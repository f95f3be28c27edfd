"""One class's images in, each with its split out: exact counts, decided by hash order and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction

from preprocess.inspection import Facts
from preprocess.ledger import Row


@dataclasses.dataclass(frozen=True)
class Placed:
    facts: Facts
    split: str
    rank: int  # 0, 1, 2 … within its class and split


def order_key(seed: int, group: str) -> str:
    """Sorting by this shuffles; it depends on no other file, on no worker and on no listing."""
    return hashlib.sha256(f"{seed}/{group}".encode()).hexdigest()


def exact_counts(total: int, fractions: Mapping[str, Fraction]) -> dict[str, int]:
    """Largest remainder: whole numbers that sum to `total`, each within one of its share.

    Equal remainders go to the split named first. Where `total` allows it no split stays empty: each empty one takes
    one from the largest. https://en.wikipedia.org/wiki/Quota_method
    """
    shares = {name: total * fraction for name, fraction in fractions.items()}
    counts = {name: int(share) for name, share in shares.items()}
    by_remainder = sorted(counts, key=lambda name: counts[name] - shares[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    if total >= len(counts):
        for name in counts:
            if not counts[name]:
                counts[max(counts, key=lambda other: counts[other])] -= 1
                counts[name] = 1
    return counts


def place(images: Iterable[Facts], fractions: Mapping[str, Fraction], seed: int) -> Iterator[Placed | Row]:
    """Deals the images of one class into splits; a class that cannot fill every split is quarantined whole."""
    ordered = sorted(images, key=lambda facts: order_key(seed, facts.group))
    if len(ordered) < len(fractions):
        detail = f"{len(ordered)} usable images for {len(fractions)} splits"
        yield from (facts.row("quarantined", reason="class_too_small", detail=detail) for facts in ordered)
        return
    remaining = iter(ordered)
    for split, count in exact_counts(len(ordered), fractions).items():
        for rank in range(count):
            yield Placed(next(remaining), split, rank)
