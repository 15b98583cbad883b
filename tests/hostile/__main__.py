"""`python -m tests.hostile`: run the batch, and write what became of each file into docs/."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

from .batch import ROOT, Batch, all_cases, judged, make_folder, outcome, run_batch
from .cases import Case

HEAD = """# Hostile files, and what became of them

Written by `python -m tests.hostile`: files made by code (`tests/hostile/`), one batch over all of
them by `strsr upscale in out --scale 2 --json`. What must become of each stands in the code; the
tests hold every file to it, compare the pixels of the pictures with what they were made from, and
see that nothing else was written or said.
"""
BLOCK = re.compile(r"(?<=<!-- hostile: begin -->\n).*?(?=<!-- hostile: end -->)", re.DOTALL)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        cases = make_folder(all_cases(), root / "in")
        batch = run_batch(root / "in", root / "out")
        wrong = [case for case in cases if judged(case, batch)]
    for case in wrong:
        print(f"not as expected: {case.name!r}", file=sys.stderr)
    words = {case.name: cell(outcome(case, batch).replace(name + "/", "")) for case in cases}
    page = [HEAD, *short_table(cases, words, ""), *tables(cases, words)]
    (ROOT / "docs" / "developing" / "hostile.md").write_text("\n".join(page))
    trust = ROOT / "docs" / "using" / "trust.md"
    short = "\n".join(short_table(cases, words, "../developing/hostile.md")) + "\n"
    trust.write_text(BLOCK.sub(lambda _: short, trust.read_text()))
    print(summary(batch))


def summary(batch: Batch) -> str:
    counts = {name: batch.summary[name] for name in ("found", "done", "failed")}
    return f"{counts}, exit code {batch.code}, {batch.seconds:.1f} s"


def short_table(cases: list[Case], words: dict[bytes, str], page: str) -> list[str]:
    lines = ["| kind | files | pictures | errors | passed over |", "|---|---|---|---|---|"]
    total: Counter[str] = Counter()
    for group in groups(cases):
        counts = Counter(re.split(r"[ ,:]", words[case.name])[0] for case in cases if case.group == group)
        total += counts
        lines.append(row(f"[{group}]({page}#{group})", counts))
    return [*lines, row("all", total), ""]


def tables(cases: list[Case], words: dict[bytes, str]) -> list[str]:
    lines = []
    for group in groups(cases):
        members = [case for case in cases if case.group == group]
        lines += [f"## {group}", "", "| file | what happened |", "|---|---|"]
        lines += [f"| {shown(case.name)} | {words[case.name]} |" for case in members]
        lines.append("")
    return lines


def groups(cases: list[Case]) -> list[str]:
    return list(dict.fromkeys(case.group for case in cases))


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
