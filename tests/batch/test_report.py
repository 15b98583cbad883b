"""What a person is told of a batch."""

import contextlib
import io
import json
import re
from collections.abc import Iterator

import pytest
from rich.console import Console

from strsr_cli.batch.report import JsonReporter, Reporter, RichReporter


@pytest.fixture
def reporter() -> Iterator[Reporter]:
    """A reporter of plain lines."""
    reporter = Reporter()
    yield reporter
    reporter.close()


def test_skipped_images_are_counted_not_listed(
    reporter: Reporter, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(1000):
        reporter.skipped(f"{number}.png", f"out/{number}.png", "done before")
    reporter.summary()
    text = capsys.readouterr().err
    assert "1000 skipped" in text
    assert text.count("\n") == 1


def test_reasons_to_skip_that_need_a_person_are_told_once(
    reporter: Reporter, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(12):
        reason = (
            "is somebody's" if number < 5 else f"made from {number}.gif" if number < 10 else "done before"
        )
        reporter.skipped(f"{number}.png", f"out/{number}.png", reason)
    reporter.summary()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "skipped 5: is somebody's"
    assert lines[1:3] == ["skipped 1: made from 5.gif", "skipped 1: made from 6.gif"]
    assert lines[3] == "skipped 3 for other reasons (--verbose lists them)"
    assert "12 skipped" in lines[4]


def test_verbose_lists_what_is_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(verbose=True)
    reporter.skipped("a.png", "out/a.png", "done before")
    reporter.close()
    assert capsys.readouterr().err == "skipped out/a.png: done before\n"


def test_the_end_says_where_outputs_are_and_how_large(
    reporter: Reporter, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter.place = "large"
    for size in (1_200_000, 300_000):
        reporter.done("a.png", "large/a.png", 100, 100, 0.5, size)
    reporter.summary()
    assert capsys.readouterr().err.splitlines()[-1].endswith("; 1.5 MB in large")


def test_bars_do_not_count_what_failed_while_planning() -> None:
    reporter = RichReporter()
    # The bars are drawn into a string.
    reporter.console.file = screen = io.StringIO()
    reporter.prepare()
    reporter.failed("broken.png", "broken.png: is empty")
    reporter.start(2)
    for name in ("a", "b"):
        reporter.done(f"{name}.png", f"out/{name}.png", 10, 10, 0.1)
    assert (reporter.progress.tasks[1].completed, reporter.progress.tasks[1].total) == (2, 2)
    reporter.summary()
    reporter.close()
    assert "broken.png: is empty" in screen.getvalue()


def test_training_keeps_step_and_time_at_80_columns() -> None:
    from strsr_cli.training.run.progress import _live_line

    live = _live_line(20_000)
    numbers = "  ".join(f"some_loss_{n} 0.0{n}" for n in range(12))
    live.update(live.task_ids[0], completed=1234, numbers=numbers, speed="15.2 crops/s")
    screen = Console(width=80, file=io.StringIO(), force_terminal=False)
    screen.print(live.get_renderable())
    first, second = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert re.search(r"step +1234/20000 .* 15.2 crops/s +[-0-9:]+", first)
    assert second.startswith("some_loss_0 0.00")
    assert len(second.rstrip()) == 80


def test_json_stays_on_the_standard_output_of_its_start(capsys: pytest.CaptureFixture[str]) -> None:
    """As while Ray works, whose words go to nowhere."""
    reporter = JsonReporter()
    with contextlib.redirect_stdout(io.StringIO()) as others:
        print("words of a library")
        reporter.failed("a.png", "a.png: broken")
    reporter.close()
    assert others.getvalue() == "words of a library\n"
    assert json.loads(capsys.readouterr().out)["event"] == "failed"
