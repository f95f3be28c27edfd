"""The page of `python -m trainer serve`, as a person with a leaf, a camera, a keyboard or a phone meets it."""

from __future__ import annotations

import base64
import contextlib
import io
import pathlib
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser import checks
from tests.conftest import REPOSITORY
from tests.trainer.serving import leaves_run, tiny_export

pytestmark = pytest.mark.browser
START_S = 120
PHONE = {"width": checks.PHONE_PX, "height": 740}


@contextlib.contextmanager
def served(workdir: pathlib.Path) -> Iterator[str]:
    command = [sys.executable, "-m", "trainer", "serve", f"--workdir={workdir}", "--port=0"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as server:
        stop = threading.Timer(START_S, server.kill)
        stop.start()
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split()[-1].replace("127.0.0.1", "localhost")
        finally:
            stop.cancel()
            server.terminate()
            assert server.wait(60) == 0


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server that tells colours apart."""
    folder = tmp_path_factory.mktemp("colours")
    tiny_export.write(folder, 1)
    with served(folder) as found:
        yield found


def drop(page: Page, name: str, data: bytes) -> None:
    """As if a file were dragged from another window and let go over the page."""
    transfer = page.evaluate_handle(
        """([name, base64]) => {
          const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], name));
          return transfer;
        }""",
        [name, base64.b64encode(data).decode()],
    )
    page.dispatch_event("#drop", "dragover", {"dataTransfer": transfer})
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_leaf_that_is_dropped_is_recognised(
    page: Page, shared: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("leaves")
    workdir, photos = leaves_run.make(shared, folder)
    with served(workdir) as address:
        page.goto(address)
        for kind in ("healthy", "sigatoka"):
            photo = sorted((photos / kind).iterdir())[0]
            drop(page, photo.name, photo.read_bytes())
            expect(page.locator("#source")).to_have_text(photo.name)
            expect(page.locator("#top li").first).to_contain_text(kind)
            expect(page.locator("#best")).to_have_text(kind)
            page.screenshot(path=folder / f"{kind}.png", full_page=True)
        assert checks.faults(page) == []


def test_a_chosen_file_gives_the_top_three_with_bars_and_pictures(page: Page, address: str) -> None:
    page.goto(address)
    assert checks.faults(page) == []
    page.set_input_files("#file", {"name": "green.png", "mimeType": "image/png", "buffer": png((30, 200, 40))})
    expect(page.locator("#words")).to_have_text("This looks like green.")
    assert page.locator("#top li").count() == 3
    shares = page.locator("#top meter").evaluate_all("bars => bars.map((bar) => bar.value)")
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    expect(page.locator("#result")).to_be_focused()  # a screen reader goes on there
    assert page.locator("#overlay").evaluate("image => image.naturalWidth") == tiny_export.SIDE
    assert checks.faults(page) == []


def test_the_camera_takes_a_picture(page: Page, address: str) -> None:
    page.goto(address)
    page.click("#camera")
    expect(page.locator("#shoot")).to_be_focused()
    page.wait_for_function("document.getElementById('video').videoWidth > 0")
    page.keyboard.press("Enter")
    expect(page.locator("#source")).to_have_text("from the camera")
    expect(page.locator("#live")).to_be_hidden()
    assert page.locator("#top li").count() == 3


def test_everything_is_within_reach_of_the_keyboard_and_of_a_phone(page: Page, address: str) -> None:
    page.set_viewport_size(PHONE)
    page.goto(address)
    drop(page, "blue.png", png((10, 20, 230)))
    expect(page.locator("#words")).to_have_text("This looks like blue.")
    assert checks.faults(page) == []
    assert checks.keyboard(page) == []


def test_a_hostile_name_is_text_and_a_bad_file_is_explained(page: Page, address: str, complaints: list[str]) -> None:
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>.png"
    page.on("dialog", lambda dialog: pytest.fail(f"the name ran: {dialog.message}"))
    page.goto(address)
    drop(page, hostile, png((230, 10, 10)))
    expect(page.locator("#source")).to_have_text(hostile)
    assert page.locator("#source *").count() == 0
    drop(page, "letter.txt", b"Dear Sir or Madam")
    expect(page.locator("#problem")).to_contain_text("not_an_image")
    expect(page.locator("#result")).to_be_hidden()
    assert [complaint for complaint in complaints if "400 (Bad Request)" not in complaint] == []
    complaints.clear()
