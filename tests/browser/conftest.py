"""A real Chromium without a screen, and a page of it that ends in an error where anything went wrong on it."""

from __future__ import annotations

import os
import shutil
import urllib.parse
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Route, sync_playwright

DESKTOP = {"width": 1280, "height": 800}
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--use-fake-device-for-media-stream",  # a camera that shows a moving picture
    "--use-fake-ui-for-media-stream",  # and a person who lets the page use it
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = next(filter(None, map(shutil.which, _NAMES)), None)
    if not executable:
        pytest.skip("needs Chromium: apt-get install chromium")
    # Chromium's own sandbox refuses to start as root.
    sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=executable, args=[*_ARGUMENTS, *sandbox])
        yield chromium
        chromium.close()


@pytest.fixture
def complaints() -> list[str]:
    """What went wrong on `page` until now; a test that means to provoke something checks it and clears the list."""
    return []


@pytest.fixture
def page(browser: Browser, complaints: list[str]) -> Iterator[Page]:
    """An empty page of 1280x800 that reaches files and this machine only.

    At the end of the test there may be no complaint: an error or a warning on its console, an exception nobody caught,
    a request that failed or that would have left this machine.
    """
    context = browser.new_context(viewport=DESKTOP)
    context.route("**/*", lambda route: _let_stay(route, complaints))
    page = context.new_page()
    page.on("console", lambda message: complaints.extend(_said(message)))
    page.on("pageerror", lambda error: complaints.append(f"exception: {error}"))
    page.on("requestfailed", lambda request: complaints.append(_failed(request)))
    yield page
    context.close()
    assert not complaints


def _let_stay(route: Route, complaints: list[str]) -> None:
    address = urllib.parse.urlsplit(route.request.url)
    if address.scheme in ("file", "data", "blob") or address.hostname in ("127.0.0.1", "localhost", "::1"):
        route.continue_()
    else:
        complaints.append(f"left the page: {route.request.url}")
        route.abort()


def _said(message: ConsoleMessage) -> list[str]:
    return [f"console {message.type}: {message.text}"] if message.type in ("error", "warning") else []


def _failed(request: Request) -> str:
    return f"request failed: {request.url[:200]} ({request.failure})"
