"""Pages run from top to bottom: what of each was run, passed over, or is wrong."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from strsr_cli.app import app

from .extract import Block, blocks_of, commands_of
from .passed_over import right_ends, why_block_not_run, why_not_run
from .scratch import run


@dataclass(frozen=True)
class Outcome:
    """What became of a command or a block. passed_over: why it was not run. fault: what is wrong with it."""

    where: str
    text: str
    passed_over: str = ""
    fault: str = ""


def check_page(page: str, scratch: Path | None, text: str | None = None) -> Iterator[Outcome]:
    """Yield what becomes of all commands and of all blocks that speak of strsr.

    scratch: the folder to run them in, which they change; None: only read them. text: in place of the page's own.
    """
    for block in blocks_of(page, text):
        if block.holds_commands and not why_block_not_run(block):
            for command in commands_of(block):
                yield check_command(block, command, scratch)
        elif block.is_python or any("strsr" in line for line in block.lines):
            yield check_block(block, scratch)


def check_command(block: Block, command: str, scratch: Path | None) -> Outcome:
    """Read a command's options, and run it unless there is a reason not to."""
    reason = why_not_run(command)
    fault = "" if "form" in reason else wrong_options(command)
    if fault or reason or scratch is None:
        return Outcome(block.where, command, reason, fault)
    return Outcome(block.where, command, fault=fault_of(command, scratch))


def fault_of(command: str, scratch: Path) -> str:
    """Run a command; return what is wrong with how it ended."""
    try:
        result = run(command, scratch)
    except subprocess.TimeoutExpired:
        return "does not come to an end"
    if "Traceback" in result.stderr or result.returncode not in right_ends(command):
        return f"exit code {result.returncode}: {result.stderr[-2000:]}"
    return ""


def check_block(block: Block, scratch: Path | None) -> Outcome:
    """Run a block of Python; any other that speaks of strsr must be in the list of what is passed over."""
    text = "\n".join(block.lines)
    reason = why_block_not_run(block)
    if reason:
        return Outcome(block.where, text, reason)
    if not block.is_python:
        return Outcome(
            block.where, text, fault="speaks of strsr, and is neither commands nor in passed_over.py"
        )
    return Outcome(
        block.where,
        text,
        fault="" if scratch is None else fault_of(f"python -c {shlex.quote(text)}", scratch),
    )


def wrong_options(command: str) -> str:
    """What strsr's own parser has against the words of a command that begins with strsr; nothing is run."""
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    ends = [words.index(word) for word in ("&&", "|", ">", "||", ";", "&", "<") if word in words]
    words = words[: min(ends, default=len(words))]
    if words[:1] != ["strsr"]:
        return ""
    # All words are read before --help is heeded.
    result = CliRunner().invoke(app, [*words[1:], "--help"])
    return "" if result.exit_code == 0 else f"wrong usage: {result.output}"


def copy_of(template: Path, target: Path) -> Path:
    """A scratch folder of its own for a page."""
    shutil.copytree(template, target, symlinks=True)
    # The programs there name the same interpreter.
    return target
