"""The page is read as a browser reads it (html.parser), the pictures as XML; both must say what `metrics.json` says."""

from __future__ import annotations

import base64
import html.parser
import json
import pathlib
import re
import xml.etree.ElementTree
from typing import Any

import numpy as np
import pytest

from pipeline import page as page_lib
from trainer import metrics as metrics_lib
from trainer import report

HOSTILE = "<script>alert(1)</script>"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(html.parser.HTMLParser):
    """Collects tags with attributes, text per tag, table cells by table id, and checks that tags are balanced."""

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

    def handle_endtag(self, tag: str) -> None:
        assert self._stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._stack:
            return
        self.text += data
        if {"td", "th"} & set(self._stack):
            self.tables[self._table][-1][-1] += data

    def pictures(self) -> list[str]:
        prefix = "data:image/svg+xml;base64,"
        sources = [attrs["src"] or "" for tag, attrs in self.tags if tag == "img"]
        assert all(source.startswith(prefix) for source in sources)
        return [base64.b64decode(source.removeprefix(prefix)).decode() for source in sources]


def make_metrics(classes: list[str], seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    confusion = generator.integers(0, 3, (len(classes), len(classes))) + 20 * np.eye(len(classes), dtype=int)
    total = int(confusion.sum())
    return metrics_lib.summarize(confusion, total - 1, 3, 0.25 * total, classes, split="test", fingerprint="ab" * 32)


def render(metrics: dict[str, Any], **changes: Any) -> Page:
    given: dict[str, Any] = {"title": "A run", "settings": {}, "history": ()}
    return Page(report.render({"versions": {}, **metrics}, **{**given, **changes}))


def words(page: Page) -> str:
    return re.sub(r"[ \n]+", " ", page.text)


def svg_texts(svg: str) -> list[str]:
    root = xml.etree.ElementTree.fromstring(svg)
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_writes_both_files_and_returns_the_page(tmp_path: pathlib.Path) -> None:
    metrics = make_metrics(["cat", "dog", "owl"])
    path = report.write_report(str(tmp_path / "work/report"), metrics, title="Birds", settings={"seed": 1})
    assert path == str(tmp_path / "work/report/index.html")
    stored = json.loads((tmp_path / "work/report/metrics.json").read_text())
    versions = stored.pop("versions")
    assert stored == metrics
    assert {"python", "numpy", "tensorflow", "keras"} <= set(versions)
    page = Page(pathlib.Path(path).read_text())
    assert ["numpy", np.__version__] in page.tables["facts-table"]
    assert ["fingerprint of dataset, config and code", "ab" * 32] in page.tables["facts-table"]


def test_numbers_of_the_page_are_those_of_the_metrics() -> None:
    metrics = make_metrics(["cat", "dog", "owl"])
    page = render(metrics)

    header, *rows = page.tables["class-table"]
    assert header == ["class", "precision", "recall", "F1", "images"]
    for name, *shares, images in rows:
        expected = metrics["per_class"][name]
        assert [float(share.removesuffix("\xa0%")) for share in shares] == pytest.approx(
            [100 * expected[key] for key in ("precision", "recall", "f1")], abs=0.005
        )
        assert int(images) == expected["support"]
    assert [row[0] for row in rows] == metrics["classes"]

    header, *rows = page.tables["confusion-table"]
    assert header[1:] == [row[0] for row in rows] == metrics["classes"]
    assert [[int(cell) for cell in row[1:]] for row in rows] == metrics["confusion"]

    text = words(page)
    correct = sum(metrics["confusion"][i][i] for i in range(3))
    assert f"Of {metrics['examples']} images in the test split, {correct} were named correctly" in text
    assert f"{page_lib.percent(metrics['accuracy'])} accuracy" in text
    assert f"first 3 answers for {page_lib.percent(metrics['top_k']['accuracy'])}" in text
    assert "Mean loss per image: 0.2500" in text


def test_summary_names_the_weakest_classes_and_the_most_frequent_mistake() -> None:
    matrix = np.array([[6, 0, 0, 0, 0], [0, 3, 1, 0, 0], [2, 0, 2, 0, 0], [0, 0, 0, 9, 1], [0, 0, 0, 0, 0]])
    metrics = metrics_lib.summarize(matrix, 24, 2, 1.0, list("abcde"), split="test", fingerprint="0")
    text = words(render(metrics))
    percent = "\N{NO-BREAK SPACE}%"
    assert f"found: c (50.00{percent}, 2 of 4), b (75.00{percent}, 3 of 4), d (90.00{percent}, 9 of 10)." in text
    assert f"Most frequent mistake: c taken for a, 2 times (50.00{percent} of the images of c)" in text
    matrix[2] = [1, 0, 3, 0, 0]
    tied = metrics_lib.summarize(matrix, 24, 2, 1.0, list("abcde"), split="test", fingerprint="0")
    assert "One of the most frequent mistakes: b taken for c, 1 time (25.00" in words(render(tied))
    assert f"most frequent class, d, would be right for {page_lib.percent(10 / 24)}" in text


def test_perfect_result_names_no_mistakes() -> None:
    metrics = metrics_lib.summarize(np.diag([3, 4]), 7, 1, 0.1, ["a", "b"], split="test", fingerprint="0")
    text = words(render(metrics))
    assert "No image was given a wrong class." in text
    assert "Weakest" not in text
    assert "taken for" not in text.replace("What is taken for what", "")


def test_diverged_loss_is_said_in_words() -> None:
    metrics = metrics_lib.summarize(np.eye(2, dtype=int), 2, 1, float("nan"), ["a", "b"], split="t", fingerprint="0")
    assert "Mean loss per image: not a finite number" in words(render(metrics))


@pytest.mark.parametrize("count", [2, 60, 120])
def test_page_needs_no_network_and_runs_no_code(count: int) -> None:
    history = [{"step": 1, "train_loss": 1.0}]
    names = [HOSTILE, 'a" onload="x', *(f"name{i}" for i in range(count - 2))]
    page = render(
        make_metrics(names), title=f"{HOSTILE}</title>", settings={"path<b>": "</td><img src=x>"}, history=history
    )
    loading = {"script", "link", "iframe", "object", "embed", "base", "video", "audio", "form", "svg"}
    assert not loading & {tag for tag, _ in page.tags}
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on") or name in ("href", "srcset", "background")]
        assert (attrs.get("src") or "data:").startswith("data:"), tag
        assert tag != "img" or len(attrs["alt"] or "") > 20
    policy = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    for svg in page.pictures():
        for element in xml.etree.ElementTree.fromstring(svg).iter():
            assert element.tag.rpartition("}")[2] not in ("script", "foreignObject", "a")
            for name, value in element.attrib.items():
                assert not name.startswith("on")
                assert not name.endswith("href") or value.startswith(("#", "data:"))
                assert not re.search(r"url\((?!#)", value)


def test_source_has_no_address_of_another_host() -> None:
    template = pathlib.Path(report.__file__).with_name("templates") / "report.html"
    assert not re.search(r"https?:|//[a-z]|@import|url\(", template.read_text())


def test_hostile_names_are_shown_as_text_in_page_and_picture() -> None:
    names = [HOSTILE, "$x^2$", "a&b", "\N{CJK UNIFIED IDEOGRAPH-8549}", "line\nbreak\x01"]
    page = render(make_metrics(names), title=HOSTILE, settings={"note": HOSTILE})
    assert HOSTILE in page.tables["class-table"][1]
    assert page.text.count(HOSTILE) >= 5  # title twice, table of classes, both sides of the confusion table, settings
    texts = svg_texts(page.pictures()[0])
    assert texts.count("$x^2$") == texts.count("a&b") == texts.count("\N{CJK UNIFIED IDEOGRAPH-8549}") == 2
    assert texts.count("line\N{REPLACEMENT CHARACTER}break\N{REPLACEMENT CHARACTER}") == 2
    assert texts.count("<script>aler…1)</script>") == 2


def test_matrix_picture_counts_cells_and_names_axes() -> None:
    page = render(make_metrics(["cat", "dog"]))
    texts = svg_texts(page.pictures()[0])
    counts = [str(count) for row in make_metrics(["cat", "dog"])["confusion"] for count in row if count]
    assert sorted(text for text in texts if text.isdigit() and text != "0") == sorted(counts)
    assert texts.count("cat") == texts.count("dog") == 2


def test_many_classes_get_pairs_and_numbers_instead_of_a_huge_table() -> None:
    names = [f"species{i:04d}" for i in range(1000)]
    metrics = make_metrics(names)
    page = render(metrics)
    assert "confusion-table" not in page.tables
    _, *pairs = page.tables["pairs-table"]
    expected = metrics_lib.most_confused(metrics["confusion"], names, 30)
    assert [(row[0], row[1], int(row[2])) for row in pairs] == [pair[:3] for pair in expected]
    assert page.tables["class-table"][0][0] == "number"
    assert page.tables["class-table"][1000][:2] == ["999", "species0999"]
    assert not [text for text in svg_texts(page.pictures()[0]) if text.startswith("species")]


def test_curves_show_what_was_logged_and_only_that() -> None:
    history = [
        {"step": 10, "epoch": 0.5, "train_loss": 2.0, "learning_rate": 0.1},
        {"step": 20, "train_loss": float("nan"), "validation_loss": 1.5},
        {"step": 30, "train_loss": 1.0, "validation_loss": None},
    ]
    page = render(make_metrics(["a", "b"]), history=history)
    texts = svg_texts(page.pictures()[1])
    assert {"loss", "training", "validation", "learning rate", "step"} <= set(texts)
    assert "validation accuracy" not in texts
    for nothing in ({"step": 1, "epoch": 0.1}, {"step": 1, "train_loss": float("nan")}, {"train_loss": 1.0}):
        assert len(render(make_metrics(["a", "b"]), history=[nothing]).pictures()) == 1
    assert len(render(make_metrics(["a", "b"])).pictures()) == 1


def test_nested_settings_become_dotted_names() -> None:
    settings = {
        "seed": 3,
        "config": {"crop": (0.1, 1.0), "phases": [{"epochs": 2}, {"epochs": 5, "lr": {"peak": 0.1}}]},
    }
    assert render(make_metrics(["a", "b"]), settings=settings).tables[""] == [
        ["seed", "3"],
        ["config.crop", "(0.1, 1.0)"],
        ["config.phases[0].epochs", "2"],
        ["config.phases[1].epochs", "5"],
        ["config.phases[1].lr.peak", "0.1"],
    ]


def test_step_and_dataset_are_shown_where_they_are_known() -> None:
    page = render({**make_metrics(["a", "b"]), "step": 1234, "dataset_fingerprint": "cd" * 32})
    assert f"test split after 1,234 training steps, fingerprint {'ab' * 6}" in words(page)
    assert ["fingerprint of the dataset", "cd" * 32] in page.tables["facts-table"]
    assert "training steps" not in render(make_metrics(["a", "b"])).text


def test_top_1_is_not_said_twice() -> None:
    one_of_two = metrics_lib.summarize(np.diag([3, 4]), 7, 1, 0.1, ["a", "b"], split="test", fingerprint="0")
    assert "among the first" not in words(render(one_of_two))


def test_equal_input_gives_equal_bytes() -> None:
    metrics = {"versions": {}, **make_metrics(["a", "b"])}
    history = [{"step": 1, "train_loss": 1.0}]
    pages = [report.render(metrics, title="t", settings={}, history=history) for _ in range(2)]
    assert pages[0] == pages[1]
