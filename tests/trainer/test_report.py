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
from tests.trainer import evaluated
from trainer import metrics as metrics_lib
from trainer import report
from trainer.report import confidence, words

HOSTILE = "<script>alert(1)</script>"
VOID = {"meta", "img", "br", "hr", "link", "input"}
SECTIONS = {"summary", "confusion", "classes", "confidence", "conditions", "gallery", "training", "settings"}


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
        return [
            base64.b64decode(source.removeprefix(prefix)).decode() for source in sources if source.startswith(prefix)
        ]

    def sections(self) -> set[str | None]:
        return {attrs["aria-labelledby"] for tag, attrs in self.tags if tag == "section"}


def make_metrics(classes: list[str], seed: int = 0) -> dict[str, Any]:
    """The least that there is."""
    generator = np.random.default_rng(seed)
    confusion = generator.integers(0, 3, (len(classes), len(classes))) + 20 * np.eye(len(classes), dtype=int)
    total = int(confusion.sum())
    return metrics_lib.summarize(confusion, total - 1, 3, 0.25 * total, classes, split="test", fingerprint="ab" * 32)


def render(metrics: dict[str, Any], **changes: Any) -> Page:
    given: dict[str, Any] = {"title": "A run", "settings": {}, "history": ()}
    return Page(report.render({"versions": {}, **metrics}, **{**given, **changes}))


def _of(measures: dict[str, list[str]], name: str) -> list[str]:
    """The row whose head, a name and its meaning, begins with that."""
    return next(row for head, row in measures.items() if head.startswith(name))


def words_of(page: Page) -> str:
    return re.sub(r"[ \n]+", " ", page.text)


def svg_texts(svg: str) -> list[str]:
    root = xml.etree.ElementTree.fromstring(svg)
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.fixture(scope="module")
def everything() -> dict[str, Any]:
    return evaluated.metrics(["cat", "dog", "owl", "cow"])


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


def test_numbers_of_the_page_are_those_of_the_metrics(everything: dict[str, Any]) -> None:
    page = render(everything)

    header, *rows = page.tables["class-table"]
    assert header == ["class", "precision", "recall", "F1", "AUC", "AP", "images"]
    for name, *shares, roc_auc, average_precision, images in rows:
        expected = everything["per_class"][name]
        assert [float(share.removesuffix("\xa0%")) for share in shares] == pytest.approx(
            [100 * expected[key] for key in ("precision", "recall", "f1")], abs=0.005
        )
        assert float(roc_auc) == pytest.approx(expected["roc_auc"], abs=0.0005)
        assert float(average_precision) == pytest.approx(expected["average_precision"], abs=0.0005)
        assert int(images) == expected["support"]
    assert [row[0] for row in rows] == everything["classes"]

    header, *rows = page.tables["confusion-table"]
    assert header[1:] == [row[0] for row in rows] == everything["classes"]
    assert [[int(cell) for cell in row[1:]] for row in rows] == everything["confusion"]

    measures = {row[0]: row[1:] for row in page.tables["measures-table"]}
    low, high = everything["intervals"]["accuracy"]
    interval = f"{page_lib.percent(low)} to {page_lib.percent(high)}"
    assert _of(measures, "accuracy") == [page_lib.percent(everything["accuracy"]), interval]
    assert _of(measures, "macro ROC AUC") == [page_lib.percent(everything["macro_roc_auc"]), ""]
    assert _of(measures, "loss") == [f"{everything['loss']:.4f}", ""]
    assert _of(measures, "Brier score") == [f"{everything['calibration']['after']['brier']:.4f}", ""]

    for when in ("before", "after"):
        (row,) = (row for row in page.tables["calibration-table"] if row[0] == f"{when} the temperature")
        assert row[1] == page_lib.percent(everything["calibration"][when]["ece"])
    at_90 = next(row for row in everything["coverage"] if row["threshold"] == 0.9)
    shares = [page_lib.percent(at_90["coverage"]), page_lib.percent(at_90["accuracy"])]
    assert ["90 %", *shares] in page.tables["coverage-table"]
    bins = [one for one in everything["calibration"]["after"]["reliability"] if one["examples"]]
    assert [int(row[1]) for row in page.tables["reliability-table"][1:]] == [one["examples"] for one in bins]
    worst = [part["accuracy"] for part in everything["robustness"] if part["corruption"] == "gaussian_noise"]
    assert ["noise", *map(page_lib.percent, worst)] in page.tables["robustness-table"]
    correct = sum(everything["confusion"][i][i] for i in range(4))
    assert f"Of 400 images in the test split, {correct} were named correctly" in words_of(page)


