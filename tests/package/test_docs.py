"""The documentation: every link leads somewhere, every path exists, and the house has a line for every file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARCHITECTURE = ROOT / "docs" / "developing" / "architecture.md"
PLACES = ("*.md", "docs/**/*.md", "examples/**/*.md", "models/**/*.md", "scripts/**/*.md", "tests/**/*.md")
PACKAGES = ("strsr", "strsr_cli", "models/strsr_models")
FENCE = re.compile(r"^ *(```|~~~).*?^ *\1", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^()\s]+)\)")
PATH = re.compile(r"\b(?:strsr_cli|models|tests|scripts|examples|docs)/[\w./-]*\w/?")


def pages() -> list[Path]:
    """All Markdown files of the repository."""
    return sorted(path for place in PLACES for path in ROOT.glob(place))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    names: set[str] = set()
    for heading in re.findall(r"^#+ +(.*?) *#*$", prose(page), re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        same = sum(1 for name in names if re.fullmatch(re.escape(anchor) + r"(-\d+)?", name))
        names.add(f"{anchor}-{same}" if same else anchor)
    return names


def broken_links(page: Path) -> list[str]:
    """Relative links and images of a page that lead to no file, or to no heading of one."""
    broken = []
    for link in LINK.findall(prose(page)):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if "://" in link or link.startswith("mailto:"):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def files_of_the_tree() -> set[str]:
    """The files that the blocks of the architecture page name, by their indentation."""
    files, folders = set(), [""]
    for block in FENCE.finditer(ARCHITECTURE.read_text(encoding="utf-8")):
        lines = block.group().splitlines()[1:-1]
        if not any(lines[0].startswith(f"{package}/") for package in PACKAGES):
            continue
        for line in lines:
            depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
            folders[depth:] = [name]
            if not name.endswith("/"):
                files.add("".join(folders))
    return files


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_link_to_nothing_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Here, it's 1!\n[a](#here-its-1) [b](page.md#there) ![c](none.png) [d](https://x.org/y)\n"
    )
    assert broken_links(page) == ["page.md#there", "none.png"]


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs"])
def test_paths_that_pages_name_exist(name: str) -> None:
    below = [page for page in pages() if page.is_relative_to(ROOT / name)]
    named = {path for page in below for path in PATH.findall(page.read_text(encoding="utf-8"))}
    assert below
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


def test_tree_of_the_house_names_every_file() -> None:
    there = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    told = {name for name in files_of_the_tree() if not name.endswith("__init__.py")}
    assert sorted(told ^ there) == []


def test_map_of_the_documentation_names_every_page() -> None:
    linked = LINK.findall((ROOT / "docs" / "README.md").read_text(encoding="utf-8"))
    there = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").glob("*/*.md")}
    assert there <= set(linked)
