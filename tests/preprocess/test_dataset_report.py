"""The dataset's page is read as a browser reads it (html.parser) and must say what the manifest says."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import io
import json
import pathlib
import random
import re
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from preprocess import relations, report, statistics
from preprocess.samples import Sample

HOSTILE = "<script>alert(1)</script>\n\udcff.png"
HOSTILE_SHOWN = "<script>alert(1)</script>\\n\\udcff.png"
VOID = {"meta", "img", "br", "hr", "link", "input", "rect", "line"}
ADVICE = {"cannot_decode": "Restore the file.", "duplicate": "Nothing to do."}


class Page(html.parser.HTMLParser):
    """Collects tags with attributes, text, table cells by table id, and checks that tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._stack: list[str] = []
        self._table = ""
        self.feed(text)
        self.close()
        assert not self._stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._stack.append(tag)
        if tag == "table":
            self._table = dict(attrs).get("id") or ""
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("td", "th"):
            self.tables[self._table][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._stack:
            return
        self.text += data
        if {"td", "th"} & set(self._stack):
            self.tables[self._table][-1][-1] += data

    @property
    def words(self) -> str:
        return re.sub(r"[ \n]+", " ", self.text)

    def images(self) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == "img"]


@dataclasses.dataclass(frozen=True)
class Facts:
    file: str
    class_name: str
    phash: bytes = b""
    size_bytes: int = 3000
    width: int = 640
    height: int = 480
    channels: Sequence[int] = (100, 110, 120, 10, 20, 30)
    input: int = 0
    split: str = ""
    sha256: str = ""


@pytest.fixture(scope="module")
def thumbnail() -> bytes:
    image = Image.fromarray(load_sample_images().images[0])
    image.thumbnail((96, 96))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def make_manifest(counts: dict[str, tuple[int, int]], **more: Any) -> dict[str, Any]:
    """`counts[class]` is (train, test); every class has one file quarantined."""
    images = [
        (split, Facts(f"{name}/{index}", name))
        for name, both in counts.items()
        for split, count in zip(("train", "test"), both, strict=True)
        for index in range(count)
    ]
    totals = {split: sum(name == split for name, _ in images) for split in ("train", "test")}
    by_class = {
        name: {"seen": sum(both) + 1, "written": sum(both), "quarantined": 1, "duplicates": 0}
        for name, both in counts.items()
    }
    return {
        "name": "leaves",
        "version": "1.2.3",
        "fingerprint": "ab" * 32,
        "grown_from": None,
        "classes": sorted(counts),
        "splits": {
            split: {"examples": total, "shards": [{"file": "x", "examples": total, "bytes": 1_500_000, "sha256": "y"}]}
            for split, total in totals.items()
        },
        "ledger": {
            "seen": len(images) + len(counts),
            "written": len(images),
            "quarantined": len(counts),
            "duplicates": 0,
            "by_class": by_class,
        },
        "settings": {"splits": {"train": "4/5", "test": "1/5"}, "seed": 42},
        "statistics": {
            **statistics.to_json(statistics.summarize(images), ["train", "test"], sorted(counts)),
            "left_out": {"cannot_decode": {"files": len(counts), "first": ["ant/x.png: damaged"]}},
            **more,
        },
    }


def groups(*found: list[Facts], own_splits: bool) -> dict[str, Any]:
    sums = relations.merge(relations.describe(group, lambda image: image.split) for group in found)
    return relations.to_json(sums, own_splits=own_splits)


def test_counts_are_those_of_the_manifest() -> None:
    page = Page(report.render(make_manifest({"ant": (30, 10), "bee": (8, 2)}), [], ADVICE))
    assert page.tables["split-table"][1:] == [
        ["train", "38", "76.00\xa0%", "1", "1.5"],
        ["test", "12", "24.00\xa0%", "1", "1.5"],
    ]
    header, ant, bee = ([cell.strip() for cell in row] for row in page.tables["class-table"])
    assert header == ["class", "train", "test", "all", "share of all images", "left out", "brightness"]
    # 0.299 * 100 + 0.587 * 110 + 0.114 * 120 = 108.2
    assert ant == ["ant", "30", "10", "40", "80.00\xa0%", "1", "108"]
    assert bee == ["bee", "8", "2", "10", "20.00\xa0%", "1", "108"]
    widths = [attrs["style"] for _, attrs in page.tags if attrs.get("class") == "bar"]
    assert widths == ["width: 60.00%", "width: 15.00%"]
    assert page.tables["channel-table"][1] == ["train", "100.0 ± 10.0", "110.0 ± 20.0", "120.0 ± 30.0"]
    assert "50 images of 2 classes, from 52 files that were found." in page.words
    assert (
        "The largest class, ant, has 40 images (80.00\xa0%), 4.0 times those of the smallest, bee, with 10."
        in page.words
    )
    assert page.tables["reason-table"][1] == ["cannot_decode", "2", "Restore the file."]
    assert "ant/x.png: damaged" in page.words
    assert "and 1 more" in page.words
    assert ["seed", "42"] in page.tables["settings-table"]
    assert ["fingerprint", "ab" * 32] in page.tables["facts-table"]
    assert 'tfds.builder_from_directory("…/leaves/1.2.3")' in page.text
    assert 'split="train"' in page.text