def test_slices_show_value_interval_and_where_it_lies(everything: dict[str, Any]) -> None:
    parts = [
        {"column": "brightness", "value": "0 to 9", "examples": 50, "accuracy": 0.5, "interval": [0.4, 0.6]},
        {"column": "brightness", "value": "9 to 20", "examples": 50, "accuracy": 0.9, "interval": [0.8, 1.0]},
    ]
    page = render({**everything, "accuracy": 0.7, "slices": parts})
    assert ["0 to 9", "50", "50.00\xa0%", "40.00\xa0% to 60.00\xa0%", ""] in page.tables[""]
    assert page.tables[""][0][-1] == "40 %100 %"
    # On a scale from 40 to 100 %, in per cent of its width.
    styles = [attrs["style"] for tag, attrs in page.tags if tag in ("u", "i", "b") and "style" in attrs]
    assert styles[:3] == ["left: 50.0%", "left: 0.0%; width: 33.33%", "left: 16.67%"]
    assert styles[3:] == ["left: 50.0%", "left: 66.67%; width: 33.33%", "left: 83.33%"]
    assert "Weakest conditions: brightness, from 0 (black) to 255 (white), 0 to 9: 50\xa0% of 50 images" in words_of(
        page
    )
    assert "Look at the mistakes in one slice, brightness, from 0 (black) to 255 (white): 0 to 9." in words_of(page)


def test_everything_known_has_a_section_and_what_is_missing_has_none(everything: dict[str, Any]) -> None:
    given: dict[str, Any] = {"history": evaluated.history(), "gallery": evaluated.gallery(["cat", "dog"], ["a.jpg"])}
    full = render(everything, **given)
    assert full.sections() == SECTIONS
    links = {(attrs["href"] or "")[1:] for tag, attrs in full.tags if tag == "a"}
    assert links == SECTIONS
    bare = render(make_metrics(["cat", "dog"]))
    assert bare.sections() == {"summary", "confusion", "classes", "settings"}
    assert {"AUC", "AP"}.isdisjoint(bare.tables["class-table"][0])
    for key, section in (("calibration", "confidence"), ("coverage", "confidence"), ("slices", "conditions")):
        less = {name: value for name, value in everything.items() if name != key}
        assert render(less).sections() == SECTIONS - {"gallery", "training"}, f"{section} holds more than {key}"
    for keys, section in ((("calibration", "coverage"), "confidence"), (("slices", "robustness"), "conditions")):
        less = {name: value for name, value in everything.items() if name not in keys}
        assert render(less).sections() == SECTIONS - {"gallery", "training", section}
    no_interval = {**everything, "intervals": {**everything["intervals"], "accuracy": None}}
    assert "All images belong to one group" in words_of(render(no_interval))


