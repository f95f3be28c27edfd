"""The page of suspicious labels in a real browser: a person ticks, writes, and takes home what preparation reads."""

from __future__ import annotations

import io
import pathlib

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from pipeline.records import Record
from tests.browser import checks
from trainer.label_errors import sheet
from trainer.label_errors.scores import Suggestions

pytestmark = pytest.mark.browser

HOSTILE = '"><script>document.title = "run"</script><img src=x onerror="document.title = 1">.png'
CLASSES = ("ant", "bee, the honey one", HOSTILE)


def write(folder: pathlib.Path, count: int = 12) -> str:
    """The page with so many examples of class ant, which is suggested to be the second class; and its address."""
    records = []
    for number in range(count):
        stream = io.BytesIO()
        Image.fromarray(np.full([60, 80, 3], 9 * number, np.uint8)).save(stream, "JPEG")
        records.append(Record(stream.getvalue(), 0, f"{number:064d}", f"ant/{HOSTILE}{number}", ""))
    suggestions = Suggestions(np.full(count, 1, np.int32), np.full(count, 0.75))
    text = sheet.render(
        sheet.tiles(records, range(count), suggestions, CLASSES),
        classes=CLASSES,
        title="Animals",
        words="by hand",
        examples=100,
        disagreements=9,
    )
    (folder / "label_errors.html").write_text(text)
    return (folder / "label_errors.html").as_uri()


@pytest.mark.parametrize("width_px", [1280, checks.PHONE_PX])
def test_everybody_can_read_and_reach_everything(tmp_path: pathlib.Path, page: Page, width_px: int) -> None:
    page.set_viewport_size({"width": width_px, "height": 740})
    page.goto(write(tmp_path))
    assert checks.keyboard(page) == []
    page.locator("img").last.scroll_into_view_if_needed()  # they load lazily
    assert checks.faults(page) == []
    assert page.title() == "Animals"


def test_what_is_ticked_becomes_a_corrections_file(tmp_path: pathlib.Path, page: Page) -> None:
    page.goto(write(tmp_path))
    assert page.locator("#csv").input_value() == "id,label\n"
    cards = page.locator("li[data-id]")
    cards.nth(1).get_by_role("checkbox").check()
    cards.nth(3).get_by_role("combobox").fill("remove")  # which ticks it
    cards.nth(4).get_by_role("combobox").fill("no class")
    cards.nth(5).get_by_role("combobox").fill("ant")  # the label it has
    cards.nth(6).get_by_role("checkbox").check()
    cards.nth(6).get_by_role("checkbox").uncheck()
    expected = f'id,label\n{1:064d},"bee, the honey one"\n{3:064d},remove\n'
    assert page.locator("#csv").input_value() == expected
    assert page.locator("#count").text_content() == "2"
    assert "1 ticked with a label that is no class" in (page.locator("#unknown").text_content() or "")
    with page.expect_download() as download:
        page.get_by_role("link", name="Save corrections.csv").click()
    assert download.value.suggested_filename == "corrections.csv"
    assert pathlib.Path(download.value.path()).read_text() == expected
