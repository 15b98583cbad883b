"""Help pages: examples, arguments, and an option a line under headings by subject, folded to the terminal.

A command with many options shows the common ones by --help and all by --help-all. Imports nothing heavy.
"""

from __future__ import annotations

import inspect
import os
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from ..system.terminal import wants_escapes, wrapped
from .examples import COMMON, EXAMPLES

WIDEST = 100  # columns: longer lines are hard to read
DEFAULT = r"\[default: \S+\]"  # stays in one piece
TERM = 24  # columns of the terms; longer ones have a line of their own
MARGIN = "  "
EXIT_CODE = "Exit code:"


class Section(NamedTuple):
    """A heading, and rows of a term and what it means, both without line breaks."""

    heading: str
    rows: list[tuple[str, str]]


class Paged:
    """The page of a command or group; to be inherited before typer's class."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words behind the command's name in its usage line."""
        command: Any = self
        if isinstance(self, TyperGroup):
            return list(super().collect_usage_pieces(ctx))  # type: ignore[misc]
        arguments = [param for param in command.get_params(ctx) if param.param_type_name == "argument"]
        return ["[OPTIONS]", *(argument_term(param, bracketed=True) for param in arguments)]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page into the formatter, which knows the terminal's width."""
        every = bool(ctx.meta.get("strsr.every"))
        styled = wants_escapes()
        if styled and os.environ.get("FORCE_COLOR"):
            ctx.color = True
        formatter.write(page(self, ctx, formatter.width, every, styled))


class PagedCommand(Paged, TyperCommand):
    """A command whose help is a page."""


class PagedGroup(Paged, TyperGroup):
    """A group of commands whose help is a page."""


def show_all_options(ctx: typer.Context, wanted: bool) -> None:
    """Print the page with all options and leave, where --help-all asks for it."""
    if wanted:
        ctx.meta["strsr.every"] = True
        typer.echo(ctx.get_help(), color=ctx.color)
        raise typer.Exit


# --- what a page says ------------------------------------------------------------------------------


def paragraphs(command: Any) -> tuple[list[str], str]:
    """Return what a command is for, a text without line breaks for each paragraph, and its exit codes."""
    texts = [" ".join(part.split()) for part in inspect.cleandoc(command.help or "").split("\n\n")]
    codes = [text.removeprefix(EXIT_CODE).strip() for text in texts if text.startswith(EXIT_CODE)]
    return [text for text in texts if not text.startswith(EXIT_CODE)], codes[0] if codes else ""


def sections(command: Any, ctx: Any, every: bool) -> list[Section]:
    """Return a command's arguments, options and commands. every: the rare options too."""
    arguments: list[tuple[str, str]] = []
    panels: dict[str, list[Any]] = {}
    common = None if every else COMMON.get(command.name)
    for param in command.get_params(ctx):
        if getattr(param, "hidden", False):
            continue
        if param.param_type_name == "argument":
            arguments.append((argument_term(param), described(param)))
        elif common is None or param.name in common:
            panel = (common is None and param.rich_help_panel) or "Options"
            panels.setdefault(panel, []).append(param)
    if common is not None:
        panels["Options"].sort(key=lambda param: common.index(param.name))
    # Those of no panel, --help among them, end a page of many headings.
    headings = sorted(panels, key=lambda panel: panel == "Options" and len(panels) > 1)
    found = [Section("Arguments", arguments)] if arguments else []
    for heading in headings:
        name = "Help" if heading == "Options" and len(panels) > 1 else heading
        found.append(Section(name, [(option_term(param), described(param)) for param in panels[heading]]))
    if isinstance(command, TyperGroup):
        members = [command.get_command(ctx, name) for name in command.list_commands(ctx)]
        rows = [(str(member.name), paragraphs(member)[0][0]) for member in members if member is not None]
        found.append(Section("Commands", rows))
    return found


def argument_term(param: Any, bracketed: bool = False) -> str:
    """Return what an argument is called; bracketed: in the usage line, where it may be left out."""
    name = param.metavar or str(param.name).upper()
    if param.nargs != 1 and not name.endswith("..."):
        name += "..."
    return f"[{name}]" if bracketed and not param.required else name