def test_bars_of_a_histogram_are_the_shares_of_its_bins() -> None:
    manifest = make_manifest({"ant": (9, 2), "bee": (1, 2)})
    small, large = Facts("", "ant", width=50, height=60), Facts("", "bee", width=700, height=900)
    sums = statistics.summarize([*[("train", small)] * 3, ("train", large), *[("test", large)] * 4])
    manifest["statistics"]["shorter_side"] = statistics.to_json(sums, ["train", "test"], [])["shorter_side"]
    page = Page(report.render(manifest, [], ADVICE))
    start, stop = (
        next(i for i, (_, attrs) in enumerate(page.tags) if (attrs.get("aria-label") or "").startswith(label))
        for label in ("Shorter side, train", "Aspect ratio, train")
    )
    rects = [attrs for tag, attrs in page.tags[start:stop] if tag == "rect"]
    # 84 units are the highest share of any split, here all four of test.
    assert [float(one["height"] or 0) for one in rects] == [63, 21, 84]
    left, right, test = (float(one["x"] or 0) for one in rects)
    assert left < right == test
    assert page.tags[start][1]["aria-label"] == "Shorter side, train. Most images, 75%: 48 to 64."
    assert "512 to 768" in page.words


def test_leaks_of_kept_splits_are_told_apart_from_those_that_were_prevented(thumbnail: bytes) -> None:
    group = [Facts("a/1.png", "ant", split="train"), Facts("a/2.png", "ant", split="test")]
    shown = [Sample("ant", one.file, "pair", one.split, thumbnail, pair="7") for one in group]
    shown.append(Sample("ant", "alone.png", "pair", "train", thumbnail, pair="8"))
    for own_splits, headline in (
        (True, "Pairs that stand in two splits"),
        (False, "Pairs that would have stood in two splits"),
    ):
        manifest = make_manifest({"ant": (3, 2), "bee": (1, 2)}, groups=groups(group, own_splits=own_splits))
        page = Page(report.render(manifest, shown, ADVICE))
        assert headline in page.words
        assert ("The source's own splits leak: 2 images in 1 group" in page.words) == own_splits
        assert ("2 images in 1 group that splitting image by image would have torn apart" in page.words) != own_splits
        assert page.tables["between-table"][1] == ["test, train", "1"]
        assert page.tables["size-table"][1] == ["2", "1"]
        assert page.tables["largest-table"][1] == ["2", "ant (2)", "a/1.png, a/2.png"]
        assert [one["alt"] for one in page.images()] == ["a/1.png", "a/2.png"]
        assert "1 pair, at most one of a group" in page.words


def test_growth_is_told_where_there_was_any() -> None:
    counts = {"ant": (3, 2), "bee": (1, 2)}
    manifest = make_manifest(counts, growth={"kept": 5, "added": 3, "gone": 1})
    manifest["grown_from"] = "cd" * 32
    page = Page(report.render(manifest, [], ADVICE))
    assert "Grown from cdcdcdcdcdcd: 5 images kept where they were, 3 added, 1 gone." in page.words
    assert ["grown from", "cd" * 32] in page.tables["facts-table"]
    assert "rown from" not in Page(report.render(make_manifest(counts), [], ADVICE)).words


