"""The input folder in, its classes and their files out. One immediate sub-folder is one class."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Iterator, Sequence

from pipeline import storage
from pipeline.errors import InputError

# The resource forks that macOS puts into zip archives, named like the images they belong to.
_FOREIGN = "__MACOSX"


@dataclasses.dataclass(frozen=True)
class Source:
    """One input file that is not hidden."""

    class_name: str
    file: str  # relative to the input root, with forward slashes


@dataclasses.dataclass(frozen=True)
class Classes:
    names: tuple[str, ...]  # sorted by code point; this order is the order of labels
    left_out: tuple[str, ...]  # what else lies in the input folder, sorted


def find_classes(root: str) -> Classes:
    """Lists the class folders directly inside `root`.

    Raises:
      InputError: where `root` is no folder, holds fewer than two classes, or names that cannot stand beside each other.
    """
    if not storage.exists(root):
        raise InputError(f"--input={root} does not exist: give the folder that holds one sub-folder per class")
    if not storage.is_directory(root):
        raise InputError(f"--input={root} is a file: give the folder that holds one sub-folder per class")
    try:
        entries = storage.children(root)
    except OSError as error:
        raise InputError(f"--input={root} cannot be listed ({error.strerror or error}): check permissions") from None
    names = sorted(name for name, is_folder in entries if is_folder and not _hidden(name))
    left_out = tuple(name for name, is_folder in entries if not is_folder or _hidden(name))
    if not names:
        files = sum(not is_folder for _, is_folder in entries)
        found = f"{files:,} files but no class folders" if files else "no class folders"
        raise InputError(f"--input={root} holds {found}: put the images into one sub-folder per class")
    if len(names) == 1:
        raise InputError(
            f"--input={root} holds one class folder only ({names[0]}), and a classifier needs two: "
            "is --input one level too deep, or one too high?"
        )
    _check_names(root, names)
    return Classes(tuple(names), left_out)


def list_files(class_name: str, root: str) -> Iterator[Source | None]:
    """Yields every file below the class's folder; None stands for a hidden one, which is counted and left out."""
    for file in storage.files_under(storage.join(root, class_name)):
        hidden = any(_hidden(part) for part in file.split("/"))
        yield None if hidden else Source(class_name, f"{class_name}/{file}")


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == _FOREIGN


def _check_names(root: str, names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f"class folder {name!r} in {root} is not named in UTF-8: rename it") from None
        if name != name.strip() or not name.isprintable():  # label.labels.txt has one stripped name per line
            raise InputError(f"class folder {name!r} in {root} has spaces around its name or controls in it: rename it")
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in seen:
            raise InputError(
                f"class folders {seen[folded]!r} and {name!r} in {root} differ only in case or in how letters are "
                "encoded: merge or rename one, because many file systems and people cannot tell them apart"
            )
        seen[folded] = name