def option_term(param: Any) -> str:
    """Return an option's names, the short one first, and what kind of value follows."""
    names = ", ".join(sorted(param.opts, key=len))
    # Where only some options have a short name, long ones stand in one column.
    names = names if names.startswith("-") and not names.startswith("--") else f"    {names}"
    return names if param.is_flag else f"{names} {param.metavar or str(param.name).upper()}"


def described(param: Any) -> str:
    """Return the help of a parameter, with its default where it has one."""
    text = " ".join((param.help or "").split())
    if param.required and param.param_type_name == "option":
        return f"{text} [required]"
    default = param.default
    if isinstance(default, bool) or not isinstance(default, str | int | float) or default == "":
        return text
    return f"{text} [default: {default}]"


# --- how it looks ----------------------------------------------------------------------------------


def page(command: Any, ctx: Any, width: int, every: bool, styled: bool) -> str:
    """Return a command's page as text. width: columns, at most; styled: with escape codes."""
    texts, codes = paragraphs(command)
    usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    blocks = [folded("Usage:", usage, width, styled)]
    blocks += [folded("", text, width, styled) for text in texts]
    if examples := EXAMPLES.get(command.name or ""):
        blocks.append("\n".join([emphasis("Examples:", styled), *example_lines(examples, width)]))
    parts = sections(command, ctx, every)
    terms = [term for part in parts for term, _ in part.rows if part.heading != "Commands"]
    for part in parts:
        # All options of a page have their words in one column.
        beside = [term for term, _ in part.rows] if part.heading == "Commands" else terms
        column = max((len(term) for term in beside if len(term) <= TERM), default=0) + 2 * len(MARGIN)
        rows = [row_text(term, words, column, width, styled) for term, words in part.rows]
        blocks.append("\n".join([emphasis(f"{part.heading}:", styled), *rows]))
    if not every and command.name in COMMON:
        rest = len(command.get_params(ctx)) - sum(len(part.rows) for part in parts)
        blocks.append(
            folded(f"{rest} more options, by subject:", f"{ctx.command_path} --help-all", width, styled)
        )
    if isinstance(command, TyperGroup):
        blocks.append(folded("More about each:", f"{ctx.command_path} COMMAND --help", width, styled))
    if codes:
        blocks.append(folded(EXIT_CODE, codes, width, styled))
    return "\n\n".join(blocks) + "\n"


def emphasis(text: str, styled: bool) -> str:
    """Return a heading, bold on a terminal."""
    return typer.style(text, bold=True) if styled else text


def folded(heading: str, text: str, width: int, styled: bool) -> str:
    """Return a text behind its heading, in lines of at most that many columns, broken between words."""
    hang = len(heading) + 1 if heading else 0
    text = "\n".join(wrapped(text, width - hang, DEFAULT)).replace("\n", "\n" + " " * hang)
    return f"{emphasis(heading, styled)} {text}" if heading else text


def example_lines(examples: list[tuple[str, str]], width: int) -> list[str]:
    """Return commands to type, and what each does: behind them where there is room, else above."""
    column = max(len(line) for line, _ in examples) + 2
    beside = [f"{MARGIN}{line:<{column}}# {words}" for line, words in examples]
    if max(map(len, beside)) <= width:
        return beside
    return [text for line, words in examples for text in (f"{MARGIN}# {words}", f"{MARGIN}{line}")]


def row_text(term: str, words: str, column: int, width: int, styled: bool) -> str:
    """Return a term with its meaning in lines that begin at a column."""
    lines = wrapped(words, width - column, DEFAULT)
    name = typer.style(term, fg="cyan", bold=True) if styled else term
    if len(term) > column - 2 * len(MARGIN):
        lines = [MARGIN + name, *(" " * column + line for line in lines)]
    else:
        beside = " " * (column - len(MARGIN) - len(term)) + lines[0]
        lines = [MARGIN + name + beside, *(" " * column + line for line in lines[1:])]
    return "\n".join(line.rstrip() for line in lines)
