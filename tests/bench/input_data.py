"""Trashnet in, the same photos out in every contender's own format; made once under `build/bench-data`.

Three kinds of photos: `photos` as they are, 384x512; `cut` to 375x500 around the centre and encoded again; `records`
scaled down to a shorter side of 256. Every format holds the very bytes of the JPEG files in `folder`.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image

from tests.bench import data, measure

KINDS = ("photos", "cut", "records")
PEERS = measure.REPOSITORY / "build/bench-peers/bin/python"
_QUALITY, _CHROMA = 90, 2  # Pillow's number for 4:2:0
_SHARDS = 8


@dataclasses.dataclass(frozen=True)
class Photos:
    """One kind of photos, in all formats."""

    kind: str
    height: int  # of nearly all photos, upright, in pixels
    width: int

    @property
    def folder(self) -> pathlib.Path:  # CLASS/FILE.jpg
        return data.FOLDER / f"input-{self.kind}"

    @property
    def records(self) -> pathlib.Path:  # our dataset, which TFDS reads too; all photos in split train
        return data.FOLDER / f"input-{self.kind}-records/photos/1.0.0"

    @property
    def peers(self) -> pathlib.Path:  # *.tar, *.array_record, {jpg,raw}.beton
        return data.FOLDER / f"input-{self.kind}-peers"


SIZES = {"photos": (384, 512), "cut": (375, 500), "records": (256, 341)}


def photos(kind: str) -> Photos:
    return Photos(kind, *SIZES[kind])


def prepare(kind: str, archives: pathlib.Path) -> Photos:
    """Makes what is not there yet; without the peers' environment, without their formats.

    Raises:
      FileNotFoundError: where trashnet is not in `archives`.
    """
    made = photos(kind)
    source = data.unpacked("trashnet", archives)
    if not made.folder.exists():
        with data.whole(made.folder) as partial:
            for name in data.files(source):
                (partial / name).parent.mkdir(exist_ok=True)
                _store(source / name, partial / name, made)
    if not made.records.exists():
        output = made.records.parents[1]
        shutil.rmtree(output, ignore_errors=True)
        # Every photo once and as it is, because all formats have to hold the same.
        command = [sys.executable, "-m", "preprocess", f"--input={made.folder}", f"--output={output}", "--name=photos"]
        flags = ["--splits=train=1", "--shorter_side=0", "--near_duplicates=ignore", f"--max_workers={_SHARDS}"]
        measure.run([*command, *flags])
    if PEERS.exists() and not made.peers.exists():
        with data.whole(made.peers) as partial:
            command = [str(PEERS), "-m", "tests.bench.input_peers", str(made.folder), str(partial)]
            subprocess.run(command, cwd=measure.REPOSITORY, check=True, stdout=sys.stderr)
    return made


def _store(source: pathlib.Path, target: pathlib.Path, made: Photos) -> None:
    if made.kind == "photos":
        shutil.copy(source, target)
        return
    photo = Image.open(source).convert("RGB")
    if made.kind == "cut":
        left, top = max(0, (photo.width - made.width) // 2), max(0, (photo.height - made.height) // 2)
        photo = photo.crop((left, top, min(photo.width, left + made.width), min(photo.height, top + made.height)))
    else:
        scale = made.height / min(photo.size)
        photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.LANCZOS)
    photo.save(target, "JPEG", quality=_QUALITY, subsampling=_CHROMA)


def squares(photos: Photos, side: int = 224) -> np.ndarray:
    """The centre of every photo that is large enough: uint8 [photos, side, side, 3]."""
    found = []
    for name in data.files(photos.folder):
        photo = np.asarray(Image.open(photos.folder / name).convert("RGB"))
        top, left = ((length - side) // 2 for length in photo.shape[:2])
        found.append(photo[top : top + side, left : left + side])
    return np.stack([one for one in found if one.shape == (side, side, 3)])
