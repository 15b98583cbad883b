"""Pages of Markdown to the commands in their fenced and indented blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACES = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "examples/**/*.md", "models/**/*.md")
FENCE = re.compile(r"^ *(```+|~~~+) *(\w*)")
SHELLS = ("bash", "sh", "shell", "console", "zsh")
# The words that commands begin with; a block whose first line begins with another is no block of commands.
PROGRAMS = {
    *(
        "strsr",
        "python",
        "python3",
        "pip",
        "pipx",
        "uv",
        "uvx",
        "make",
        "git",
        "cd",
        "cat",
        "curl",
        "for",
        "export",
    ),
    *(
        "srun",
        "torchrun",
        "accelerate",
        "ffmpeg",
        "img2webp",
        "docker",
        "podman",
        "kubectl",
        "ray",
        "sudo",
        "apt",
    ),
    *(
        "apt-get",
        "conda",
        "brew",
        "winget",
        "wget",
        "set",
        "source",
        "man",
        "hf",
        "ls",
        "mkdir",
        "cp",
        "find",
        "echo",
    ),
}


@dataclass(frozen=True)
class Block:
    """A block of a page. language: of its fence; "" where it has none."""

    page: str  # below the repository
    line: int  # of its first line, from 1
    language: str
    lines: tuple[str, ...] = field(repr=False)

    @property
    def is_python(self) -> bool:
        return self.language in ("python", "py")

    @property
    def holds_commands(self) -> bool:
        """Whether its lines are typed into a shell."""
        if self.language in SHELLS:
            return True
        first = next((line for line in self.lines if line.strip() and not line.lstrip().startswith("#")), "")
        return self.language == "" and first_word(first) in PROGRAMS

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """The pages that users and developers read, by their paths below the repository."""
    return sorted({str(path.relative_to(ROOT)) for place in PLACES for path in ROOT.glob(place)})


def blocks_of(page: str, text: str | None = None) -> Iterator[Block]:
    """Yield the fenced and indented blocks of a page, or of a text in its place."""
    lines = (text or (ROOT / page).read_text(encoding="utf-8")).splitlines()
    number = 0
    while number < len(lines):
        fence = FENCE.match(lines[number])
        if fence:
            end = number + 1
            while end < len(lines) and not lines[end].lstrip().startswith(fence[1]):
                end += 1
            yield Block(page, number + 2, fence[2].lower(), tuple(lines[number + 1 : end]))
            number = end + 1
        elif (
            lines[number].startswith("    ")
            and lines[number].strip()
            and (not number or not lines[number - 1].strip())
        ):
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield Block(page, number + 1, "", tuple(line[4:] for line in lines[number:end]))
            number = end
        else:
            number += 1


def first_word(line: str) -> str:
    """The program that a line of a shell starts: behind a prompt and settings of variables."""
    words = [word for word in line.removeprefix("$ ").split() if not re.match(r"[A-Z_]+=", word)]
    return words[0] if words else ""


def commands_of(block: Block) -> list[str]:
    """The commands of a block: lines that belong together are joined, comments and prompts left out."""
    commands, begun = [], ""
    for line in block.lines:
        line = line.removeprefix("$ ") if not begun else line
        if not begun and (not line.strip() or line.lstrip().startswith("#")):
            continue
        begun = f"{begun}\n{line}" if begun else line
        if not line.rstrip().endswith("\\") and _is_whole(begun):
            commands.append(begun)
            begun = ""
    return [*commands, begun] if begun else commands


def _is_whole(command: str) -> bool:
    """Whether no quotation mark is open."""
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True
