"""Hostile files of weights bring in no other file, and no more than they hold."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import h5py
import numpy as np
import pytest

from tests.trainer.loading_checks import hostile_models as hostile
from tests.trainer.loading_checks.hostile_models import read_weights, refused
from trainer import safe_loading


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (hostile.external_storage, "takes its data from '.*secret'"),  # CVE-2026-1669
        (hostile.external_link, "links '0' to '.*secret'"),
        (hostile.virtual_dataset, "takes its data from '.*secret'"),
        (lambda secret: hostile.soft_link, "links '0' to '/layers"),
    ],
)
def test_weights_from_elsewhere(tmp_path: pathlib.Path, secret: pathlib.Path, payload: Callable, reason: str) -> None:
    path = tmp_path / "net.weights.h5"
    hostile.weights(path)
    read_weights(str(path))
    hostile.in_place_of_kernel(path, payload(secret))
    with h5py.File(path) as file:  # live: the numbers are there, and they are not the file's own
        assert file["layers/dense/vars/0"][()].tobytes()[:4] in (
            b"hunt",
            np.float32(7).tobytes(),
            np.float32(0).tobytes(),
        )
    refused(read_weights, path, reason)
    archive = tmp_path / "net.keras"
    hostile.harmless(archive)
    members = hostile.members(archive)
    add = hostile.rewrite(archive)
    for name in hostile.MEMBERS:
        add(name, path.read_bytes() if name == "model.weights.h5" else members[name])
    refused(safe_loading.keras_model, archive, reason)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (hostile.shape_bomb, "is compressed"),  # CVE-2026-0897, CVE-2026-12570
        (hostile.never_written, "declares 4,294,967,296 bytes and stores 0"),
        (hostile.same_data_often, "under two names"),
        (hostile.pointers, "holds object: expected numbers"),
        (lambda group, name: group.create_dataset(name, data=["text"]), "expected numbers"),
        (lambda group, name: group.__setitem__(name, np.dtype("f4")), "is a Datatype"),
    ],
)
def test_weights_that_are_more_than_they_seem(
    tmp_path: pathlib.Path, payload: Callable[[h5py.Group, str], None], reason: str
) -> None:
    path = tmp_path / "net.weights.h5"
    hostile.weights(path)
    hostile.in_place_of_kernel(path, payload)
    assert path.stat().st_size < 1 << 20
    refused(read_weights, path, reason)


def test_weights_of_another_kind(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    refused(read_weights, tmp_path / "x.h5", "no sound HDF5 file")
    refused(read_weights, tmp_path / "none.h5", "no such file")
    refused(read_weights, tmp_path / "map.weights.json", "expected weights in a .h5 file")
