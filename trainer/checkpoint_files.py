"""Files of one moment of training in; a folder that is there whole, with their hashes, or not at all, out.

    WORKDIR/checkpoints/step-00000123/content.index, content.data-00000-of-00001    what TensorFlow wrote
                                      about.json                                    their sizes and hashes; whose, when

On a local disk the folder is made under another name and renamed. Elsewhere the files are uploaded, about.json last; a
folder without it is no checkpoint. TensorFlow only ever reads and writes local folders: no store has to be known to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from pipeline import storage

ABOUT = "about.json"
_FOLDER = "checkpoints"
_CONTENT = "content"  # TensorFlow's prefix: its files are named content.*
_FORMAT = 1
_NAME = re.compile(r"step-(\d{8}|[1-9]\d{8,})(?:-([2-9]|[1-9]\d+))?")
_LEFTOVER = re.compile(r"\.step-\d{8,}(-\d+)?\.[0-9a-f]{32}\.partial")
_HASH_BYTES = 1 << 20


class DamageError(Exception):
    """A checkpoint is not what was written; the message says in what."""


class Name(NamedTuple):
    """In order of age.

    A step that is saved again, with an evaluation's result, gets the next revision: a folder that stands is never
    written to, so there is no moment without a checkpoint.
    """

    step: int
    revision: int = 1

    def __str__(self) -> str:
        return f"step-{self.step:08d}" + (f"-{self.revision}" if self.revision > 1 else "")


def folder(workdir: str, name: Name) -> str:
    return storage.join(workdir, _FOLDER, str(name))


def names(workdir: str) -> list[Name]:
    """Of all checkpoints, sound or not, the oldest first."""
    parent = storage.join(workdir, _FOLDER)
    if not storage.is_directory(parent):
        return []
    found: list[Name] = []
    for child, _ in storage.children(parent):
        match = _NAME.fullmatch(child)
        if not match:
            continue
        # A local folder appears whole: without its about.json it is damaged, and somebody should hear of it.
        if storage.is_local(parent) or storage.exists(storage.join(parent, child, ABOUT)):
            found.append(Name(int(match[1]), int(match[2] or 1)))
    return sorted(found)


def publish(workdir: str, name: Name, write: Callable[[str], Any], about: Mapping[str, Any]) -> None:
    """Makes the checkpoint `name`, which must not be there yet.

    Args:
      write: called with the prefix of the files that it shall write, in a local folder.
      about: what else about.json says, as JSON; `read_about` returns it.

    Raises:
      OSError: where there is no room or no right to write; then nothing is left behind.
    """
    with _scratch(workdir, name) as scratch:
        write(os.path.join(scratch, _CONTENT))
        files = {file: _measure(os.path.join(scratch, file), sync=True) for file in sorted(os.listdir(scratch))}
        content = json.loads(json.dumps({**about, "format": _FORMAT, "step": name.step, "files": files}))
        content["sha256"] = hashlib.sha256(_text(content)).hexdigest()
        target = folder(workdir, name)
        if not storage.is_local(workdir):
            for file in files:
                storage.copy(os.path.join(scratch, file), storage.join(target, file))
            storage.write_bytes(storage.join(target, ABOUT), _text(content))
            return
        storage.write_bytes(storage.join(scratch, ABOUT), _text(content))
        storage.sync_folder(scratch)
        os.rename(scratch, storage.local_name(target))
        storage.sync_folder(os.path.dirname(scratch))


@contextlib.contextmanager
def _scratch(workdir: str, name: Name) -> Iterator[str]:
    """A new local folder, beside the checkpoints where they are local; gone afterwards."""
    if storage.is_local(workdir):
        parent = storage.local_name(storage.join(workdir, _FOLDER))
        os.makedirs(parent, exist_ok=True)
        scratch = os.path.join(parent, f".{name}.{uuid.uuid4().hex}.partial")
        os.mkdir(scratch)
    else:
        scratch = tempfile.mkdtemp(prefix=_temporary_prefix(workdir))
    with contextlib.ExitStack() as in_the_end:
        in_the_end.callback(shutil.rmtree, scratch, ignore_errors=True)
        # Where a name stands for two stores on one machine, or a run was started twice, the other one tidies, too.
        in_the_end.enter_context(storage.exclusive(scratch))
        yield scratch


def _temporary_prefix(workdir: str) -> str:
    return f"shardline-{hashlib.sha256(workdir.encode()).hexdigest()[:16]}-"


def _measure(path: str, *, sync: bool = False) -> dict[str, Any]:
    """Size and hash of a file; `sync` returns when it is on disk, too."""
    with open(path, "rb", buffering=0) as stream:
        sha256, size = hashlib.sha256(), 0
        while block := stream.read(_HASH_BYTES):
            sha256.update(block)
            size += len(block)
        if sync:
            os.fsync(stream.fileno())
    return {"bytes": size, "sha256": sha256.hexdigest()}


def _text(about: Mapping[str, Any]) -> bytes:
    """One text for one value, if its keys are strings: what was read can be compared with what would be written."""
    return json.dumps(about, indent=1, sort_keys=True).encode() + b"\n"


def read_about(workdir: str, name: Name) -> dict[str, Any]:
    """Raises DamageError where about.json is missing or not as it was written, OSError where it can't be read."""
    path = storage.join(folder(workdir, name), ABOUT)
    try:
        data = storage.read_bytes(path)
        about = json.loads(data)
        same = data == _text(about)
        if about.pop("sha256") != hashlib.sha256(_text(about)).hexdigest() or not same:
            raise ValueError("its own hash does not fit")
    except FileNotFoundError:
        raise DamageError(f"{ABOUT} is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamageError(f"{ABOUT} is damaged ({first_line(error)})") from error
    if about["format"] != _FORMAT:
        raise DamageError(f"{ABOUT} has format {about['format']}, this version reads {_FORMAT}")
    if about["step"] != name.step:
        raise DamageError(f"{ABOUT} is that of step {about['step']}")
    assert isinstance(about, dict)
    return about


@contextlib.contextmanager
def verified(workdir: str, name: Name, about: Mapping[str, Any]) -> Iterator[str]:
    """The prefix of the local files, or of local copies, after each was found to be what was written.

    Raises:
      DamageError: naming the first file that is missing or different.
      OSError: where a file can't be read.
    """
    source = folder(workdir, name)
    with contextlib.ExitStack() as stack:
        if storage.is_local(source):
            local = storage.local_name(source)
        else:
            local = stack.enter_context(tempfile.TemporaryDirectory(prefix="shardline-read-"))
        for file, expected in about["files"].items():
            try:
                if not storage.is_local(source):
                    storage.copy(storage.join(source, file), os.path.join(local, file))
                size = os.path.getsize(os.path.join(local, file))
                if size != expected["bytes"]:
                    raise DamageError(f"{file} has {size:,} bytes, {expected['bytes']:,} were written")
                if _measure(os.path.join(local, file)) != expected:
                    raise DamageError(f"{file} has another content than was written")
            except FileNotFoundError:
                raise DamageError(f"{file} is missing") from None
        yield os.path.join(local, _CONTENT)


def _was_best(workdir: str, name: Name) -> bool:
    try:
        return bool(read_about(workdir, name)["best"])
    except DamageError:
        return False


def rotate(workdir: str, saved: Name, *, keep: int, damaged: Collection[Name]) -> None:
    """Deletes what `saved` makes superfluous.

    The `keep` newest stay, and for each of them the one that was the best then, so that a fall back to any of them
    finds its best, too. What is newer than `saved` goes: it was damaged, or belongs to a course that was given up.
    """
    sound = [name for name in names(workdir) if name <= saved and name not in damaged]
    # Of a step that was saved twice the later one knows more.
    sound = list({name.step: name for name in sound}.values())
    kept, best = set(sound[-keep:]), None
    for name in sound:
        best = name if _was_best(workdir, name) else best
        if name in kept and best:
            kept.add(best)
    for name in names(workdir):
        if name not in kept:
            remove(workdir, name)


def remove(workdir: str, name: Name) -> None:
    """Deletes a checkpoint, which is gone at once for those who look for one."""
    target = folder(workdir, name)
    if storage.is_local(target):
        leaving = storage.join(workdir, _FOLDER, f".{name}.{uuid.uuid4().hex}.partial")
        with contextlib.suppress(FileNotFoundError):
            os.rename(storage.local_name(target), storage.local_name(leaving))
        storage.remove_tree(leaving)
    else:
        storage.remove_tree(storage.join(target, ABOUT))
        storage.remove_tree(target)


def tidy(workdir: str) -> None:
    """Deletes what killed saves left behind; nobody may be saving in `workdir`."""
    parent = storage.join(workdir, _FOLDER)
    children = [name for name, _ in storage.children(parent)] if storage.is_directory(parent) else []
    if storage.is_local(workdir):
        leftovers = [name for name in children if _LEFTOVER.fullmatch(name)]
    else:
        complete = {str(name) for name in names(workdir)}
        leftovers = [name for name in children if _NAME.fullmatch(name) and name not in complete]
        for path in glob.glob(os.path.join(tempfile.gettempdir(), _temporary_prefix(workdir) + "*")):
            _remove_abandoned(path)
    for name in leftovers:
        storage.remove_tree(storage.join(parent, name))


def _remove_abandoned(scratch: str) -> None:
    """Deletes a folder that nobody is writing to: whoever does has it locked, and a lock ends with its process."""
    with contextlib.suppress(FileNotFoundError, BlockingIOError):
        descriptor = os.open(scratch, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(scratch, ignore_errors=True)
        finally:
            os.close(descriptor)


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
