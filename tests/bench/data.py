"""Archives or nothing in, folders of distinct images out; made once under `build/bench-data`, from seeds."""

from __future__ import annotations

import contextlib
import functools
import io
import multiprocessing
import os
import pathlib
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from tests.bench.measure import REPOSITORY

FOLDER = REPOSITORY / "build/bench-data"
_SEED = 42
_PER_CLASS_FEW = 4  # the least that every class can fill three splits with
_CLASSES = 10


def unpacked(name: str, archives: pathlib.Path) -> pathlib.Path:
    """The class folders in `archives`/NAME.tar or .tar.gz.

    Raises:
      FileNotFoundError: where there is no such archive; they are no part of the repository.
    """
    folder = FOLDER / name
    if folder.exists():
        return folder
    found = [path for path in (archives / f"{name}.tar", archives / f"{name}.tar.gz") if path.exists()]
    if not found:
        raise FileNotFoundError(f"neither {name}.tar nor {name}.tar.gz is in {archives}")
    with whole(folder) as partial:
        with tarfile.open(found[0]) as stream:
            stream.extractall(partial, filter="data")
        if (partial / name).is_dir():  # the archive holds its own folder
            (partial / name).rename(partial.with_suffix(".inner"))
            partial.rmdir()
            partial.with_suffix(".inner").rename(partial)
    return folder


def mosaics(count: int, archives: pathlib.Path) -> pathlib.Path:
    """`count` photos of 384x512, each of four quarters of different trashnet photos.

    Repeating photos under other names would measure the search for duplicates; quarters keep the detail of real
    photos, and two mosaics that share one are too different to count as near-duplicates.
    """
    folder = FOLDER / f"mosaics-{count}"
    if not folder.exists():
        sources = sorted(map(str, unpacked("trashnet", archives).glob("*/*.jpg")))
        with whole(folder) as partial:
            for index in range(6):
                (partial / f"class{index}").mkdir()
            _in_parallel(functools.partial(_mosaic, sources, str(partial)), count)
    return folder


def tiny(count: int) -> pathlib.Path:
    """`count` JPEGs of 32x32 in ten classes, textured like blurred noise, no two alike."""
    folder = FOLDER / f"tiny-{count}"
    if not folder.exists():
        with whole(folder) as partial:
            for index in range(_CLASSES):
                (partial / f"class{index}").mkdir()
            _in_parallel(functools.partial(_tiny, str(partial)), count)
    return folder


def few(folder: pathlib.Path) -> pathlib.Path:
    """A folder with the first images of every class: what a job costs before the first image, nearly."""
    target = folder.with_name(f"{folder.name}-few")
    if not target.exists():
        with whole(target) as partial:
            for class_folder in sorted(path for path in folder.iterdir() if path.is_dir()):
                (partial / class_folder.name).mkdir()
                for file in sorted(class_folder.iterdir())[:_PER_CLASS_FEW]:
                    shutil.copy(file, partial / class_folder.name)
    return target


def files(folder: pathlib.Path) -> list[str]:
    """All images as CLASS/FILE, sorted."""
    return sorted(f"{entry.name}/{name}" for entry in os.scandir(folder) for name in os.listdir(entry))


def warm(folder: pathlib.Path) -> int:
    """Reads everything once, so that no case pays for the disk; returns the number of files."""
    names = files(folder)
    for name in names:
        (folder / name).read_bytes()
    return len(names)


@contextlib.contextmanager
def whole(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder to fill that gets its name only when it is complete."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    partial.rename(folder)


def _in_parallel(function: Callable[[int], None], count: int) -> None:
    # Forked, since a spawned pool leaves a resource tracker behind, for which `measure.run` would wait without end.
    with multiprocessing.get_context("fork").Pool() as pool:
        pool.map(function, range(count), chunksize=100)
        pool.close()
        pool.join()


def _mosaic(sources: list[str], folder: str, index: int) -> None:
    rng = random.Random(f"{_SEED}/{index}")
    canvas = Image.new("RGB", (512, 384))
    for place, source in enumerate(rng.sample(sources, 4)):
        left, top = 256 * (place % 2), 192 * (place // 2)
        photo = Image.open(source).convert("RGB").resize((512, 384))  # nearly all have this size
        canvas.paste(photo.crop((left, top, left + 256, top + 192)), (left, top))
    # Quality and chroma of trashnet itself.
    canvas.save(f"{folder}/class{index % 6}/{index:06d}.jpg", quality=95, subsampling=2)


def _tiny(folder: str, index: int) -> None:
    noise = np.random.default_rng((_SEED, index)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((32, 32), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    pathlib.Path(f"{folder}/class{index % _CLASSES}/{index:06d}.jpg").write_bytes(buffer.getvalue())
