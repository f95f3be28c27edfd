"""The report of an evaluation in a real browser: on a desk, on a phone, by keyboard, on paper, with hostile names."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import pytest
from playwright.sync_api import Page

from tests.browser import checks
from tests.trainer import evaluated
from trainer import report

pytestmark = pytest.mark.browser

ANIMALS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FILES = tuple(f"holidays/2024/IMG_{number:04d} (copy of a long name).jpeg" for number in range(6))
PARSED = """(source) => {
  const picture = new DOMParser().parseFromString(atob(source.split(",")[1]), "image/svg+xml");
  return picture.querySelectorAll("script, foreignObject, a, parsererror").length;
}"""


def write(folder: pathlib.Path, classes: Sequence[str], *, files: Sequence[str] = FILES, title: str = "Animals") -> str:
    """A report with everything there is, and its address."""
    path = report.write_report(
        str(folder),
        evaluated.metrics(classes, examples=max(400, 4 * len(classes))),
        title=title,
        settings={name: name for name in (*classes[:20], "seed")},
        history=evaluated.history(),
        gallery=evaluated.gallery(classes, files),
    )
    return pathlib.Path(path).as_uri()


def unfold(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true })")


@pytest.mark.parametrize(
    "classes",
    [ANIMALS[:2], *(tuple(f"species {number:03d}" for number in range(count)) for count in (45, 200))],
    ids=len,
)
def test_everybody_can_read_it(tmp_path: pathlib.Path, page: Page, classes: Sequence[str]) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    address = write(tmp_path, classes)
    page.goto(address)
    assert [url for url in requests if not url.startswith("data:")] == [address]
    assert page.locator("img").count() >= 11 + 3 * len(FILES)
    assert checks.faults(page) == []
    assert checks.keyboard(page) == []
    unfold(page)
    assert checks.faults(page) == []
    page.set_viewport_size({"width": checks.PHONE_PX, "height": 740})
    assert checks.faults(page) == []
    assert checks.keyboard(page) == []


@pytest.mark.parametrize("classes", [ANIMALS, tuple(f"species {number:03d}" for number in range(200))], ids=len)
def test_paper_cuts_nothing_off(tmp_path: pathlib.Path, page: Page, classes: Sequence[str]) -> None:
    page.goto(write(tmp_path, classes))
    assert checks.prints(page) == []
    assert page.locator("#settings-table").is_hidden()
    page.emulate_media(media="print")
    assert page.locator("#settings-table").is_visible()  # paper can't be unfolded
    assert 3 <= checks.pdf_pages(page) <= 15


def test_arrow_keys_move_what_is_too_wide(tmp_path: pathlib.Path, page: Page) -> None:
    page.set_viewport_size({"width": checks.PHONE_PX, "height": 740})
    page.goto(write(tmp_path, ANIMALS))
    region = page.get_by_role("region", name="Pictures of the confusion matrix")
    region.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("(element) => element.scrollLeft > 0", arg=region.element_handle())


def test_hostile_names_run_nothing_and_are_shown(tmp_path: pathlib.Path, page: Page) -> None:
    page.add_init_script("window.alert = (text) => { throw new Error('alert: ' + text) }")
    address = write(tmp_path, evaluated.HOSTILE, files=evaluated.HOSTILE, title=evaluated.HOSTILE[4])
    page.goto(address)
    unfold(page)
    assert page.title() == evaluated.HOSTILE[4]
    assert page.locator("script, svg, iframe, img:not([src^='data:image/'])").count() == 0
    assert (
        page.evaluate(
            "[...document.querySelectorAll('*')].flatMap((e) => e.getAttributeNames()).filter((n) => /^on/.test(n))"
        )
        == []
    )
    assert page.locator("a:not([href^='#'])").count() == 0
    cells = page.locator("#class-table th[scope=row]").all_inner_texts()
    assert cells[:3] == list(evaluated.HOSTILE[:3])
    assert cells[5] == "\\u202egpj.exe"  # what turns the direction of text is shown, and turns nothing
    assert "{{ 7 * 7 }}" in cells[6]
    assert checks.faults(page) == []
    page.set_viewport_size({"width": checks.PHONE_PX, "height": 740})
    assert checks.faults(page) == []
    # Pictures are opened as documents of their own too, as whoever saves one does.
    pictures = page.eval_on_selector_all("img[src^='data:image/svg']", "(found) => found.map((image) => image.src)")
    assert len(pictures) == 11
    assert not any(page.evaluate(PARSED, source) for source in pictures)
