"""What every kind of input gives: files that can be read by name, and rows for what cannot even be named.

The rules that all kinds share stand here too: names of classes and splits, links that lead out, groups.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from pipeline.errors import InputError

# Why an input file can fail before anybody reads it, with what to do.
REASONS = {
    "outside_root": "The path or link leads out of the input's folder, and nothing outside is read; copy the file in.",
    "bad_row": "Correct the listing at the line that is named; --replay_quarantine cannot know the row again.",
    "bad_record": "The record is damaged or names no image or class; fetch the dataset again, or leave it out.",
}
# The trainer asks for train, validation and test; people write these. MNIST's folders are training and testing.
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SPLIT = re.compile(r"[a-z][a-z0-9_]*")  # what TFDS finds again in file names; "all" means every split together there


@dataclasses.dataclass(frozen=True)
class Source:
    """One input file that is not hidden."""

    input: int  # index into the list of --input
    file: str  # relative to that input, with forward slashes, or a full address; `Input.read` takes it
    class_name: str
    split: str = ""  # where the source itself says one, else ""
    group: str = ""  # the user's group key, else ""


@dataclasses.dataclass(frozen=True)
class Rejected:
    """One input file, or row of a listing, that ends in the ledger without being read."""

    source: Source  # class_name is "" where the row names none
    reason: str  # of REASONS, or "cannot_read"
    detail: str


@dataclasses.dataclass(frozen=True)
class Hidden:
    """A file left out because it or a folder above it is hidden; counted and no more."""

    file: str


@dataclasses.dataclass(frozen=True)
class Classes:
    names: tuple[str, ...]  # sorted by code point; this order is the order of labels
    left_out: tuple[str, ...]  # what lies beside the class folders, sorted


class Input(Protocol):
    """One --input of any kind: immutable, picklable, and small enough to travel to every worker."""

    @property
    def index(self) -> int:
        """Its place in the list of --input."""

    @property
    def address(self) -> str:
        """Absolute path or address with a scheme: a folder, a listing's file or a TFDS dataset's folder."""

    @property
    def group_by(self) -> str:
        """The regular expression for groups, or ""; where it is set, sources without a group did not match it."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that the source itself says, else ()."""

    def pieces(self) -> list[str]:
        """What workers list in parallel, each by `sources`."""

    def classes(self) -> Classes:
        """Cheap: `open_inputs` found them."""

    def sources(self, piece: str) -> Iterator[Source | Rejected | Hidden]:
        """Lists one piece, in an order that depends on nothing but its content."""

    def read(self, file: str, limit_bytes: int) -> bytes:
        """At most the first `limit_bytes` bytes of the file that a `Source` names; may be asked again and again.

        Raises:
          OSError: where it cannot be read.
        """

    def read_many(self, files: Iterable[str], limit_bytes: int) -> Iterator[bytes | OSError]:
        """`read` of each file, in order, ahead of the caller where the files are remote.

        An OSError is given back where it says something about the file. A bucket that fails for a moment does not, so
        what it raises ends the iteration, and the runner tries again.
        """


def split_name(name: str) -> str:
    """`train`, `validation` or `test` for what people call them, "" for other names."""
    return _SPLITS.get(name.casefold(), "")


def any_split_name(name: str) -> str:
    """The same for a source that may name its splits freely; "" where TFDS could not find that split again."""
    known = split_name(name) or name.casefold()
    return known if _SPLIT.fullmatch(known) and known != "all" else ""


def one_name_each(names: Sequence[str], address: str) -> tuple[str, ...]:
    """Our names for those splits, in the same order.

    Raises:
      InputError: where two of them mean the same split.
    """
    meant: dict[str, str] = {}
    for name in names:
        one = any_split_name(name)
        if not one:
            raise InputError(
                f"split {name!r} in {address} cannot be kept: rename it with lower-case letters, digits and _, "
                "or give --splits=train=0.8,validation=0.1,test=0.1 to plan anew"
            )
        if one in meant:
            raise InputError(
                f"{meant[one]!r} and {name!r} in {address} both mean the split {one!r}: merge or rename one, "
                "or give --splits=train=0.8,validation=0.1,test=0.1 to plan anew"
            )
        meant[one] = name
    return tuple(meant)


def in_usual_order(names: Iterable[str]) -> tuple[str, ...]:
    usual = ("train", "validation", "test")
    return tuple(sorted(set(names), key=lambda name: (usual.index(name) if name in usual else len(usual), name)))


def check_group_by(pattern: str | None) -> str:
    """Raises InputError where `pattern` is no regular expression with exactly one group."""
    if not pattern:
        return ""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise InputError(
            f"--group_by={pattern}: no regular expression ({error}), expected one such as '/(\\w+)_'"
        ) from None
    if groups != 1:
        raise InputError(
            f"--group_by={pattern}: has {groups} groups in brackets, expected exactly one, whose text names the group "
            "(brackets that shall not count are written (?:…))"
        )
    return pattern


def group_of(pattern: str, name: str) -> str:
    """What the one group of `pattern` finds in a file's name; "" without a pattern and where it finds nothing."""
    found = re.search(pattern, name) if pattern else None
    return (found.group(1) or "") if found else ""


def leads_out(path: str, root: str) -> bool:
    """Whether a local path ends outside `root`, the links of both followed."""
    folder, name = os.path.split(path)
    real = os.path.realpath(path) if os.path.islink(path) else os.path.join(_real_folder(folder), name)
    return not f"{real}/".startswith(f"{_real_folder(root).rstrip('/')}/")


@functools.lru_cache(4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def check_class_names(found: Iterable[tuple[str, str, str]]) -> None:
    """`found` has (what it is, its name, the address it stands in) for each class of each input.

    Raises:
      InputError: for a name that cannot be stored, or that people and file systems take for another one.
    """
    seen: dict[str, tuple[str, str, str]] = {}
    for what, name, address in found:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f"{what} {name!r} in {address} is not named in UTF-8: rename it") from None
        if name != name.strip() or not name.isprintable():  # label.labels.txt has one stripped name per line
            raise InputError(f"{what} {name!r} in {address} has spaces around its name or controls in it: rename it")
        before = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), (what, name, address))
        if before[1] == name:
            continue
        if before[::2] == (what, address):
            both = f"{what}{'es' if what.endswith('s') else 's'} {before[1]!r} and {name!r} in {address}"
        else:
            both = f"{before[0]} {before[1]!r} in {before[2]} and {what} {name!r} in {address}"
        raise InputError(
            f"{both} differ only in case or in how letters are encoded: merge or rename one, because many file "
            "systems and people cannot tell them apart"
        )
