"""Every command of README and docs runs as typed, or is in the list of what is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from .extract import blocks_of, commands_of, pages
from .runner import check_page, copy_of
from .scratch import make_scratch

READ = {page: list(check_page(page, None)) for page in pages()}
RUN = [page for page, outcomes in READ.items() if any(not outcome.passed_over for outcome in outcomes)]


def faults(page: str, scratch: Path | None, text: str | None = None) -> list[str]:
    outcomes = check_page(page, scratch, text)
    return [f"{outcome.where}: {outcome.text}\n{outcome.fault}" for outcome in outcomes if outcome.fault]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scratch(tmp_path_factory.mktemp("documented") / "template")


def test_options_of_all_commands_exist() -> None:
    assert [fault for page in READ for fault in faults(page, None)] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("    strsr upscale a.png out --scale 4 --shrap\n", "No such option: --shrap"),
        ("```bash\n$ strsr upscaled a.png\n```\n", "No such command 'upscaled'"),
        ("```yaml\ncommand: [strsr, upscale]\n```\n", "neither commands nor"),
    ],
)
def test_wrong_commands_are_noticed_unrun(text: str, words: str) -> None:
    (fault,) = faults("page.md", None, text)
    assert words in fault


def test_commands_are_read_as_a_shell_reads_them() -> None:
    text = "Text.\n\n    # a comment\n    $ strsr train \\\n        --data 'a  # b'   # why\n    A=1 python -c \"\n    x\"\n\nText.\n"
    (block,) = blocks_of("page.md", text)
    assert (block.holds_commands, block.line) == (True, 3)
    assert commands_of(block) == ["strsr train \\\n    --data 'a  # b'   # why", 'A=1 python -c "\nx"']


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_commands_of_a_page_run_as_typed(page: str, template: Path, tmp_path: Path) -> None:
    assert faults(page, copy_of(template, tmp_path / "scratch")) == []


@pytest.mark.slow
def test_a_command_that_fails_is_noticed(template: Path, tmp_path: Path) -> None:
    scratch = copy_of(template, tmp_path / "scratch")
    (fault,) = faults("page.md", scratch, "    strsr upscale nowhere/ large/\n    strsr --version\n")
    assert "exit code 2" in fault
