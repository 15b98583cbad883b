"""`python -m tests.hostile`: run the batch, and print what became of each file, as docs/hostile.md."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

from .batch import Batch, all_cases, judged, make_folder, outcome, run_batch
from .cases import Case
from .waiting import LEFT_OUT

HEAD = """# Hostile files, and what became of them

Written by `python -m tests.hostile > docs/hostile.md`: files made by code (`tests/hostile/`), one batch
over all of them by `strsr upscale in out --scale 2 --json`. What must become of each stands in the code; the tests hold every file to it,
compare the pixels of the pictures with what they were made from, and see that nothing else was written or said.
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        cases = make_folder([case for case in all_cases() if case.name not in LEFT_OUT], root / "in")
        batch = run_batch(root / "in", root / "out")
        print("\n".join(page(cases, batch, name)))
        wrong = [case for case in cases if judged(case, batch)]
    for case in wrong:
        print(f"not as expected: {case.name!r}", file=sys.stderr)


def page(cases: list[Case], batch: Batch, root: str) -> list[str]:
    lines = [HEAD]
    groups = list(dict.fromkeys(case.group for case in cases))
    words = {case.name: cell(outcome(case, batch).replace(root + "/", "")) for case in cases}
    lines += ["| kind | files | pictures | errors | passed over |", "|---|---|---|---|---|"]
    total: Counter[str] = Counter()
    for group in groups:
        counts = Counter(
            words[case.name].split(maxsplit=1)[0].strip(",:") for case in cases if case.group == group
        )
        total += counts
        lines.append(row(f"[{group}](#{group})", counts))
    lines += [row("all", total), ""]
    for group in groups:
        lines += [f"## {group}", "", "| file | what happened |", "|---|---|"]
        members = [case for case in cases if case.group == group]
        lines += [f"| {shown(case.name)} | {words[case.name]} |" for case in members]
        lines.append("")
    return lines[:-1]


def row(title: str, counts: Counter[str]) -> str:
    numbers = [counts.total(), counts["picture"], counts["error"], counts["passed"]]
    return " | ".join([f"| {title}", *map(str, numbers)]) + " |"


def shown(name: bytes) -> str:
    """A name as code."""
    text = escaped(os.fsdecode(name).split("/", 1)[1]).replace("|", "\\|")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def cell(text: str) -> str:
    return escaped(text).replace("|", "\\|").replace("<", "&lt;")


def escaped(text: str) -> str:
    """Odd characters as in Python's texts, long runs of one letter cut."""
    text = re.sub(r"(.)\1{50,}", r"\1\1\1...", text)
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return shown.replace("\\udc", "\\x")


if __name__ == "__main__":
    main()