def test_gallery_shows_images_heatmaps_and_answers() -> None:
    shown = evaluated.gallery(["cat", "dog"], ["one.jpg", "two.jpg"])
    page = render(make_metrics(["cat", "dog"]), gallery=shown)
    sources = [attrs["src"] or "" for tag, attrs in page.tags if tag == "img" and "jpeg" in (attrs["src"] or "")]
    data = [base64.b64decode(source.partition(",")[2]) for source in sources]
    views = [(one.image, one.heatmap, one.truth_heatmap) for one in (*shown.wrong, *shown.confused, *shown.correct)]
    assert data == [view for three in views for view in three if view is not None]
    text = words_of(page)
    assert "truth cat (5\xa0%), answer dog (93\xa0%)one.jpg" in text
    assert "cat, 93\xa0% sureone.jpg" in text


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.9492, 0.9871, "between 94 and 99\xa0%"),
        (0.95, 0.99, "between 95 and 99\xa0%"),
        (0.8642, 0.8774, "between 86.4 and 87.8\xa0%"),
        (0.97, 1.0, "between 97 and 100\xa0%"),
    ],
)
def test_an_interval_in_words_is_rounded_outwards(low: float, high: float, said: str) -> None:
    assert words.between(low, high) == said


def measured(confidences: list[float], accuracies: list[float], examples: int) -> dict[str, Any]:
    bins = [
        {"low": 0.0, "high": 1.0, "confidence": sure, "accuracy": right, "examples": examples}
        for sure, right in zip(confidences, accuracies, strict=True)
    ]
    gaps = [abs(sure - right) for sure, right in zip(confidences, accuracies, strict=True)]
    return {"ece": sum(gaps) / len(gaps), "reliability": bins}


@pytest.mark.parametrize(("examples", "pale"), [(confidence.FEW_IN_BIN, False), (confidence.FEW_IN_BIN - 1, True)])
def test_a_bin_of_few_images_is_drawn_pale(examples: int, pale: bool) -> None:
    one = measured([0.9], [0.8], examples)
    for drawn in confidence.reliability_pictures({"before": one, "after": one, "temperature": 1.0}):
        svg = base64.b64decode(drawn.uri.partition(",")[2]).decode()
        assert (confidence._PALE in svg) == pale


def test_a_confidence_is_believed_where_chance_explains_its_error() -> None:
    # One bin of n at p: the error is that of a binomial share, whose 95 % bound is 1.96 standard deviations.
    found = confidence.trust(measured([0.9], [0.91], 2500))
    assert found.by_chance == pytest.approx(1.96 * (0.9 * 0.1 / 2500) ** 0.5, rel=0.05)
    assert found.verdict == "sound"
    assert confidence.trust(measured([0.9], [0.85], 2500)).verdict == "too sure"
    assert confidence.trust(measured([0.8], [0.85], 2500)).verdict == "not sure enough"
    assert confidence.trust(measured([0.9], [0.85], 40)).verdict == "few"


def test_the_rule_is_the_lowest_threshold_that_reaches_the_highest_round_accuracy() -> None:
    rows = [(0.0, 1.0, 0.9), (0.5, 0.8, 0.96), (0.6, 0.7, 0.97), (0.9, 0.1, 1.0), (0.95, 0.0, None)]
    coverage = [dict(zip(("threshold", "coverage", "accuracy"), row, strict=True)) for row in rows]
    assert confidence.rule(coverage, 0.9) == (0.5, 0.8, 0.96)
    assert confidence.rule(coverage[:1], 0.9) is None
    assert confidence.rule(coverage, 0.995) is None


def test_summary_says_what_to_do_next() -> None:
    metrics = evaluated.metrics(["cat", "dog", "owl"], examples=60)
    text = words_of(render(metrics))
    low, high = metrics["intervals"]["accuracy"]
    assert f"Of new images like these, {words.between(low, high)} would probably be named correctly" in text
    assert "(95\xa0% confidence interval)" in text
    assert "Test on more images" in text
    assert "fewer than 30 images here: cat, dog, owl." in text
    assert "Do not use it yet" not in text
    guessing = evaluated.metrics(["cat", "dog", "owl"], examples=60, skill=0.0)
    assert "Do not use it yet: it is not surely better than always answering" in words_of(render(guessing))
    assert "trained on these very images" in words_of(render(metrics, used_for="training"))
    assert "chosen by these very images" in words_of(render(metrics, used_for="validation"))
    grouped = {**metrics, "intervals": {**metrics["intervals"], "groups": 20}}
    assert "The images form 20 groups" in words_of(render(grouped))
    assert "images form" not in text


