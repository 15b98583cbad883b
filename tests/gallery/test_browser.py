"""The page in a real browser, opened as a file: the slider is dragged, touched and moved by keys; nothing else runs.

Wants `pip install playwright` and any Chromium (Debian's, or `playwright install chromium`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.slow

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOSTILE = '"><img src=x onerror=alert(1)>.png'
RED, GREEN = (255, 0, 0), (0, 255, 0)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    with playwright.sync_playwright() as driver:
        try:
            # The sandbox of Chromium does not start for root.
            running = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        yield running
        running.close()


@pytest.fixture
def report(tmp_path: Path, photo: np.ndarray) -> Path:
    """A page of a red input whose output is green, one with a hostile name, and one that failed."""
    from strsr_cli.batch.job import Job
    from strsr_cli.gallery.details import make_detail
    from strsr_cli.gallery.entries import Entries, Entry
    from strsr_cli.gallery.page import Run, render

    entries, jobs = Entries(), {}
    for name in ("a.png", HOSTILE.replace("/", "")):
        source, target = tmp_path / name, tmp_path / f"x4 {name}"
        Image.new("RGB", (160, 120), RED).save(source)
        Image.new("RGB", (640, 480), GREEN).save(target)
        entry = Entry(str(source), str(target), (160, 120), (640, 480), "done", seconds=1.0)
        entry.detail = make_detail(source, target, None)
        entries.items[entry.source], jobs[entry.source] = entry, Job(source, target, "png")
    entries.items["b"] = Entry("b.png", "", state="failed", reason=HOSTILE)
    page = tmp_path / "report.html"
    page.write_bytes(render(entries, Run([("--scale", "4.0", True)]), page, jobs))
    return page


Open = Callable[..., Any]


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Open]:
    """Open the page in a window of that width; at the end there must have been no message, dialog or request."""
    seen: list[str] = []
    contexts = []

    def open_page(width: int, **settings: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **settings))
        page = contexts[-1].new_page()
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("dialog", lambda dialog: (seen.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: seen.append(request.url.split(",")[0]))
        page.goto(report.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in seen if not line.startswith(("data:image/", report.as_uri()))] == []


def share_of_red(page: Any, number: int = 0) -> float:
    """How much of a slider, seen as a picture, is as it was before."""
    data = page.locator(".stage").nth(number).screenshot()
    with Image.open(BytesIO(data)) as image:
        rows = np.asarray(image.convert("RGB")).astype(int)[20:40]
    return float((rows[..., 0] > rows[..., 1] + 100).mean())


@pytest.mark.parametrize("width", [1200, 390])
def test_a_slider_follows_the_mouse(opened: Open, width: int) -> None:
    page = opened(width)
    assert share_of_red(page) == pytest.approx(0.5, abs=0.03)
    box = page.locator(".stage").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 220, steps=4)
    assert share_of_red(page) == pytest.approx(0.8, abs=0.03)
    page.mouse.move(box["x"] - 50, box["y"] + 220, steps=4)
    page.mouse.up()
    assert share_of_red(page) == pytest.approx(0, abs=0.03)
    # Once it is let go, it stays.
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 220)
    assert share_of_red(page) == pytest.approx(0, abs=0.03)
    assert share_of_red(page, 1) == pytest.approx(0.5, abs=0.03)


def test_a_slider_follows_a_finger_and_keys(opened: Open) -> None:
    page = opened(390, has_touch=True, is_mobile=True, device_scale_factor=2)
    box = page.locator(".stage").first.bounding_box()
    page.touchscreen.tap(box["x"] + 0.25 * box["width"], box["y"] + 100)
    assert share_of_red(page) == pytest.approx(0.25, abs=0.03)
    page.locator(".stage input").first.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert share_of_red(page) == pytest.approx(0.35, abs=0.03)


@pytest.mark.parametrize("width", [1200, 390])
def test_a_page_fits_its_window(opened: Open, width: int) -> None:
    page = opened(width, is_mobile=width < 600)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    stage = page.locator(".stage").first.bounding_box()
    # A pixel of the output is a pixel of the page.
    image = page.locator(".stage .after img").first.bounding_box()
    assert (image["width"], image["height"], stage["height"]) == (560, 420, 420)
    assert stage["width"] <= width - 32


def test_the_three_ways_of_before_are_named_and_shown(opened: Open) -> None:
    page = opened(1200)
    for choice, label, image in (
        ("bicubic", "input, by bicubic", ".bicubic"),
        ("squares", "input, as squares", ".input"),
        ("this browser", "input, by this browser", ".input"),
    ):
        page.get_by_text(choice, exact=True).click()
        assert page.locator(".stage .left").first.inner_text() == label
        shown = [
            name
            for name in (".bicubic", ".input")
            if page.locator(f".stage .before {name}").first.is_visible()
        ]
        assert shown == [image]
    assert (
        page.locator(".stage .before .input").first.evaluate("e => getComputedStyle(e).imageRendering")
        == "auto"
    )
    own = page.locator("img.own").first
    assert own.evaluate("e => [e.naturalWidth, e.width, e.complete]") == [140, 140, True]


def test_hostile_names_are_shown_as_they_are(opened: Open) -> None:
    page = opened(1200)
    assert page.get_by_text(HOSTILE.replace("/", "")).count() >= 2
    assert page.locator("img[src=x]").count() == 0
    assert page.locator(".card").count() == 2
