"""The report of a dataset in a real browser, as that of an evaluation in test_report_page.py."""

from __future__ import annotations

import pathlib

import pytest
from playwright.sync_api import Page

from tests.browser import checks

pytestmark = pytest.mark.browser


def test_everybody_can_read_it(digits: str, page: Page) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    address = (pathlib.Path(digits) / "report.html").as_uri()
    page.goto(address)
    assert [url for url in requests if not url.startswith("data:")] == [address]
    assert page.locator("img").count() > 10
    assert checks.faults(page) == checks.keyboard(page) == checks.prints(page) == []
    page.emulate_media(color_scheme="dark")
    assert checks.faults(page) == []
    page.set_viewport_size({"width": checks.PHONE_PX, "height": 740})
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true })")
    assert checks.faults(page) == checks.keyboard(page) == []