def test_every_advice_has_its_cause(everything: dict[str, Any]) -> None:
    matrix = np.array([[60, 3], [0, 40]])
    plain = metrics_lib.summarize(matrix, 100, 1, 20.0, ["cat", "dog"], split="test", fingerprint="0")
    assert "Nothing stands out." in words_of(render({**plain, "confusion": [[61, 2], [0, 40]]}))
    coverage = [
        {"threshold": 0.0, "coverage": 1.0, "accuracy": plain["accuracy"]},
        {"threshold": 0.8, "coverage": 0.75, "accuracy": 0.995},
    ]
    spoilt = [
        {"corruption": "gaussian_blur", "severity": 1, "accuracy": 0.9},
        {"corruption": "gaussian_blur", "severity": 5, "accuracy": 0.5},
        {"corruption": "brightness", "severity": 1, "accuracy": 0.95},
    ]
    text = words_of(render({**plain, "coverage": coverage, "robustness": spoilt}))
    assert "Nothing stands out" not in text
    assert "Give answers it is less than 80\xa0% sure of to a person." in text
    assert "would then answer 75\xa0% by itself, 99.50\xa0% of those correctly" in text
    assert "Look at the images of cat that were taken for dog" in text
    assert "blur of severity 1 leaves 90\xa0% right" in text
    assert "Of spoilt images the worst: blur of severity 5, with 50\xa0% right instead of 97\xa0%" in text
    calibration = everything["calibration"]
    for fitted_on, worse, said, not_said in (
        ("validation", 0.1, "The temperature does not help here", "no temperature was fitted"),
        (None, 0.0, "no temperature was fitted", "does not help here"),
    ):
        after = {**calibration["after"], "nll": calibration["before"]["nll"] + worse}
        text = words_of(render({**plain, "calibration": {**calibration, "after": after, "fitted_on": fitted_on}}))
        assert said in text
        assert not_said not in text


def test_summary_names_the_weakest_classes_and_the_most_frequent_mistake() -> None:
    matrix = np.array([[6, 0, 0, 0, 0], [0, 3, 1, 0, 0], [2, 0, 2, 0, 0], [0, 0, 0, 9, 1], [0, 0, 0, 0, 0]])
    metrics = metrics_lib.summarize(matrix, 24, 2, 1.0, list("abcde"), split="test", fingerprint="0")
    text = words_of(render(metrics))
    percent = "\N{NO-BREAK SPACE}%"
    assert f"found: c (50.00{percent}, 2 of 4), b (75.00{percent}, 3 of 4), d (90.00{percent}, 9 of 10)." in text
    assert f"Most frequent mistake: c taken for a, 2 times (50.00{percent} of the images of c)" in text
    matrix[2] = [1, 0, 3, 0, 0]
    tied = metrics_lib.summarize(matrix, 24, 2, 1.0, list("abcde"), split="test", fingerprint="0")
    assert "One of the most frequent mistakes: b taken for c, 1 time (25.00" in words_of(render(tied))
    assert f"most frequent class, d, would be right for {page_lib.percent(10 / 24)}" in text


def test_perfect_result_names_no_mistakes() -> None:
    metrics = metrics_lib.summarize(np.diag([3, 4]), 7, 1, 0.1, ["a", "b"], split="test", fingerprint="0")
    page = render(metrics)
    assert "No image was given a wrong class." in words_of(page)
    assert "Weakest classes" not in words_of(page)
    assert "pairs-table" not in page.tables
    assert not [row for row in page.tables["measures-table"] if row[0].startswith("top")]  # of 1, which is the accuracy


def test_diverged_loss_is_said_in_words() -> None:
    metrics = metrics_lib.summarize(np.eye(2, dtype=int), 2, 1, float("nan"), ["a", "b"], split="t", fingerprint="0")
    assert "not a finite number; the training diverged" in words_of(render(metrics))


