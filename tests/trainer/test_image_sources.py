"""What a person names is found in the order given, whatever the names look like, and a million of them are not held."""

from __future__ import annotations

import glob
import io
import itertools
import os
import pathlib
import random
import tracemalloc
from typing import Any

import pytest

from pipeline import storage
from pipeline.errors import InputError
from tests.pipeline import pictures
from trainer import image_sources
from trainer.image_sources import Source

NO_IMAGES = ("text", "svg", "nothing")
NAMES = (
    "a.jpg",
    "b[1].jpg",
    "c\nd.jpg",
    "e,f.png",
    'g"h.jpg',
    ".hidden.jpg",
    "one/a.jpg",
    "one/z.png",
    "one/two/a.jpg",
    "one/.cache/a.jpg",
    "two/a.jpg",
    os.fsdecode(b"two/\xff.jpg"),
)


@pytest.fixture
def root(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _names(*paths: str, stdin: bytes = b"") -> list[str]:
    return [source.name for source in image_sources.expand(paths, io.BytesIO(stdin))]


def test_files_and_folders_come_in_the_order_given(root: pathlib.Path) -> None:
    assert _names("two/a.jpg", "one", "a.jpg") == ["two/a.jpg", "one/a.jpg", "one/z.png", "one/two/a.jpg", "a.jpg"]
    everything = _names(str(root))
    assert sorted(everything) == sorted(f"{root}/{name}" for name in NAMES if "/." not in f"/{name}")


@pytest.mark.parametrize(
    "pattern",
    ["*.jpg", "*", "?.jpg", "[ab].jpg", "one/*", "*/a.jpg", "**/a.jpg", "**/*.png", "one/**/*.jpg", "**", "one/**",
     "*/*/*", "**/two/**", "./*.jpg", ".*", "**/.cache/*", "one/.*/*.jpg", "o*/**/t*/*", "**/**/a.jpg", "*\n*"],
)  # fmt: skip
def test_patterns_match_as_python_s_own(root: pathlib.Path, pattern: str) -> None:
    """Beside that, a folder that matches stands for its files, as it does where it is named."""
    expected = set()
    for found in glob.glob(pattern, recursive=True):
        path = pathlib.Path(found)
        below = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
        inside = [
            one for one in below if path.is_file() or not any(p.startswith(".") for p in one.relative_to(path).parts)
        ]
        expected |= {os.path.normpath(one) for one in inside}
    found_names = _names(pattern)
    assert {os.path.normpath(name) for name in found_names} == expected
    assert len(found_names) == len(expected)  # none twice
    absolute = _names(f"{root}/{pattern}")
    assert {os.path.relpath(name, root) for name in absolute} == expected


def test_a_name_that_looks_like_a_pattern_is_itself_first(root: pathlib.Path) -> None:
    assert _names("b[1].jpg") == ["b[1].jpg"]
    (root / "*").mkdir()
    (root / "*" / "x.jpg").write_bytes(b"x")
    assert _names("*") == ["*/x.jpg"]


def test_only_folders_that_may_match_are_listed(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    scandir = os.scandir

    def watched(folder: str) -> Any:
        listed.append(os.path.relpath(folder, root))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", watched)
    for pattern, folders in (("*/a.jpg", [".", "one", "two"]), ("t*/*.jpg", [".", "two"]), ("one/*.png", ["one"])):
        listed.clear()
        assert _names(pattern)
        assert listed == folders


def test_links_to_folders_are_not_followed(root: pathlib.Path) -> None:
    (root / "two" / "circle").symlink_to(root)
    assert _names("two/**") == ["two/a.jpg", "two/circle", NAMES[-1]]


def test_what_is_missing_is_refused_before_anything(root: pathlib.Path) -> None:
    (root / "empty").mkdir()
    for paths, message in (
        (["one", "none.jpg"], "none.jpg: no such file or folder"),
        (["one", "none/*.jpg"], r"none/\*.jpg: nothing matches"),
        (["one", "*.gif"], r"\*.gif: nothing matches"),
        (["empty"], "nothing to predict"),
        ([], "nothing to predict"),
        (["-", "-"], "given twice"),
    ):
        with pytest.raises(InputError, match=message):
            image_sources.expand(paths, io.BytesIO())
    assert _names("empty", "a.jpg") == ["a.jpg"]


def test_stdin_is_an_image_or_names() -> None:
    assert _names("-", stdin=b"a b.jpg\n\n/x/*.png\n\xff.jpg") == ["a b.jpg", "/x/*.png", "\udcff.jpg"]
    assert _names("-", stdin=b"GIFT.jpg\nBMW.jpg\nRIFF\n") == ["GIFT.jpg", "BMW.jpg", "RIFF"]
    kinds = {name: data for name, data in pictures.kinds().items() if name not in NO_IMAGES}
    for name, data in kinds.items():
        assert list(image_sources.expand(["-"], io.BytesIO(data))) == [Source("-", data)], name
    with pytest.raises(InputError, match="nothing to predict"):
        image_sources.expand(["-"], io.BytesIO(b"\n"))
    with pytest.raises(InputError, match="lines too long"):
        list(image_sources.expand(["-"], io.BytesIO(random.Random(1).randbytes(1 << 20).replace(b"\n", b"x"))))


def test_a_list_is_read_as_it_is_asked_for() -> None:
    """Of a list what is held is the line that it is at."""
    reading, writing = os.pipe()
    with open(reading, "rb") as stdin, open(writing, "wb", buffering=0) as pipe:
        pipe.write(b"first-of-all.jpg\n")
        sources = image_sources.expand(["-"], stdin)
        assert next(sources).name == "first-of-all.jpg"  # and the pipe is still open
    lines = b"".join(b"%07d.jpg\n" % number for number in range(20_000))
    tracemalloc.start()
    counted = sum(1 for _ in image_sources.expand(["-"], io.BytesIO(lines)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counted == 20_000
    assert peak < 100_000


def test_a_bucket_s_objects_match_as_files_do(bucket: str) -> None:
    for name in ("a.jpg", "one/a.jpg", "one/two/b.jpg", "other/c.png"):
        storage.write_bytes(f"{bucket}/photos/{name}", b"x")
    assert _names(f"{bucket}/photos/**/*.jpg") == [
        f"{bucket}/photos/{name}" for name in ("a.jpg", "one/a.jpg", "one/two/b.jpg")
    ]
    assert _names(f"{bucket}/photos/*/?.png", f"{bucket}/photos/one") == [
        f"{bucket}/photos/{name}" for name in ("other/c.png", "one/a.jpg", "one/two/b.jpg")
    ]
    with pytest.raises(InputError, match=r"\*.gif: nothing matches"):
        _names(f"{bucket}/photos/*.gif")


def test_many_files_of_one_folder_take_little_memory(tmp_path: pathlib.Path) -> None:
    """Names of one folder at a time are sorted, and so held: 300 bytes each at most."""
    for number in range(2_000):
        (tmp_path / f"{number:06d}.jpg").touch()
    tracemalloc.start()
    first = list(itertools.islice(image_sources.expand([str(tmp_path)]), 3))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [os.path.basename(source.name) for source in first] == ["000000.jpg", "000001.jpg", "000002.jpg"]
    assert peak < 2_000 * 300 + 100_000
