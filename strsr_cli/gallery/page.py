"""The page itself: pictures and their fates as one HTML file that needs no other, and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .. import __version__
from ..batch.job import Job, Source
from ..system.console import duration_text, size_text, visible
from .details import QUALITY
from .entries import Entries, Entry

if TYPE_CHECKING:
    from jinja2 import Environment

MARK = '<meta name="generator" content="strsr">'  # by which a page of ours is known
MOST_ROWS = 2000  # of the table of all pictures
MOST_FAILURES = 500  # that are named with their reasons
TIMES = "\u202f\u00d7\u202f"  # a multiplication sign between narrow spaces
LONGEST = 300  # letters of a name or a reason
HERE = Path(__file__).parent
# The order of states in the table: what a person should look at comes first.
STATES = ("failed", "planned", "done", "skipped", "left")
WORDS = {"planned": "not reached", "left": "left to others"}


@dataclass
class Run:
    """What the page says of a run as a whole. settings: name, value, whether it was given. ended: why too early."""

    settings: list[tuple[str, str, bool]]
    ended: str = ""
    date: datetime = field(default_factory=lambda: datetime.now().astimezone())
    began: float = field(default_factory=time.monotonic)


def render(entries: Entries, run: Run, path: Path, jobs: dict[str, Job]) -> bytes:
    """Return the page as UTF-8. path: where it will lie, to which links to files are relative."""
    from markupsafe import Markup

    script = (HERE / "page.js").read_text(encoding="utf-8")
    everything = list(entries.items.values())
    rows = sorted(everything, key=lambda entry: STATES.index(entry.state))
    failures = [entry for entry in rows if entry.state == "failed"]
    compared = [entry for entry in everything if entry.detail is not None]
    folder, to_folder = (
        common_folder([getattr(entry, end) for entry in everything]) for end in ("source", "target")
    )
    template = templates(HERE).get_template("page.html")
    text = template.render(
        mark=Markup(MARK),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=hash_of(script),
        version=__version__,
        date=run.date.strftime("%-d %B %Y, %H:%M" if os.name != "nt" else "%d %B %Y, %H:%M"),
        ended=shortened(run.ended),
        folder=shortened(folder),
        to_folder=shortened(to_folder),
        tiles=tiles(entries, run),
        unreached=entries.counts()["unreached"],
        compared=[card(entry, folder, path, jobs) for entry in compared],
        comparable=sum(entry.state in ("done", "skipped") for entry in everything),
        uncompared=[
            {"name": name_of(entry, folder), "reason": shortened(entry.remark)}
            for entry in everything
            if entry.remark
        ],
        failures=[row(entry, folder) for entry in failures[:MOST_FAILURES]],
        failed=len(failures),
        rows=[row(entry, folder) for entry in rows[:MOST_ROWS]],
        count=len(rows),
        settings=[(name, shortened(value), given) for name, value, given in run.settings],
        quality=QUALITY,
    )
    return text.encode("utf-8", "backslashreplace")


def templates(*folders: Path) -> Environment:
    """Return the templates of these folders, in which all texts are escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folders, encoding="utf-8"),
        # Names of files are anybody's.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def hash_of(script: str) -> str:
    """Return the hash by which a page's policy allows a script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def tiles(entries: Entries, run: Run) -> list[tuple[str, str, str]]:
    """Return the figures at the top of the page: number, what it counts, and a class of its own."""
    counts = entries.counts()
    figures = [(f"{counts['done']:,}", "made", "done")]
    for state, words in (
        ("skipped", "skipped"),
        ("failed", "failed"),
        ("unreached", "not reached"),
        ("left", "left to others"),
    ):
        if counts[state]:
            figures.append((f"{counts[state]:,}", words, state))
    megapixels = entries.megapixels()
    if megapixels:
        figures.append((f"{megapixels:,.{1 if megapixels < 100 else 0}f}", "megapixels", ""))
    figures.append((duration_text(time.monotonic() - run.began), "in all", ""))
    return figures


def shortened(text: str) -> str:
    """Return a text as one line that is not too long for a page; of a name the end tells more than the middle."""
    text = visible(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


def common_folder(names: list[str]) -> str:
    """Return the folder that all of these paths lie in; empty where there is none."""
    # A stream has a name, too, which is no path.
    parents = {str(Path(name).parent) for name in names if os.sep in name}
    try:
        return os.path.commonpath(parents)
    except ValueError:
        # There are none; or they are of several drives, or absolute and relative ones.
        return ""


def name_of(entry: Entry, folder: str) -> str:
    """Return the name of a picture within the folder that all lie in."""
    return shortened(entry.source.removeprefix(f"{folder}{os.sep}") if folder else entry.source)


def row(entry: Entry, folder: str) -> dict[str, Any]:
    """Return what the table says of a picture. folder: the one that all lie in."""
    return {
        "name": name_of(entry, folder),
        "state": entry.state,
        "word": WORDS.get(entry.state, entry.state),
        "size": times(entry.size),
        "to_size": times(entry.to_size) if entry.state in ("done", "skipped") else "",
        "seconds": "" if entry.seconds is None else f"{entry.seconds:.1f}",
        "score": "" if entry.score_db is None else f"{entry.score_db:.1f}",
        "verdict": entry.verdict or "",
        "reason": shortened(_without_name(entry)),
    }


def _without_name(entry: Entry) -> str:
    """Return the reason of a picture's state without the name that the line begins with anyway."""
    return entry.reason.removeprefix(f"{entry.source}: ")


def times(size: tuple[int, int] | None) -> str:
    """Return a (width, height) in px as a text."""
    return "" if size is None else f"{size[0]}{TIMES}{size[1]}"


def card(entry: Entry, folder: str, path: Path, jobs: dict[str, Job]) -> dict[str, Any]:
    """Return what the page says of a picture beside its slider."""
    detail, job = entry.detail, jobs.get(entry.source)
    assert detail is not None
    source = None if job is None else job.source
    target = None if job is None else job.target
    name = Path(name_of(entry, folder))
    scale = "" if not (entry.size and entry.to_size) else f"\u00d7{entry.to_size[0] / entry.size[0]:.3g}"
    return {
        **row(entry, folder),
        "file": name.name,
        "folder": "" if name.parent == Path() else f"{name.parent}/",
        "scale": scale,
        "detail": detail,
        "box": [f"{100 * share:.2f}%" for share in detail.box],
        "bytes": bytes_of(source),
        "to_bytes": bytes_of(target),
        "link": link(source, path),
        "to_link": link(target, path),
    }


def bytes_of(path: Source | None) -> str:
    """Return the size of a file in words; empty where it is not known."""
    try:
        return size_text(path.stat().st_size) if isinstance(path, Path) else ""
    except OSError:
        return ""


def link(path: Source | None, page: Path) -> str:
    """Return the address of a file as seen from the page; empty where there is none."""
    if not isinstance(path, Path) or "://" in str(path):
        return ""
    try:
        relative = os.path.relpath(path, page.parent)
    except ValueError:
        # It lies on another drive.
        return ""
    # Letters that an address gives a meaning to, the colon of a scheme too, are escaped; so are bytes that are no text.
    return quote(os.fsencode(Path(relative).as_posix()))
