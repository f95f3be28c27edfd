"""A file of weights in; nothing out, or why it is refused: what lies outside of it, and what grows as it is read.

HDF5 can take data from other files of the machine, by links, external storage and virtual datasets (CVE-2026-1669), and
can declare far more than it holds (CVE-2026-0897, CVE-2026-12570); Keras has no need of either.
"""

from __future__ import annotations

import math
import os

import h5py  # type: ignore[import-untyped]

from pipeline.errors import InputError

_MAX_OBJECTS = 100_000  # EfficientNetB7's file has some 2,000
_NUMBERS = "biuf"  # kinds of NumPy: others hold pointers into the file, or texts
_WHOLE_MODEL = ("model_config", "training_config")  # a legacy model's, whose loading ignores Keras' safe mode


def check(path: str, name: str) -> None:
    """Looks at every object's header and reads no data.

    Args:
      path: a local file, read from here on.
      name: how messages call it.

    Raises:
      InputError: where it is no sound HDF5 file, or not only of plain numbers that lie in it.
    """
    try:
        with h5py.File(path, "r") as file:
            _check(file, os.path.getsize(path), name)
    except InputError:
        raise
    # h5py raises many types on damaged files.
    except Exception as error:
        raise InputError(f"{name} is no sound HDF5 file ({error}): get it again from its source") from error


def _check(file: h5py.File, size_bytes: int, name: str) -> None:
    for attribute in _WHOLE_MODEL:
        if attribute in file.attrs:
            raise InputError(
                f"{name} is a whole model in the legacy .h5 format, which may hold code: expected weights alone; save "
                "them with model.save_weights"
            )
    declared = 0  # of all of it, or many small lies would add up
    waiting, seen = [file["/"]], set()
    while waiting:
        item = waiting.pop()
        where = f"{name}: {item.name!r}"
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            raise InputError(f"{where} stands in the file under two names: expected each object once")
        seen.add(address)
        if len(seen) > _MAX_OBJECTS:
            raise InputError(f"{name} holds more than {_MAX_OBJECTS:,} objects: expected a model's weights")
        declared += sum(_attribute_bytes(item, key) for key in item.attrs)
        if isinstance(item, h5py.Group):
            waiting += [_child(item, key, where) for key in item]
        elif isinstance(item, h5py.Dataset):
            declared += _dataset_bytes(item, where)
        else:
            raise InputError(f"{where} is a {type(item).__name__}: expected groups and datasets only")
        if declared > size_bytes:
            raise InputError(f"{where}: declares more data than the file's {size_bytes:,} bytes can hold")


def _child(group: h5py.Group, key: str, where: str) -> h5py.HLObject:
    link = group.get(key, getlink=True)
    if not isinstance(link, h5py.HardLink):
        target = getattr(link, "filename", "") or getattr(link, "path", "")
        raise InputError(f"{where} links {key!r} to {target!r}: expected data in the file itself")
    return group[key]


def _dataset_bytes(data: h5py.Dataset, where: str) -> int:
    if data.is_virtual or data.external:
        files = [source.file_name for source in data.virtual_sources()] if data.is_virtual else [data.external[0][0]]
        raise InputError(f"{where} takes its data from {files[0]!r}: expected data in the file itself")
    if data.id.get_create_plist().get_nfilters():
        raise InputError(f"{where} is compressed: expected plain data, as Keras writes it; h5repack -f NONE unpacks it")
    if data.dtype.kind not in _NUMBERS:
        raise InputError(f"{where} holds {data.dtype}: expected numbers")
    declared = math.prod(data.shape or (0,)) * data.dtype.itemsize
    if declared > data.id.get_storage_size():
        raise InputError(f"{where} declares {declared:,} bytes and stores {data.id.get_storage_size():,}")
    return declared


def _attribute_bytes(item: h5py.HLObject, key: str) -> int:
    attribute = item.attrs.get_id(key)
    return math.prod(attribute.shape or (0,)) * attribute.dtype.itemsize
