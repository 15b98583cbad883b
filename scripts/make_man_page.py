"""Write docs/strsr.1, the manual page, from the commands themselves: python scripts/make_man_page.py"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "strsr.1"
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "models")]

from strsr_cli.app import app
from strsr_cli.commands.examples import EXAMPLES
from strsr_cli.commands.pages import paragraphs, sections

FILES = [
    ("OUTPUT/.strsr-journal/", "What was made in a folder of outputs, with which settings."),
    ("~/.cache/strsr/", "Models that were pulled, and what was understood of images."),
]
VARIABLES = [
    ("STRSR_MODELS_DIR", "The folder of the large models; default: in the user's cache."),
    ("HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE", "As of huggingface_hub, for strsr models pull."),
    ("NO_COLOR, FORCE_COLOR", "No escape codes at all; colours where no terminal is, too."),
]


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


def page() -> str:
    """Return the manual page of all commands, in the language of man(7)."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("strsr", [], resilient_parsing=True)
    texts, _ = paragraphs(group)
    lines = [
        '.\\" Made by scripts/make_man_page.py.',
        '.TH STRSR 1 "" "strsr" "User Commands"',
        ".SH NAME",
        f"strsr \\- {escaped(texts[0][0].lower() + texts[0][1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        ".B strsr",
        escaped("COMMAND [OPTIONS] [ARGUMENTS]"),
        ".SH DESCRIPTION",
        escaped("Each command is described below; strsr COMMAND --help says the same, shorter."),
        *example_lines("strsr"),
        *rows_of(section.rows for section in sections(group, context, True) if section.heading == "Options"),
    ]
    for path, command, inner in commands(group, context):
        lines += command_lines(path, command, inner)
    for heading, rows in (("ENVIRONMENT", VARIABLES), ("FILES", FILES)):
        lines += [f".SH {heading}", *rows_of([rows])]
    return "\n".join(lines) + "\n"


def commands(group: Any, context: Any) -> list[tuple[str, Any, Any]]:
    """Return path, command and context of each command below a group."""
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = command.make_context(name, [], parent=context, resilient_parsing=True)
        if hasattr(command, "list_commands"):
            found += commands(command, inner)
        else:
            found.append((inner.command_path, command, inner))
    return found


def command_lines(path: str, command: Any, context: Any) -> list[str]:
    """Return the section of one command."""
    texts, codes = paragraphs(command)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    lines = [f'.SH "{escaped(path.upper())}"', ".nf", escaped(usage), ".fi"]
    for text in texts:
        lines += [".PP", escaped(text)]
    lines += example_lines(command.name)
    for section in sections(command, context, True):
        lines += [f'.SS "{escaped(section.heading)}"', *rows_of([section.rows])]
    if codes:
        lines += ['.SS "Exit code"', escaped(codes)]
    return lines


def example_lines(name: str) -> list[str]:
    """Return the examples of a command, each with what it does."""
    return [
        text
        for line, words in EXAMPLES.get(name, [])
        for text in (
            ".PP",
            f"{escaped(words[0].upper() + words[1:])}:",
            ".PP",
            ".RS",
            ".nf",
            escaped(line),
            ".fi",
            ".RE",
        )
    ]


def rows_of(tables: Any) -> list[str]:
    """Return terms in bold, each with its meaning indented below."""
    return [
        line
        for rows in tables
        for term, words in rows
        for line in (".TP", f".B {escaped(term.strip())}", escaped(words))
    ]


def escaped(text: str) -> str:
    """Return a text as man(7) writes it: hyphens that can be copied, and no line that begins a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq").replace("'", "\\(aq")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    main()
