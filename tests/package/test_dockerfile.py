"""The Dockerfile holds together: what it copies is there, and the script that runs it knows all its words."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
INSTRUCTIONS = runpy.run_path(str(ROOT / "scripts" / "try_dockerfile.py"))["instructions"](
    (ROOT / "Dockerfile").read_text()
)
KNOWN = {"FROM", "ARG", "ENV", "RUN", "COPY", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}


def test_its_words_are_known_and_its_sources_are_there() -> None:
    assert {word for word, _ in INSTRUCTIONS} <= KNOWN
    for word, rest in INSTRUCTIONS:
        if word == "COPY" and not rest.startswith("--from="):
            assert all((ROOT / name).exists() for name in rest.split()[:-1])


def test_all_that_the_wheel_is_built_of_is_copied() -> None:
    sources = [rest for word, rest in INSTRUCTIONS if word == "COPY" and not rest.startswith("--from=")]
    copied = {name for rest in sources for name in rest.split()[:-1]}
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "docs/strsr.1",
        "strsr",
        "strsr_cli",
        "models",
    } == copied


def test_it_ends_as_a_user_without_rights() -> None:
    words = [word for word, _ in INSTRUCTIONS]
    last = len(words) - words[::-1].index("FROM")
    assert ("USER", "strsr") in INSTRUCTIONS[last:]
    assert words[-1] == "CMD"
    assert words.index("USER") > max(number for number, word in enumerate(words) if word == "RUN")
