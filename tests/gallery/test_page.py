from __future__ import annotations

import base64
import hashlib
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from strsr_cli.batch.job import Job
from strsr_cli.gallery.entries import MOST_COMPARED, MOST_FLAGGED, Detail, Entries, Entry
from strsr_cli.gallery.page import MOST_FAILURES, MOST_ROWS, Run, link, render

HOSTILE = (
    "<script>alert(1)</script>.png",
    '"><img src=x onerror=alert(1)>.png',
    "' onmouseover='alert(1).png",
    "javascript:alert(1).png",
    "</style></script><h1>.png",
    "{{ 7*7 }}.png",
    "\u202egnp.exe",
    "\udcff\udcfe.png",
)


def detail(data: str = "AAAA") -> Detail:
    uri = f"data:image/jpeg;base64,{data}"
    whole = f"data:image/jpeg;base64,{data[:50_000]}"
    return Detail((560, 420), (140, 105), (0, 0, 1, 1), uri, uri, uri, whole)


def page(entries: list[Entry], run: Run | None = None) -> str:
    jobs = {entry.source: Job(Path(entry.source), Path(entry.target), "png") for entry in entries}
    run = run or Run([("--scale", "4.0", False)])
    made = Entries({entry.source: entry for entry in entries})
    return render(made, run, Path("out/report.html"), jobs).decode()


class Tags(HTMLParser):
    """All elements of a page, with their attributes, and all its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_names_and_reasons_are_text_and_nothing_else() -> None:
    size = (10, 10)
    calm = [Entry(f"in/{n}.png", f"out/{n}.png", size, size, "done", detail=detail()) for n in range(8)]
    hostile = [Entry(f"in/{name}", f"out/{name}", size, size, "done", detail=detail()) for name in HOSTILE]
    hostile += [Entry("in/x", "out/x", state="failed", reason=name) for name in HOSTILE[:1]]
    seen = Tags(page(hostile, Run([("--prompt", HOSTILE[1], True)], ended=HOSTILE[0])))
    plain = Tags(
        page([*calm, Entry("in/x", "out/x", state="failed", reason="r")], Run([("--prompt", "p", True)], "e"))
    )
    assert [tag for tag, _ in seen.elements] == [tag for tag, _ in plain.elements]
    assert not any(name.startswith("on") for _, attributes in seen.elements for name in attributes)
    assert "{{ 7*7 }}.png" in seen.text
    assert "\u202e" not in seen.text
    links = [a["href"] or "" for tag, a in seen.elements if tag == "a"]
    assert not any(re.match(r"[a-z]+:", address, re.IGNORECASE) for address in links)


def test_links_lead_from_the_page_to_the_files(tmp_path: Path) -> None:
    page = tmp_path / "reports" / "today.html"
    assert link(tmp_path / "out" / "a b#1?.png", page) == "../out/a%20b%231%3F.png"
    assert link(Path(os.fsdecode(os.fsencode(tmp_path) + b"/reports/\xff.png")), page) == "%FF.png"
    assert link(None, page) == ""


def test_the_page_needs_no_other_file_and_runs_one_script() -> None:
    text = page([Entry("in/a.png", "out/a.png", (1, 1), (4, 4), "done", detail=detail())])
    seen = Tags(text)
    outside = [
        value
        for tag, attributes in seen.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset") and tag != "a" and not (value or "").startswith("data:image/")
    ]
    assert outside == []
    assert "url(" not in text
    assert "@import" not in text
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text


def test_a_page_of_ten_thousand_pictures_is_bounded() -> None:
    largest = "A" * 214_000
    long = "x" * 5000
    entries = [Entry(f"in/{n}{long}.png", f"out/{n}.png", (9, 9), (36, 36), "done") for n in range(9000)]
    entries += [Entry(f"in/{n}.png", "", state="failed", reason=long) for n in range(9000, 10_000)]
    for entry in entries[: MOST_COMPARED + MOST_FLAGGED]:
        entry.detail = detail(largest)
    text = page(entries)
    assert len(text) < 45e6
    assert len(text.replace(largest, "").replace(largest[:50_000], "")) < 2e6
    assert text.count("<tr class=") == MOST_ROWS
    assert text.count("<dt>") < MOST_FAILURES + 10 * (MOST_COMPARED + MOST_FLAGGED)
    words = " ".join(Tags(text).text.split())
    assert "The first 2,000 are listed, failures before others; 8,000 are left out" in words
    assert "500 more failed and are not listed here" in words
    assert "60 of 9,000 pictures, spread over the list" in words


@pytest.mark.parametrize("state", ["done", "skipped", "failed", "left", "planned"])
def test_every_state_has_its_row(state: str) -> None:
    seen = Tags(page([Entry("in/a.png", "out/a.png", (1, 1), (4, 4), state, reason="because")]))
    assert ("tr", {"class": state}) in seen.elements
    assert "because" in seen.text