def test_pictures_stand_where_they_belong(thumbnail: bytes) -> None:
    shown = [
        Sample("ant", "ant/1.png", "contact", "train", thumbnail),
        Sample("bee", "bee/1.png", "contact", "test", thumbnail),
        Sample("ant", "ant/x.png", "quarantined", "damaged", thumbnail, reason="cannot_decode"),
        Sample("bee", "bee/y.png", "quarantined", "damaged", b"", reason="cannot_decode"),
    ]
    text = report.render(make_manifest({"ant": (3, 2), "bee": (1, 2)}), shown, ADVICE)
    page = Page(text)
    assert [one["alt"] for one in page.images()] == ["ant/1.png, train", "bee/1.png, test", "ant/x.png"]
    assert {one["src"] for one in page.images()} == {f"data:image/jpeg;base64,{base64.b64encode(thumbnail).decode()}"}
    assert text.index('alt="bee/1.png, test"') < text.index('id="left-out"') < text.index('alt="ant/x.png"')


@pytest.mark.parametrize("classes", [2, 80])
def test_hostile_names_do_nothing(classes: int, thumbnail: bytes) -> None:
    names = ['a" onload="x', "<script>alert(2)</script>", *(f"class {number}" for number in range(classes - 2))]
    group = [Facts(HOSTILE, names[0], split="train"), Facts(f"2{HOSTILE}", names[1], split="test")]
    manifest = make_manifest(dict.fromkeys(names, (2, 1)), groups=groups(group, own_splits=False))
    manifest["statistics"]["left_out"]["cannot_decode"]["first"] = [HOSTILE]
    manifest["settings"]["<b>"] = "</td><img src=x>"
    shown = [
        Sample(names[0], HOSTILE, "contact", "train", thumbnail),
        Sample(names[1], HOSTILE, "quarantined", HOSTILE, thumbnail, reason="cannot_decode"),
        *(Sample(names[0], HOSTILE, "pair", split, thumbnail, pair="p") for split in ("train", "test")),
    ]
    text = report.render(manifest, shown, {"cannot_decode": "<img src=x>"})
    text.encode()
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base", "form", "b "}
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on") or name in ("srcset", "background")]
        assert (attrs.get("src") or "data:").startswith("data:")
        assert (attrs.get("href") or "#").startswith("#"), tag
        assert tag != "img" or attrs["alt"]
    policy = [attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    # One line of the list, the caption's two parts and the captions of the pair; the largest group has its own escapes.
    assert page.text.count(HOSTILE_SHOWN) >= 5
    assert names[1] in page.tables["class-table"][1 + sorted(names).index(names[1])]
    anchors = {attrs["id"] for _, attrs in page.tags if attrs.get("id")}
    assert {(attrs.get("href") or "#summary")[1:] for tag, attrs in page.tags if tag == "a"} <= anchors


def test_equal_datasets_have_equal_pages(thumbnail: bytes) -> None:
    manifest = make_manifest({"ant": (30, 10), "bee": (8, 2)}, growth={"kept": 1, "added": 2, "gone": 3})
    manifest["settings"] = {"b": {"z": 1, "a": 2}, "a": 3}
    shown = [Sample("ant", f"{number}", "contact", "train", thumbnail) for number in range(8)]
    shown += [Sample("ant", f"{number}", "quarantined", "", b"", "cannot_decode") for number in range(8)]
    expected = report.render(manifest, shown, ADVICE)
    again = json.loads(json.dumps(manifest, sort_keys=True))
    assert report.render(again, random.Random(1).sample(shown, len(shown)), ADVICE) == expected


def test_many_classes_are_folded_away_and_the_page_stays_small(thumbnail: bytes) -> None:
    names = [f"class {number:04d}" for number in range(1000)]
    manifest = make_manifest({name: (1 + number % 90, 1) for number, name in enumerate(names)})
    shown = [Sample(name, f"{name}/photo.jpeg", "contact", "train", thumbnail[:2200].ljust(2200)) for name in names]
    shown += [
        Sample(names[0], f"{number}", "quarantined", "x" * 200, bytes(2200), "cannot_decode") for number in range(120)
    ]
    shown += [Sample(names[0], "x", "pair", "train", bytes(2200), pair=f"{number // 2}") for number in range(80)]
    manifest["statistics"]["groups"] = groups([Facts("1", "ant"), Facts("2", "ant")], own_splits=False)
    text = report.render(manifest, shown, ADVICE)
    assert len(text) < 5e6
    page = Page(text)
    assert len(page.images()) == 1200
    assert "Largest: class 0089 (91), class 0179 (91)" in page.words
    assert "All 1,000 classes" in page.words
    assert len(page.tables["class-table"]) == 1001


def test_source_has_no_address_of_another_host() -> None:
    template = pathlib.Path(report.__file__).with_name("templates") / "report.html"
    assert not re.search(r"https?:|//[a-z]|@import|url\(", template.read_text())
