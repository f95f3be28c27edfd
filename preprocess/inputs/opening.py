"""What --input says in, checked inputs out: cheap checks before any worker starts, each failure one line."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pipeline import storage
from pipeline.errors import InputError
from preprocess.inputs import tfds_metadata
from preprocess.inputs.folders import open_folders
from preprocess.inputs.listing import Listing, open_listing
from preprocess.inputs.rows import SUFFIXES
from preprocess.inputs.source import Classes, Input, check_class_names, check_group_by
from preprocess.inputs.tfds_records import TfdsRecords, open_tfds


def open_inputs(
    addresses: Sequence[str], *, keep_splits: bool = True, group_by: str | None = None
) -> tuple[Input, ...]:
    """Opens every --input and checks them together.

    Args:
      addresses: Folders, listings (.csv, .tsv, .jsonl), TFDS datasets (their folder, or tfds:NAME[/CONFIG][:VERSION]).
      keep_splits: False merges what the sources say of splits, because other --splits were asked for.
      group_by: A regular expression with one group, searched in the names of files.

    Raises:
      InputError: for the first one that cannot be used, or that overlaps with another.
    """
    pattern = check_group_by(group_by)
    inputs: list[Input] = []
    for index, address in enumerate(addresses):
        one = _open(_absolute(address), index, keep_splits, pattern)
        for other in inputs:
            _check_apart(other.address, one.address)
        inputs.append(one)
    return tuple(inputs)


def find_classes(inputs: Sequence[Input]) -> Classes:
    """All classes of all inputs, checked together; the same name in two inputs is the same class.

    Raises:
      InputError: where there are fewer than two, or names that cannot stand beside each other.
    """
    found = [(_noun(one), name, one.address) for one in inputs for name in one.classes().names]
    names = sorted({name for _, name, _ in found})
    if len(names) < 2:
        what, _, address = found[0]
        if what == "class folder":
            raise InputError(
                f"--input={address} holds one class folder only ({names[0]}), and a classifier needs two: "
                "is --input one level too deep, or one too high?"
            )
        raise InputError(f"--input={address} holds one class only ({names[0]}), and a classifier needs two")
    check_class_names(found)
    several = len(inputs) > 1
    left_out = (
        storage.join(one.address, name) if several else name for one in inputs for name in one.classes().left_out
    )
    return Classes(tuple(names), tuple(left_out))


def _open(address: str, index: int, keep_splits: bool, group_by: str) -> Input:
    if address.startswith(tfds_metadata.SCHEME):
        directory = _absolute(tfds_metadata.resolve(address))
        return open_tfds(directory, index, keep_splits=keep_splits, group_by=group_by)
    try:
        exists, is_directory = storage.exists(address), storage.is_directory(address)
    except Exception as error:  # drivers raise many types: no network, no credentials, no driver for the scheme
        if storage.is_local(address):
            raise
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"--input={address} cannot be reached ({reason}): check the address, the network and the credentials"
        ) from error
    if not exists:
        raise InputError(f"--input={address} does not exist: give the folder that holds one sub-folder per class")
    if not is_directory:
        if not address.lower().endswith(SUFFIXES):
            raise InputError(
                f"--input={address} is a file: give the folder that holds one sub-folder per class, "
                f"or a listing ({', '.join(SUFFIXES)})"
            )
        return open_listing(address, index, keep_splits=keep_splits, group_by=group_by)
    try:
        entries = storage.children(address)
    except OSError as error:
        raise InputError(f"--input={address} cannot be listed ({error.strerror or error}): check permissions") from None
    if (tfds_metadata.INFO, False) in entries:
        return open_tfds(address, index, keep_splits=keep_splits, group_by=group_by)
    return open_folders(address, index, entries, keep_splits=keep_splits, group_by=group_by)


def _absolute(address: str) -> str:
    """Worker processes may run in another folder, so relative paths are resolved once, here."""
    if "://" in address or address.startswith(tfds_metadata.SCHEME):
        return address.rstrip("/")
    return os.path.abspath(os.path.expanduser(address))


def _check_apart(first: str, second: str) -> None:
    real = [os.path.realpath(one) if storage.is_local(one) else one for one in (first, second)]
    if real[0] == real[1]:
        raise InputError(f"--input={second} is given twice ({first}): drop one")
    for inner, outer in ((0, 1), (1, 0)):
        if real[inner].startswith(real[outer].rstrip("/") + "/"):
            inside, around = (first, second)[inner], (first, second)[outer]
            raise InputError(
                f"--input={inside} lies inside --input={around}, so its files would count twice: drop one of them"
            )


def _noun(one: Input) -> str:
    if isinstance(one, TfdsRecords):
        return "class"
    return "label" if isinstance(one, Listing) else "class folder"
