"""The whole job on photos with planted near-duplicates: none stands in another split than the photo it was made of."""

from __future__ import annotations

import collections
import json
import pathlib
from collections.abc import Callable, Sequence

import pytest

from pipeline import manifest
from tests.preprocess.folders import Outcome
from tests.preprocess.near_duplicates import Planted, made_photos, plant, real_photos

Command = Callable[..., Outcome]


def write(root: pathlib.Path, photos: Sequence[bytes], planted: Sequence[Planted]) -> None:
    """PHOTO and its copies as CLASS/PHOTO_COPY.jpg; a copy of a third of them lies in another class."""
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True)
    for index, photo in enumerate(photos):
        (root / "ant" / f"{index}_.jpg").write_bytes(photo)
    for copy, one in enumerate(planted):
        (root / ("bee" if copy % 3 == 0 else "ant") / f"{one.original}_{copy}.jpg").write_bytes(one.jpeg)
    for index, photo in enumerate(made_photos(40, seed=99)):  # bee alone would be too few for three splits
        (root / "bee" / f"own{index}_.jpg").write_bytes(photo)


def sides(dataset: pathlib.Path) -> dict[str, set[str]]:
    """The splits that each photo and its copies stand in."""
    found = collections.defaultdict(set)
    for part in dataset.glob("ledger-*.jsonl"):
        for line in part.read_text().splitlines():
            row = json.loads(line)
            if row["status"] == "written":
                found[row["file"].split("/")[1].split("_")[0]].add(row["split"])
    return found


def check(command: Command, tmp_path: pathlib.Path, photos: Sequence[bytes], count: int) -> None:
    write(tmp_path / "in", photos, plant(photos, count, seed=3))
    assert command(input=tmp_path / "in", output=tmp_path / "out").status == 0
    dataset = tmp_path / "out/tiny/1.0.0"
    torn = [photo for photo, splits in sides(dataset).items() if len(splits) > 1]
    assert torn == []
    page = (dataset / "report.html").read_text()
    assert manifest.load(str(dataset)).statistics["groups"]["separated"]["groups"] > count // 8
    assert "Pairs that would have stood in two splits" in page
    # Without looking, they leak: the corpus can tell.
    assert command(input=tmp_path / "in", output=tmp_path / "blind", near_duplicates="ignore").status == 0
    assert sum(len(splits) > 1 for splits in sides(tmp_path / "blind/tiny/1.0.0").values()) > count // 8


def test_no_planted_copy_leaks(tmp_path: pathlib.Path, command: Command) -> None:
    check(command, tmp_path, made_photos(120, seed=1), 60)


def test_no_planted_copy_of_200_leaks_on_trashnet(
    shared: pathlib.Path, tmp_path: pathlib.Path, command: Command
) -> None:
    check(command, tmp_path, list(real_photos(shared / "data/trashnet.tar").values()), 200)


def test_dropping_keeps_one_of_each(tmp_path: pathlib.Path, command: Command) -> None:
    photos = made_photos(60, seed=2)
    root = tmp_path / "in"
    for name, some in (("ant", photos[:30]), ("bee", photos[30:])):
        (root / name).mkdir(parents=True)
        for index, photo in enumerate(some):
            (root / name / f"{index}_.jpg").write_bytes(photo)
        for copy, one in enumerate(plant(some, 10, seed=4)):
            (root / name / f"{one.original}_{copy}.jpg").write_bytes(one.jpeg)
    assert command(input=root, output=tmp_path / "out", near_duplicates="drop").status == 0
    loaded = manifest.load(str(tmp_path / "out/tiny/1.0.0"))
    assert [loaded.ledger[key] for key in ("seen", "written", "duplicates")] == [80, 60, 20]
    assert loaded.statistics["left_out"]["near_duplicate"]["files"] == 20


@pytest.mark.parametrize("mode", ["join", "ignore"])
def test_splits_of_the_source_stay_and_their_leaks_are_reported(
    tmp_path: pathlib.Path, command: Command, mode: str
) -> None:
    photos = made_photos(40, seed=5)
    copies = {one.original: one.jpeg for one in plant(photos[:10], 5, seed=6)}
    for name, some in (("ant", range(20)), ("bee", range(20, 40))):
        for split in ("train", "test"):
            (tmp_path / "in" / split / name).mkdir(parents=True)
        for index in some:
            split = "train" if index % 4 else "test"
            (tmp_path / "in" / split / name / f"{index}.jpg").write_bytes(photos[index])
    for original, jpeg in copies.items():
        (tmp_path / "in" / ("test" if original % 4 else "train") / "ant" / f"copy{original}.jpg").write_bytes(jpeg)
    (tmp_path / "in/test/bee/same.jpg").write_bytes(photos[21])  # of which train has the same bytes
    done = command(input=tmp_path / "in", output=tmp_path / "out", near_duplicates=mode)
    assert done.status == 0, done.err
    loaded = manifest.load(str(tmp_path / "out/tiny/1.0.0"))
    leaks = loaded.statistics["groups"]
    assert leaks["own_splits"] is True
    assert leaks["separated"]["groups"] == (6 if mode == "join" else 1)
    assert loaded.ledger["written"] == 40 + 5 + 1  # kept as they are, leaks and all
    assert "stand in several splits, as the input has it" in done.out