@pytest.mark.parametrize("count", [2, 60, 120])
def test_page_needs_no_network_and_runs_no_code(count: int) -> None:
    names = [HOSTILE, 'a" onload="x', *(f"name{i}" for i in range(count - 2))]
    page = render(
        evaluated.metrics(names),
        title=f"{HOSTILE}</title>",
        settings={"path<b>": "</td><img src=x>"},
        history=evaluated.history(),
        gallery=evaluated.gallery(names, [HOSTILE, "x.jpg' onerror='alert(1)"]),
    )
    loading = {"script", "link", "iframe", "object", "embed", "base", "video", "audio", "form", "svg"}
    assert not loading & {tag for tag, _ in page.tags}
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on") or name in ("srcset", "background")]
        assert (attrs.get("src") or "data:").startswith("data:"), tag
        assert (attrs.get("href") or "#").startswith("#"), tag
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
    template = pathlib.Path(report.__file__).parent.parent / "templates" / "report.html"
    assert not re.search(r"https?:|//[a-z]|@import|url\(", template.read_text())


def test_hostile_names_are_shown_as_text_in_page_and_picture() -> None:
    names = [
        HOSTILE,
        "$x^2$",
        "a&b",
        "\N{CJK UNIFIED IDEOGRAPH-8549}",
        "line\nbreak\x01",
        "\N{RIGHT-TO-LEFT OVERRIDE}gpj",
    ]
    page = render(make_metrics(names), title=HOSTILE, settings={"note": HOSTILE})
    assert HOSTILE in page.tables["class-table"][1]
    assert page.text.count(HOSTILE) >= 5  # title twice, table of classes, both sides of the confusion table, settings
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page.text
    texts = svg_texts(page.pictures()[0])
    assert texts.count("$x^2$") == texts.count("a&b") == texts.count("\N{CJK UNIFIED IDEOGRAPH-8549}") == 2
    assert texts.count("line\N{REPLACEMENT CHARACTER}break\N{REPLACEMENT CHARACTER}") == 2
    assert texts.count("\N{REPLACEMENT CHARACTER}gpj") == 2
    assert texts.count("<script>aler…1)</script>") == 2


def test_matrix_pictures_say_counts_and_shares_and_name_axes() -> None:
    metrics = make_metrics(["cat", "dog"])
    counts, shares = (svg_texts(picture) for picture in render(metrics).pictures())
    expected = [str(count) for row in metrics["confusion"] for count in row if count]
    assert sorted(text for text in counts if text.isdigit()) == sorted(expected)
    parts = [round(100 * count / sum(row)) for row in metrics["confusion"] for count in row if count]
    assert sorted(int(text) for text in shares if text.isdigit()) == sorted(parts)
    assert counts.count("cat") == counts.count("dog") == shares.count("cat") == 2


def test_many_classes_get_pairs_numbers_and_the_weakest() -> None:
    names = [f"species{i:04d}" for i in range(1000)]
    metrics = evaluated.metrics(names, examples=4000)
    text = report.render({"versions": {}, **metrics}, title="t", settings={})
    assert len(text) < 600_000
    page = Page(text)
    assert "confusion-table" not in page.tables
    _, *pairs = page.tables["pairs-table"]
    expected = metrics_lib.most_confused(metrics["confusion"], names, 30)
    assert [(row[0], row[1], int(row[2])) for row in pairs] == [pair[:3] for pair in expected]
    assert page.tables["class-table"][0][0] == "number"
    assert page.tables["class-table"][1000][:2] == ["999", "species0999"]
    lowest = sorted(metrics["per_class"][name]["recall"] for name in names if metrics["per_class"][name]["support"])[
        :30
    ]
    assert [row[3] for row in page.tables["weakest-table"][1:]] == list(map(page_lib.percent, lowest))
    assert not [text for text in svg_texts(page.pictures()[0]) if text.startswith("species")]
    assert any(text == "45 more classes" for text in svg_texts(page.pictures()[1]))  # 50 are drawn, 5 have a colour


