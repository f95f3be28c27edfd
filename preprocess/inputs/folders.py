"""Class folders, or split folders that hold class folders: a folder in, its files out.

ROOT/CLASS/**/FILE, or ROOT/train/CLASS/**/FILE beside ROOT/val and ROOT/test, which keeps the splits as they are. No
byte outside ROOT is read: a link to a file inside counts as that file, one that leads out is rejected by name.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pipeline import storage
from pipeline.errors import InputError
from preprocess.inputs import reading
from preprocess.inputs.source import (
    Classes,
    Hidden,
    Rejected,
    Source,
    group_of,
    in_usual_order,
    leads_out,
    one_name_each,
    split_name,
)

# The resource forks that macOS puts into zip archives, named like the images they belong to.
_FOREIGN = "__MACOSX"
_LEADS_OUT = "a link that leads out of the input"
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclasses.dataclass(frozen=True)
class Folders:
    """Files are read by their names, as often as wanted."""

    index: int
    address: str
    group_by: str
    splits: tuple[str, ...]
    folders: tuple[str, ...]  # CLASS, or SPLIT/CLASS whether or not splits are kept
    left_out: tuple[str, ...]

    def pieces(self) -> list[str]:
        return list(self.folders)

    def classes(self) -> Classes:
        return Classes(tuple(sorted({folder.rpartition("/")[2] for folder in self.folders})), self.left_out)

    def sources(self, piece: str) -> Iterator[Source | Rejected | Hidden]:
        split_folder, _, class_name = piece.rpartition("/")
        split = split_name(split_folder) if self.splits else ""
        for name, is_link, error in storage.scan(storage.join(self.address, piece)):
            file = f"{piece}/{name}"
            if _is_hidden(name):
                yield Hidden(file)
                continue
            source = Source(self.index, file, class_name, split, group_of(self.group_by, file))
            if error:
                detail = f"the folder cannot be listed: {error.strerror or error}"
                yield Rejected(source, "cannot_read", detail)
            else:
                yield (_link(source, self.address) if is_link else None) or source

    def read(self, file: str, limit_bytes: int) -> bytes:
        return reading.read_file(storage.join(self.address, file), limit_bytes)

    def read_many(self, files: Iterable[str], limit_bytes: int) -> Iterator[bytes | OSError]:
        paths = (storage.join(self.address, file) for file in files)
        return reading.read_files(paths, limit_bytes, remote=not storage.is_local(self.address))


def open_folders(
    address: str, index: int, entries: Sequence[tuple[str, bool]], *, keep_splits: bool, group_by: str
) -> Folders:
    """`entries` are the children of `address`; one listing per split folder is all that is read.

    Raises:
      InputError: where they are neither class folders nor split folders.
    """
    names, left_out = _sub_folders(address, "", entries)
    if not names:
        files = sum(not is_folder for _, is_folder in entries)
        found = f"{files:,} files but no class folders" if files else "no class folders"
        cure = _links_out(left_out) or ": put the images into one sub-folder per class"
        raise InputError(f"--input={address} holds {found}{cure}")
    for name in names:  # every TFDS dataset is a folder of such folders
        if _VERSION.fullmatch(name) and storage.exists(storage.join(address, name, "dataset_info.json")):
            raise InputError(f"--input={address} holds versions of a TFDS dataset: give one, {address}/{name}")
    meant = [name for name in names if split_name(name)]
    if len(meant) < 2 or not any(split_name(name) == "train" for name in meant):
        return Folders(index, address, group_by, (), tuple(names), tuple(left_out))
    inside = {name: _sub_folders(address, name, _children(storage.join(address, name))) for name in meant}
    shared = set.intersection(*(set(classes) for classes, _ in inside.values()))
    others = [name for name in names if name not in meant]
    if others and not shared:  # say, vehicles: train, test, car
        return Folders(index, address, group_by, (), tuple(names), tuple(left_out))
    _check_split_folders(address, inside, others)
    return Folders(
        index,
        address,
        group_by,
        in_usual_order(one_name_each(meant, address)) if keep_splits else (),
        tuple(f"{name}/{class_name}" for name, (classes, _) in inside.items() for class_name in classes),
        tuple(sorted([*left_out, *(other for _, beside in inside.values() for other in beside)])),
    )


def _check_split_folders(
    address: str, inside: Mapping[str, tuple[Sequence[str], Sequence[str]]], others: Sequence[str]
) -> None:
    """`inside` has the class folders of each, and what is left out there."""
    if others:
        raise InputError(
            f"--input={address} holds the split folders {', '.join(inside)} and beside them {others[0]!r}: move that "
            "elsewhere, or give the inputs one by one"
        )
    for name, (classes, left_out) in inside.items():
        if not classes:
            cure = _links_out(left_out) or ": put its images into one sub-folder per class, or move it elsewhere"
            raise InputError(f"--input={address} holds split folders, and {name!r} has no class folders{cure}")


def _links_out(left_out: Sequence[str]) -> str:
    """How "no class folders" goes on where there are some that lie elsewhere; else ""."""
    links = [name for name in left_out if name.endswith(f" ({_LEADS_OUT})")]
    if not links:
        return ""
    more = f" and {len(links) - 1:,} more" if len(links) > 1 else ""
    return (
        f", only {links[0]}{more}, and nothing outside is read: copy the folders in, or give the one that holds "
        "them, or a listing"
    )


def _children(folder: str) -> list[tuple[str, bool]]:
    try:
        return storage.children(folder)
    except OSError as error:
        raise InputError(f"--input={folder} cannot be listed ({error.strerror or error}): check permissions") from None


def _sub_folders(address: str, above: str, entries: Iterable[tuple[str, bool]]) -> tuple[list[str], list[str]]:
    """Names of the folders that count, and what is left out."""
    names, left_out = [], []
    for name, is_folder in entries:
        shown = f"{above}/{name}" if above else name
        if not is_folder or _is_hidden(name):
            left_out.append(shown)
        elif storage.is_local(address) and leads_out(storage.join(address, shown), address):
            left_out.append(f"{shown} ({_LEADS_OUT})")
        else:
            names.append(name)
    return sorted(names), left_out


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name or (_FOREIGN in name and _FOREIGN in name.split("/"))


def _link(source: Source, address: str) -> Rejected | None:
    """Why a link is not read; None where it leads to a file inside, or nowhere, which reading will say."""
    path = storage.join(address, source.file)
    if leads_out(path, address):
        return Rejected(source, "outside_root", f"{_LEADS_OUT}, to {os.path.realpath(path)}")
    if os.path.isdir(path):
        return Rejected(source, "cannot_read", "a link to a folder, which is not followed, since it may form a circle")
    return None
