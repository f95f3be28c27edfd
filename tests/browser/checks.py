"""A page that is open in a browser in; what its readers would stumble over out, each as one line of text.

Every function gives a list that should be empty. What is hidden or folded away is not looked at: open it first.
"""

from __future__ import annotations

import pathlib
import re

from playwright.sync_api import Page

PHONE_PX = 360  # the narrowest screen in common use
CONTRAST = (
    4.5  # WCAG 2.1, success criterion 1.4.3, for text of any size: https://www.w3.org/TR/WCAG21/#contrast-minimum
)

_SCRIPT = pathlib.Path(__file__).with_name("checks.js")
_A4_PX = 688  # of 210 mm between margins of 14 mm, at 96 to an inch
_MOST_TABS = 400


def faults(page: Page) -> list[str]:
    """All of the below that looks at the page as it is, without the keyboard and without print."""
    return [
        *pictures(page),
        *headings(page),
        *names(page),
        *contrasts(page),
        *contrasts_in_pictures(page),
        *overflow(page),
        *scroll_regions(page),
    ]


def pictures(page: Page) -> list[str]:
    """Images that did not load, and pictures without an alternative in words."""
    return _run(page, "pictures()")


def headings(page: Page) -> list[str]:
    """More or less than one first heading, and levels that are skipped."""
    return _run(page, "headings()")


def names(page: Page) -> list[str]:
    """Controls and regions without a name, tables without header cells, a page without language or title."""
    return _run(page, "names()")


def contrasts(page: Page) -> list[str]:
    """Text whose colour is too close to what is behind it; WCAG's formula, translucent layers blended."""
    return _run(page, f"contrasts({CONTRAST})")


def contrasts_in_pictures(page: Page) -> list[str]:
    """The same for the text of SVG pictures, whose background is read from the picture drawn without its text."""
    return _run(page, f"contrastsInPictures({CONTRAST})")


def overflow(page: Page) -> list[str]:
    """What makes the page wider than the window, so that it has to be pushed sideways."""
    return _run(page, "overflow()")


def scroll_regions(page: Page) -> list[str]:
    """What scrolls sideways but cannot be reached with Tab, where the arrow keys would move it."""
    return _run(page, "scrollRegions()")


def keyboard(page: Page) -> list[str]:
    """Goes through the page with Tab: what is not reached, what is reached out of order, where the focus isn't seen."""
    expected: list[str] = page.evaluate(_call("focusable()"))
    page.evaluate(_call("toTheStart()"))
    found, reached = [], []
    for _ in range(min(len(expected), _MOST_TABS)):
        page.keyboard.press("Tab")
        name, seen = page.evaluate(_call("focused()"))
        reached.append(name)
        if not seen:
            found.append(f"the focus is not seen on {name}")
    if reached != expected[:_MOST_TABS]:
        found.append(f"Tab goes to {reached}, expected {expected}")
    return found


def prints(page: Page) -> list[str]:
    """On A4: what the paper would cut off on its right, and rows, pictures and captions that could be torn apart."""
    size = page.viewport_size
    page.emulate_media(media="print")
    page.set_viewport_size({"width": _A4_PX, "height": 1000})
    found = [*overflow(page), *_run(page, "cut()"), *_run(page, "torn()"), *contrasts(page)]
    page.emulate_media(media="null")  # as it was: a PDF is of paper again, the window of a screen
    if size:
        page.set_viewport_size(size)
    return found


def pdf_pages(page: Page) -> int:
    """How many sheets of A4 the page takes."""
    return len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4", print_background=False)))


def _run(page: Page, call: str) -> list[str]:
    lines: list[str] = page.evaluate(_call(call))
    return lines


def _call(call: str) -> str:
    return f"async () => {{ {_SCRIPT.read_text()}\n return await {call}; }}"