def test_weakest_classes_stand_out_in_their_curves() -> None:
    names = [f"c{number}" for number in range(9)]
    metrics = evaluated.metrics(names)
    roc, pr = (svg_texts(picture) for picture in render(metrics).pictures()[2:4])
    for texts, key, short in ((roc, "roc_auc", "AUC"), (pr, "average_precision", "AP")):
        weakest = sorted(names, key=lambda name: metrics["per_class"][name][key])[:5]
        assert {f"{name}, {short} {metrics['per_class'][name][key]:.3f}" for name in weakest} < set(texts)
        assert "4 more classes" in texts


def test_a_name_that_matplotlib_would_hide_is_in_the_legend() -> None:
    metrics = evaluated.metrics(["_ant", "bee"])
    roc, pr = (svg_texts(picture) for picture in render(metrics).pictures()[2:4])
    for texts, key, short in ((roc, "roc_auc", "AUC"), (pr, "average_precision", "AP")):
        assert f"_ant, {short} {metrics['per_class']['_ant'][key]:.3f}" in {text.strip() for text in texts}


def test_curves_show_what_was_logged_and_only_that() -> None:
    history = [
        {"step": 10, "epoch": 0.5, "train_loss": 2.0, "learning_rate": 0.1},
        {"step": 20, "train_loss": float("nan"), "validation_loss": 1.5},
        {"step": 30, "train_loss": 1.0, "validation_loss": None},
    ]
    page = render(make_metrics(["a", "b"]), history=history)
    loss, rate = page.pictures()[2:]
    assert {"loss", "training", "validation", "step"} <= set(svg_texts(loss))
    assert "learning rate" in svg_texts(rate)
    assert page.tables["training-table"] == [
        ["step", "train loss", "validation loss", "learning rate"],
        ["10", "2", "-", "0.1"],
        ["20", "-", "1.5", "-"],
        ["30", "1", "-", "-"],
    ]
    for nothing in ({"step": 1, "epoch": 0.1}, {"step": 1, "train_loss": float("nan")}, {"train_loss": 1.0}):
        assert "training" not in render(make_metrics(["a", "b"]), history=[nothing]).sections()


def test_long_histories_are_thinned() -> None:
    noise = np.random.default_rng(0).uniform(1, 2, 20_000).tolist()  # which matplotlib can't simplify by itself
    rows = [{"step": number + 1, "train_loss": value} for number, value in enumerate(noise)]
    page = render(make_metrics(["a", "b"]), history=rows)
    assert len(page.tables["training-table"]) == 13
    assert page.tables["training-table"][-1][0] == "20,000"
    assert len(page.pictures()[2]) < 30_000


def test_nested_settings_become_dotted_names() -> None:
    settings = {
        "seed": 3,
        "config": {"crop": (0.1, 1.0), "phases": [{"epochs": 2}, {"epochs": 5, "lr": {"peak": 0.1}}]},
    }
    assert render(make_metrics(["a", "b"]), settings=settings).tables["settings-table"] == [
        ["seed", "3"],
        ["config.crop", "(0.1, 1.0)"],
        ["config.phases[0].epochs", "2"],
        ["config.phases[1].epochs", "5"],
        ["config.phases[1].lr.peak", "0.1"],
    ]


def test_step_and_dataset_are_shown_where_they_are_known() -> None:
    page = render({**make_metrics(["a", "b"]), "step": 1234, "dataset_fingerprint": "cd" * 32})
    assert f"test split after 1,234 training steps, fingerprint {'ab' * 6}" in words_of(page)
    assert ["fingerprint of the dataset", "cd" * 32] in page.tables["facts-table"]
    assert "training steps" not in render(make_metrics(["a", "b"])).text


def test_equal_input_gives_equal_bytes(everything: dict[str, Any]) -> None:
    metrics = {"versions": {}, **everything}
    pages = [report.render(metrics, title="t", settings={}, history=evaluated.history()) for _ in range(2)]
    assert pages[0] == pages[1]
