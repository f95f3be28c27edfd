"""What a person names (files, folders, patterns, addresses, lists) in; the names of images out, in that order.

Nothing is read here but listings, and of those one folder at a time: a million names are never held.
"""

from __future__ import annotations

import fnmatch
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, NamedTuple

from pipeline import headers, storage
from pipeline.errors import InputError

STDIN = "-"
_MAGIC = frozenset("*?[")
_SIGNATURE_BYTES = 16
_BRANDS_BYTES = 240  # more, for AVIF and HEIC
_NAME_BYTES = 1 << 16  # Linux takes paths of 4,096, a bucket names of 1,024


class Source(NamedTuple):
    name: str  # as it will be reported
    data: bytes | None = None  # of an image that came on stdin
    error: str | None = None  # why there is nothing to read


def expand(paths: Sequence[str], stdin: IO[bytes] | None = None) -> Iterator[Source]:
    """Finds images as they are asked for; what can be seen to be wrong is refused before the first.

    Args:
      paths: each is one of
        a file, local or at an address such as gs://…;
        a folder: all files in it and below, those of a folder in sorted order before those of the folders in it, hidden
          ones (.name) left out;
        a pattern of * (also none), ? and [ab] within a name, and ** for any folders: `photos/**/*.jpg`. It is a file's
          or folder's own name where there is one, and hidden names match only where the pattern's have the dot as well;
        `-`: what comes on stdin, once. Where that begins as an image does, that one image, else names of images, one a
          line, none of which is expanded.
      stdin: None where `-` is a name like any other.

    Raises:
      InputError: where a file, folder or match is missing, `-` is given twice, or there is nothing at all.
    """
    if stdin is not None and paths.count(STDIN) > 1:
        raise InputError("- is given twice: stdin can be read once")
    parts = [_from_stdin(stdin) if path == STDIN and stdin is not None else _of(path) for path in paths]
    found = itertools.chain.from_iterable(parts)
    first = next(found, None)
    if first is None:
        raise InputError("nothing to predict: give the paths of images or of folders that hold some")
    return itertools.chain([first], found)


def _of(path: str) -> Iterator[Source]:
    if storage.is_directory(path):
        return _below(path, [])
    if storage.exists(path):
        return iter([Source(path)])
    if _MAGIC & set(path):
        found = _matches(path)
        if (first := next(found, None)) is None:
            raise InputError(f"{path}: nothing matches")
        return itertools.chain([first], found)
    raise InputError(f"{path}: no such file or folder")


def _matches(pattern: str) -> Iterator[Source]:
    names = pattern.split("/")
    fixed = next(index for index, name in enumerate(names) if _MAGIC & set(name))
    root = "/".join(names[:fixed]) or ("/" if fixed else ".")
    if not storage.is_directory(root):
        return iter(())
    return _below(root, names[fixed:], with_root=fixed > 0)


def _below(root: str, pattern: Sequence[str], *, with_root: bool = True) -> Iterator[Source]:
    """Of all files below `root` those that match, or that lie in a folder that does."""
    for name, _, error in storage.scan(root, lambda folder: bool(_reached(pattern, folder.rstrip("/").split("/")))):
        parts = name.rstrip("/").split("/")
        if error is not None:
            yield Source(storage.join(root, name), error=f"unreadable: {error}")
        elif len(pattern) in _reached(pattern, parts):
            yield Source(storage.join(root, name) if with_root else name)


def _reached(pattern: Sequence[str], names: Iterable[str]) -> set[int]:
    """How many parts of the pattern may be behind after these names; empty where they can't match.

    All of it, len(pattern), is what a whole match has, and everything below one that isn't hidden.
    """
    reached = _over_stars(pattern, {0})
    for name in names:
        hidden = name.startswith(".")
        following = set()
        for index in reached:
            if index == len(pattern) or pattern[index] == "**":
                following |= set() if hidden else {index}
            elif fnmatch.fnmatchcase(name, pattern[index]) and (not hidden or pattern[index].startswith(".")):
                following.add(index + 1)
        reached = _over_stars(pattern, following)
    return reached


def _over_stars(pattern: Sequence[str], reached: set[int]) -> set[int]:
    """`**` also stands for no folder."""
    for index in range(len(pattern)):
        if index in reached and pattern[index] == "**":
            reached = reached | {index + 1}
    return reached


def _from_stdin(stdin: IO[bytes]) -> Iterator[Source]:
    begin = stdin.read(_SIGNATURE_BYTES)
    if begin[4:8] == b"ftyp":
        begin += stdin.read(_BRANDS_BYTES)
    # No name holds a zero, and every header of an image that begins with letters does.
    if headers.format_of(begin) and (b"\0" in begin or not begin[:2].isascii() or begin.startswith(b"GIF")):
        yield Source(STDIN, begin + stdin.read())
        return
    rest = begin
    while rest or begin:
        begin = stdin.readline(_NAME_BYTES)
        *lines, rest = (rest + begin).split(b"\n")
        if not begin:
            lines, rest = [*lines, rest], b""
        if len(rest) > _NAME_BYTES:
            raise InputError("- (stdin) begins as no image and has lines too long for names: expected one or the other")
        yield from (Source(os.fsdecode(line)) for line in lines if line)
