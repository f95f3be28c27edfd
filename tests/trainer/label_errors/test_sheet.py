"""The page on which a person corrects labels: names can't be markup, and only its own script may run."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

from pipeline.records import Record
from trainer.label_errors import sheet
from trainer.label_errors.scores import Suggestions

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>.png'
CLASSES = ("ant", 'b"e<e>, "quoted"', "</script><b>")


class Page(html.parser.HTMLParser):
    """Elements with their attributes, and the text of scripts, as a browser's parser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script" and data.strip():
            self.scripts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def photo() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full([40, 60, 3], 90, np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def rendered() -> str:
    records = [Record(photo(), 0, "0" * 64, HOSTILE, ""), Record(b"damaged", 2, "1" * 64, "ant/2.png", "")]
    suggestions = Suggestions(np.array([9, 9, 2, 1], np.int32), np.array([0, 0, 0.25, 1]))
    return sheet.render(
        sheet.tiles(records, [2, 3], suggestions, CLASSES),
        classes=CLASSES,
        title=f"tiny {HOSTILE}",
        words="by hand",
        examples=4,
        disagreements=1,
    )


def test_names_are_text_and_nothing_but_the_page_s_own_script_may_run(rendered: str) -> None:
    page = Page(rendered)
    assert page.scripts == [sheet.SCRIPT]
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    (policy,) = [one["content"] for one in page.of("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}';" in policy
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert len(page.of("img")) == 1
    assert not re.findall(r'(?:src|href)="(?!data:|#)', rendered)


def test_a_card_has_truth_suggestion_and_a_picture_where_one_can_be_made(rendered: str) -> None:
    page = Page(rendered)
    assert [(one["data-id"], one["data-label"]) for one in page.of("li")] == [("0" * 64, "ant"), ("1" * 64, CLASSES[2])]
    fields = [one for one in page.of("input") if one["type"] == "text"]
    assert [one["value"] for one in fields] == [CLASSES[2], CLASSES[1]]
    assert [one["value"] for one in page.of("option")] == [*CLASSES, "remove"]
    assert page.of("img")[0]["src"].startswith("data:image/jpeg;base64,")
    assert "no picture could be made" in rendered
    assert "25.00\N{NO-BREAK SPACE}% sure" in rendered
