"""Pages with a fault each: what the checks are for must be found, and a sound page pass."""

from __future__ import annotations

import base64

import pytest
from playwright.sync_api import Page

from tests.browser import checks

pytestmark = pytest.mark.browser

SOUND = "<!doctype html><html lang=en><title>t</title><main><h1>Heading</h1><p>Text</p>{}</main>"
WIDE = "<div style='width: 2000px; height: 10px'></div>"
SCROLL = "<div style='overflow-x: auto' {}>" + WIDE + "</div>"
SVG = """<svg xmlns="http://www.w3.org/2000/svg" width="200" height="40"><rect width="100" height="40" fill="#222"/>
<text x="5" y="25" fill="{}">left</text><text x="105" y="25" fill="#000">right</text></svg>"""


def svg(ink: str) -> str:
    return f"<img alt=words src='data:image/svg+xml;base64,{base64.b64encode(SVG.format(ink).encode()).decode()}'>"


def test_nothing_is_found_on_a_sound_page(page: Page) -> None:
    named = SCROLL.format("tabindex=0 role=region aria-label=Wide")
    page.set_content(SOUND.format(f"<h2>More</h2><a href='#x' id=x>Link</a>{named}{svg('#fff')}"))
    assert checks.faults(page) == checks.keyboard(page) == checks.keyboard(page) == []


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("<img src=data:image/png;base64,AAAA alt=words>", 'did not load: <img> "words"'),
        (svg("#fff").replace("alt=words", "alt=''"), "no alternative in words"),
        ("<h3>Deep</h3>", 'level skipped before <h3> "Deep"'),
        ("<h1>Again</h1>", "not exactly one h1"),
        ("<button></button>", "no name: <button>"),
        ("<a href='#gone'>Link</a>", 'leads nowhere: <a> "Link" #gone'),
        ("<table><tr><td>1</table>", "table without header cells"),
        # By WebAIM's checker #777 on white has 4.48, #767676 has 4.54.
        ("<p style='color: #777'>Grey</p><p style='color: #767676'>Less</p>", 'contrast 4.48 of "Grey" in <p> "Grey"'),
        # Half of black on white is #808080, or #7f7f7f: 3.95, or 4.00.
        ("<p style='opacity: .5'>Half</p>", 'of "Half"'),
        ("<p style='background: #000'><b style='color: #000'>Dark</b></p>", 'contrast 1.00 of "Dark"'),
        (svg("#333"), 'of "left" in the picture'),
        (WIDE, "2008 px wide in a window of 1280"),
        (SCROLL.format(""), "scrolls, but is no named region"),
    ],
)
def test_a_fault_is_found(page: Page, complaints: list[str], body: str, line: str) -> None:
    page.set_content(SOUND.format(body))
    found = checks.faults(page)
    assert len(found) == 1
    assert line in found[0]
    complaints.clear()


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("<a href='#x' style='outline: 0'>Link</a>", 'the focus is not seen on <a> "Link"'),
        ("<button tabindex=1>Later</button>", "Tab goes to"),
    ],
)
def test_a_fault_of_the_keyboard_is_found(page: Page, body: str, line: str) -> None:
    page.set_content(SOUND.format(f"<a href='#y'>First</a>{body}"))
    assert any(line in found for found in checks.keyboard(page))


def test_what_paper_would_cut_is_found(page: Page) -> None:
    page.set_content(SOUND.format(SCROLL.format("") + "<table><tr><th scope=row>1</table>"))
    cut, torn = checks.prints(page)[:2]
    assert "cut off on paper: <div>" in cut
    assert "may be torn apart between two sheets: <tr>" in torn
    assert page.viewport_size == {"width": 1280, "height": 800}


def test_errors_and_requests_are_complained_of(page: Page, complaints: list[str]) -> None:
    page.set_content(
        SOUND.format("<img alt=x src='http://shardline.invalid/a.png'><script>throw Error('mine')</script>")
    )
    page.wait_for_load_state("networkidle")
    assert [line for line in complaints if line == "left the page: http://shardline.invalid/a.png"]
    assert [line for line in complaints if line.startswith("exception:") and "mine" in line]
    complaints.clear()
