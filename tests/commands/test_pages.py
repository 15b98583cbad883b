"""Help pages at any width, and tables: nothing is broken inside a word, the common options come first."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer

from strsr_cli.app import app
from strsr_cli.commands.examples import COMMON, EXAMPLES
from strsr_cli.commands.pages import option_term, page, sections
from strsr_cli.system.console import fold, table_lines

GROUP: Any = typer.main.get_command(app)
CODE = re.compile("\x1b\\[[0-9;]*m")


def commands() -> dict[str, tuple[Any, Any]]:
    """Each command and group, with its context, by its path."""
    context = GROUP.make_context("strsr", [], resilient_parsing=True)
    found = {"strsr": (GROUP, context)}
    waiting = [(GROUP, context)]
    while waiting:
        group, outer = waiting.pop()
        for name in group.list_commands(outer):
            command = group.get_command(outer, name)
            inner = command.make_context(name, [], parent=outer, resilient_parsing=True)
            found[inner.command_path] = command, inner
            if hasattr(command, "list_commands"):
                waiting.append((command, inner))
    return found


COMMANDS = commands()


@pytest.mark.parametrize("path", sorted(COMMANDS))
@pytest.mark.parametrize("width", [60, 78, 98])
def test_pages_fit_and_break_between_words(path: str, width: int) -> None:
    command, context = COMMANDS[path]
    text = page(command, context, width, True, False)
    lines = text.splitlines()
    # An example is typed as it stands; what has no space in it cannot be folded.
    long = [line for line in lines if len(line) > width and not line.startswith(("  strsr ", "  curl "))]
    assert [line for line in long if len(line.split()) > 1 and not line.lstrip().startswith("-")] == []
    wide = page(command, context, 10_000, True, False)
    assert set(text.split()) <= set(wide.split())


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_options_with_a_value_say_of_which_kind(path: str) -> None:
    command, context = COMMANDS[path]
    for param in command.get_params(context):
        if param.param_type_name == "option" and not param.is_flag and not param.hidden:
            assert param.metavar, option_term(param)


def test_the_short_page_has_a_dozen_options_and_names_the_rest() -> None:
    command, context = COMMANDS["strsr upscale"]
    short = page(command, context, 78, False, False)
    rows = {part.heading: part.rows for part in sections(command, context, False)}
    assert list(rows) == ["Arguments", "Options"]
    assert 12 <= len(rows["Options"]) <= 14
    assert short.count("\n  strsr upscale ") == 3
    everything = [row for part in sections(command, context, True) for row in part.rows]
    left_out = len(everything) - sum(map(len, rows.values()))
    assert f"{left_out} more options, by subject: strsr upscale --help-all\n" in short
    assert len(short.splitlines()) < 60


def test_the_page_of_all_options_leaves_none_out() -> None:
    command, context = COMMANDS["strsr upscale"]
    parts = sections(command, context, True)
    terms = " ".join(term for part in parts for term, _ in part.rows)
    for param in command.get_params(context):
        assert param.param_type_name == "argument" or max(param.opts, key=len) in terms
    assert len(parts) >= 10
    assert max(len(part.rows) for part in parts) <= 9


def test_common_options_and_examples_are_of_commands_that_exist() -> None:
    names = {path.split()[-1]: command for path, (command, _) in COMMANDS.items()}
    assert set(EXAMPLES) <= set(names)
    for name, common in COMMON.items():
        context = COMMANDS[f"strsr {name}"][1]
        assert set(common) <= {param.name for param in names[name].get_params(context)}


def test_examples_on_pages_are_taken_as_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    for examples in EXAMPLES.values():
        for line in (line for line, _ in examples if line.startswith("strsr ")):
            path = next(
                path for path in sorted(COMMANDS, key=len, reverse=True) if line.startswith(f"{path} ")
            )
            command, context = COMMANDS[path]
            args = line.removeprefix(path).split()
            # Raises for an option that does not exist, or an argument that is missing.
            command.make_context(path.split()[-1], args, parent=context.parent)


def run(*args: str, **variables: str) -> str:
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm", **variables}
    if not variables.get("FORCE_COLOR"):
        environment.pop("FORCE_COLOR", None)
    program = [sys.executable, "-m", "strsr_cli", *args]
    return subprocess.run(program, capture_output=True, text=True, check=True, env=environment).stdout


def test_pages_in_color_say_the_same() -> None:
    plain, colored = run("upscale", "--help"), run("upscale", "--help", FORCE_COLOR="1", NO_COLOR="")
    assert "\x1b[" not in plain
    assert colored != plain
    assert CODE.sub("", colored) == plain


def test_all_options_come_without_arguments_or_after_them() -> None:
    assert "--no-token-cache" in run("upscale", "--help-all")
    assert run("upscale", "--help-all") == run("upscale", "no such file", "--help-all")
    assert "--no-token-cache" not in run("upscale", "--help")


def test_completion_knows_the_rare_options_too() -> None:
    words = run(_TYPER_COMPLETE_ARGS="strsr upscale --no-", _STRSR_COMPLETE="complete_zsh", NO_COLOR="1")
    assert "--no-token-cache" in words
    assert "--no-space-check" in words


# --- tables ----------------------------------------------------------------------------------------

HEADINGS = ["name", "state", "size"]
ROWS = [["one-long-name", "incomplete: no config.json", "about 24.8 GB"], ["b", "here", "7 bytes"]]


def test_a_table_has_its_headings_and_a_line_a_row() -> None:
    assert table_lines(HEADINGS, ROWS, 200) == [
        "name           state                       size",
        "one-long-name  incomplete: no config.json  about 24.8 GB",
        "b              here                        7 bytes",
    ]


def test_a_narrow_table_folds_between_words_and_keeps_units() -> None:
    lines = table_lines(HEADINGS, ROWS, 45)
    assert max(map(len, lines)) <= 45
    assert lines[1:3] == ["one-long-name  incomplete: no   about 24.8 GB", "               config.json"]


def test_a_table_too_wide_for_its_words_becomes_blocks() -> None:
    lines = table_lines(HEADINGS, ROWS, 24, strong=str.upper)
    assert lines[:4] == [
        "ONE-LONG-NAME",
        "  state  incomplete: no",
        "         config.json",
        "  size   about 24.8 GB",
    ]


@pytest.mark.parametrize("strong", [str, str.upper])
def test_tables_without_rows_or_words_are_no_trouble(strong: Callable[[str], str]) -> None:
    assert table_lines(["a", "b"], [], 80, strong) == [strong("a  b")]
    assert table_lines(["a", "b"], [["", ""]], 80, strong) == [strong("a  b"), ""]
    assert fold("", 5) == [""]
