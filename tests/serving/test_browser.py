"""The served page in a real browser: pictures are chosen, followed, compared, downloaded and removed.

Wants `pip install playwright` and any Chromium (Debian's, or `playwright install chromium`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ..gallery.test_browser import browser as browser  # noqa: PLC0414  (a fixture)
from ..gallery.test_browser import playwright
from .server import Served, serving

pytest.importorskip("starlette")
pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=alert(1)>.png"
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served"), "--device", "cpu", "--max-upload", 1) as server:
        yield server


@pytest.fixture
def opened(browser: Any, served: Served) -> Iterator[Open]:
    """Open the page in a window of that width; at the end there must have been no error and no other address."""
    seen: list[str] = []
    contexts = []
    address = f"http://localhost:{served.port}/"

    def open_page(width: int, **settings: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **settings))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("dialog", lambda dialog: (seen.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: seen.append(request.url.split(",")[0]))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in seen if not line.startswith(("data:image/", address))] == []


@pytest.fixture
def pictures(tmp_path: Path, photo: np.ndarray) -> list[Path]:
    """A photo, one with a hostile name, and a file that is no picture."""
    paths = [tmp_path / "cat.png", tmp_path / HOSTILE, tmp_path / "notes.png"]
    for path in paths[:2]:
        Image.fromarray(photo).save(path)
    paths[2].write_text("no picture")
    return paths


@pytest.mark.parametrize("width", [1200, 390])
def test_pictures_are_sent_compared_and_downloaded(
    width: int, opened: Open, pictures: list[Path], tmp_path: Path
) -> None:
    page = opened(width, is_mobile=width < 600)
    page.locator("label:has([value='2'])").click()
    page.set_input_files("#files", pictures)
    playwright.expect(page.locator(".item.done")).to_have_count(2, timeout=120_000)
    playwright.expect(page.locator(".item.failed .state")).to_contain_text("not a PNG, JPEG", timeout=60_000)
    assert page.locator("img[src=x]").count() == 0
    assert page.locator(".item h3").filter(has_text=HOSTILE).count() >= 1
    assert page.evaluate("document.documentElement.scrollWidth") == width
    item = page.locator(".item.done").filter(has_text="cat.png")
    with page.expect_download() as download:
        item.get_by_text("Download cat_x2.png").click()
    download.value.save_as(tmp_path / "saved.png")
    with Image.open(tmp_path / "saved.png") as image:
        assert image.size == (320, 240)
    stage = item.locator(".stage")
    box = stage.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 100, steps=4)
    page.mouse.up()
    share = stage.evaluate("e => parseFloat(e.style.getPropertyValue('--x'))")
    assert share == pytest.approx(20, abs=2)


def test_progress_is_shown_and_a_picture_can_be_taken_back(
    opened: Open, pictures: list[Path], tmp_path: Path
) -> None:
    page = opened(1200)
    noise = np.random.default_rng(0).integers(0, 256, (330, 330, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    page.locator("label:has([value='8'])").click()
    page.set_input_files("#files", [tmp_path / "noise.png"])
    first = page.locator(".item")
    playwright.expect(first.locator(".state")).to_contain_text("Tile ", timeout=120_000)
    page.set_input_files("#files", pictures[:1])
    second = page.locator(".item").filter(has_text="cat.png")
    playwright.expect(second.locator(".state")).to_contain_text(
        "Waits; 1 picture comes before", timeout=60_000
    )
    page.locator(".item").filter(has_text="noise.png").get_by_text("Cancel").click()
    playwright.expect(second).to_have_class("item done", timeout=120_000)
    assert page.locator(".item").count() == 1
    second.get_by_text("Remove").click()
    assert not page.locator("#results").is_visible()


def test_a_picture_of_too_many_bytes_is_told_at_once(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(b"\0" * 1_100_000)
    page = opened(1200)
    page.set_input_files("#files", [tmp_path / "large.png"])
    playwright.expect(page.locator(".failed .state")).to_have_text("This picture has more than 1 MB.")


def test_another_page_can_neither_send_nor_read(browser: Any, served: Served, tmp_path: Path) -> None:
    page = browser.new_context().new_page()
    # A page of another origin, which a browser names null.
    (tmp_path / "evil.html").write_text("<p>evil</p>")
    page.goto((tmp_path / "evil.html").as_uri())
    send = """async (address) => {
        const form = new FormData();
        form.append("image", new Blob(["x"]), "a.png");
        const answer = await fetch(address, {method: "POST", body: form, mode: "no-cors"}).catch(() => "refused");
        return answer === "refused" ? answer : answer.type;
    }"""
    assert page.evaluate(send, f"http://localhost:{served.port}/tasks") in ("opaque", "refused")
    assert not list(served.temporary.glob("*/*/input"))
    read = "(address) => fetch(address).then(() => 'read', () => 'refused')"
    assert page.evaluate(read, f"http://localhost:{served.port}/") == "refused"
