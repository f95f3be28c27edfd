"""The ledger of an earlier version in; where each of its images stands out, so that none moves."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from pipeline import manifest, storage
from pipeline.errors import InputError
from preprocess import ledger, partitions
from preprocess.identity import Pin
from preprocess.inputs import Source
from preprocess.inputs.source import in_usual_order
from preprocess.inspection import Facts
from preprocess.layout import Layout
from preprocess.ledger import Row
from preprocess.settings import Settings, parse_splits

_BATCH = 512  # rows: a list of that many pins is about 100 KB


def fractions(old: manifest.Manifest) -> dict[str, Fraction]:
    """The fractions that a version was made with; none where its inputs said every image's split.

    Raises:
      InputError: where an earlier release wrote it, whose ledger lacks what growing needs.
    """
    text = old.settings.get("splits")
    if not isinstance(text, str):
        raise InputError(f"{old.name} {old.version} was prepared before datasets could grow: prepare it anew")
    return parse_splits(text) if text else {}


def check_splits(old: manifest.Manifest, settings: Settings, fractions: Mapping[str, Fraction]) -> None:
    """Raises InputError where the new version would have other splits than the old one."""
    if set(fractions) != set(old.splits):
        raise InputError(
            f"{settings.earlier} has the splits {', '.join(in_usual_order(old.splits))}, and the new version would "
            f"have {', '.join(fractions)}: an image keeps its split, so give --splits with the same names"
        )


def check_settings(old: manifest.Manifest, settings: Settings) -> None:
    """Raises InputError where images would be added by other rules than those beside them."""
    now = settings.content()
    for name in ("inputs", "seed", "storing", "group_by", "near_duplicates"):
        if old.settings.get(name) != now[name]:
            raise InputError(
                f"{settings.earlier} was prepared with {name} {old.settings.get(name)}, now it is {now[name]}: "
                "give the same flags to add to it, or --grow_from to write it anew"
            )


def ledger_parts(directory: str) -> list[str]:
    """The paths of a version's ledger parts.

    Raises:
      InputError: where it has none, or not all.
    """
    names = [name for name, _ in storage.children(directory) if name.startswith("ledger-") and name.endswith(".jsonl")]
    if not names or not names[0].endswith(f"-of-{len(names):05d}.jsonl"):
        raise InputError(f"{directory} has {len(names)} ledger-*.jsonl files, which is not all: copy them back")
    return [storage.join(directory, name) for name in names]


def pins(rows: Sequence[Row]) -> Iterator[list[Pin]]:
    """The images that these rows say are written, or removed by a correction."""
    if batch := [
        Pin(row.sha256, row.class_name, row.split, row.corrected_from)
        for row in rows
        if row.status == "written" or row.reason == ledger.REMOVED
    ]:
        yield batch


def spread_pins(batch: Sequence[Pin], count: int) -> Iterator[tuple[int, Sequence[Pin]]]:
    """The same pins by the partition of their image."""
    return partitions.spread(batch, lambda pin: partitions.of_node(bytes.fromhex(pin.sha256[:32]), count))


def read_rows(part: str) -> Iterator[list[Row]]:
    """One ledger part in lists."""
    rows = ledger.read_part(part)
    while batch := list(itertools.islice(rows, _BATCH)):
        yield batch


def spread_names(batch: Sequence[Row | Source], count: int) -> Iterator[tuple[int, Sequence[Row | Source]]]:
    """Rows of the earlier version and files that are listed now, so that those of one name meet."""
    return partitions.spread(batch, lambda one: partitions.of_node(ledger.name_hash(one.input, one.file), count))


def replay(
    rows: Iterable[Sequence[Row]], files: Iterable[Sequence[Source]], unlisted: Iterable[Sequence[Row]]
) -> Iterator[tuple[str, Any]]:
    """What to do again of one partition of names.

    Yields ("main", files that were quarantined and can be listed), ("rows", rows of those that cannot), ("standing",
    rows of the others, which stay as they are), ("old", facts about those of them that are written) and ("seen",
    (class, files)). Files that the earlier version has not seen are for growing, not for this.
    """
    now: dict[tuple[int, str], list[Source | Row]] = collections.defaultdict(list)
    for source in itertools.chain.from_iterable(files):
        now[source.input, source.file].append(source)
    for row in itertools.chain.from_iterable(unlisted):
        now[row.input, row.file].append(row)
    ordered = sorted((row for batch in rows for row in batch), key=ledger.order)
    standing = [row for row in ordered if row.status != "quarantined" or row.reason == ledger.REMOVED]
    for row in standing:
        if found := now[row.input, row.file]:  # a listing may name a file twice
            found.pop()
    retried: list[Source] = []
    left: list[Row] = []
    for row in ordered:
        if row.status == "quarantined" and row.reason != ledger.REMOVED:
            found = now[row.input, row.file]
            one = found.pop() if found else row
            if isinstance(one, Row):
                left.append(one)
            else:
                retried.append(one)
    old = [old_facts(row) for row in standing if row.status == "written"]
    for tag, values in (("main", retried), ("rows", left), ("standing", standing), ("old", old)):
        if values:
            yield tag, values
    classes = collections.Counter(one.class_name for some in (retried, left, standing) for one in some)
    for class_name, count in classes.items():
        yield "seen", (class_name, count)


def rename_shards(rows: Sequence[Row], name: str, plan: Layout) -> list[Row]:
    """The same rows with their shards' names in a dataset that has more of them."""
    return [
        dataclasses.replace(row, shard=shard_name(name, row.shard, plan.splits[row.split].shards)) if row.shard else row
        for row in rows
    ]


def shard_name(name: str, old: str, shards: int) -> str:
    """What `OLDNAME-SPLIT.tfrecord-00003-of-00008` is called in dataset `name` among `shards`."""
    return f"{name}-{old.partition('-')[2].rpartition('-')[0]}-{shards:05d}"


def old_facts(row: Row) -> Facts:
    """Of an image that the row says is written."""
    return Facts(
        row.input,
        row.file,
        row.class_name,
        row.key,
        row.split,
        row.bytes,
        row.width,
        row.height,
        row.sha256,
        kept=True,
        phash=bytes.fromhex(row.phash),
        texture=row.texture,
        channels=bytes.fromhex(row.channels),
        group=row.group,
        old=True,
        corrected_from=row.corrected_from,
    )
