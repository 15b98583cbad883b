"""A second run on the same folders, lists of files, and what is refused before any network is loaded."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from strsr_cli.app import app
from strsr_cli.batch import plan
from strsr_cli.batch.journal_files import JOURNAL, OLD_JOURNAL
from strsr_cli.batch.locks import FOLDER
from strsr_cli.system.atomic import TEMPORARY_PREFIX
from strsr_cli.upscale import preflight as forecast

from ..helpers.upscale_runs import made, reasons

Run = Callable[..., Result]


def test_a_second_run_makes_the_missing_damaged_and_outdated(
    go: Callable[..., dict], folder: Path, tmp_path: Path
) -> None:
    first = go()
    assert made(first) == ["a.png", "b.jpg"]
    assert (first["failed"], first["passed_over"]) == (1, {"hidden": 1, "other": 1})
    out = tmp_path / "out"
    before = (out / "a.png").read_bytes()

    os.utime(folder / "a.png", (1, 1))  # touched, the same content
    shutil.copy(out / "sub" / "b.jpg", tmp_path / "copy")
    shutil.copy(tmp_path / "copy", out / "sub" / "b.jpg")  # another time of change
    again = go()
    assert reasons(again) == {"a.png": "done before", "b.jpg": "done before"}

    (out / "a.png").write_bytes(before[:-20])  # truncated
    (out / "sub" / "b.jpg").unlink()
    assert made(go()) == ["a.png", "b.jpg"]
    assert (out / "a.png").read_bytes() == before

    assert made(go("--quality", 50)) == ["a.png", "b.jpg"]  # other settings
    assert reasons(go("--quality", 50)) == {"a.png": "done before", "b.jpg": "done before"}
    Image.new("RGB", (9, 9)).save(folder / "a.png")  # another input
    assert made(go("--quality", 50)) == ["a.png"]
    assert list(out.glob(f"{TEMPORARY_PREFIX}*")) == []
    assert not (out / FOLDER).exists()


def test_other_weights_make_all_again(
    go: Callable[..., dict], tiny: object, tmp_path: Path, strsr: Run
) -> None:

    go()
    tiny.dit.patch_out.weight.data.mul_(2)  # type: ignore[attr-defined]
    (tmp_path / "other").mkdir()
    tiny.save(tmp_path / "other", {})  # type: ignore[arg-type]
    assert made(go("--weights", tmp_path / "other")) == ["a.png", "b.jpg"]


def test_files_that_others_made_or_changed_are_left_alone(go: Callable[..., dict], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    Image.new("RGB", (3, 3)).save(out / "a.png")
    first = go()
    assert made(first) == ["b.jpg"]
    assert "not made by strsr here" in reasons(first)["a.png"]
    Image.new("RGB", (5, 5)).save(out / "sub" / "b.jpg")
    second = go()
    assert "changed since strsr made it" in reasons(second)["b.jpg"]
    assert made(go("--overwrite")) == ["a.png", "b.jpg"]
    assert set(reasons(go()).values()) == {"done before"}


def test_retry_failed_tries_the_failed_alone(
    go: Callable[..., dict], folder: Path, photo: np.ndarray
) -> None:
    go()
    Image.fromarray(photo[:9, :9]).save(folder / "broken.png")
    Image.fromarray(photo[:9, :9]).save(folder / "new.png")
    retried = go("--retry-failed", code=0)
    assert made(retried) == ["broken.png"]
    assert set(reasons(retried).values()) == {"not recorded as failed"}
    assert made(go("--retry-failed", code=0)) == []


def test_retry_failed_does_not_replace_what_somebody_put_there(
    go: Callable[..., dict], folder: Path, tmp_path: Path, photo: np.ndarray
) -> None:
    go()
    Image.fromarray(photo[:9, :9]).save(folder / "broken.png")
    Image.new("RGB", (3, 3)).save(tmp_path / "out" / "broken.png")
    mine = (tmp_path / "out" / "broken.png").read_bytes()
    assert "not made by strsr here" in reasons(go("--retry-failed", code=0))["broken.png"]
    assert (tmp_path / "out" / "broken.png").read_bytes() == mine
    assert made(go("--retry-failed", "--overwrite", code=0)) == ["broken.png"]


def test_an_output_edited_beyond_reading_is_left_alone(go: Callable[..., dict], tmp_path: Path) -> None:
    """Such as a TIFF with inks of 16 bits."""
    go()
    edited = b"8BPS" + 10_000 * b"layer"
    (tmp_path / "out" / "a.png").write_bytes(edited)
    assert "changed since strsr made it" in reasons(go())["a.png"]
    assert (tmp_path / "out" / "a.png").read_bytes() == edited


def test_lists_do_not_replace_each_others_outputs(
    go: Callable[..., dict], folder: Path, tmp_path: Path, photo: np.ndarray
) -> None:
    Image.fromarray(photo[:9, :9]).save(folder / "a.gif")
    for name, fate in (("a.gif", "done"), ("a.png", "skipped")):
        (tmp_path / "list").write_text(name)
        run = go("--files-from", tmp_path / "list", code=0)
        assert run[fate] == 1
    assert reasons(run)["a.png"] == "made from a.gif (--overwrite replaces it)"
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.size == (18, 18)


def test_retry_failed_without_a_record_is_refused(
    go: Callable[..., dict], strsr: Run, folder: Path, tmp_path: Path
) -> None:
    for options in ([], ["--no-journal"]):
        result = strsr("upscale", folder, tmp_path / "out", "--retry-failed", *options)
        assert result.exit_code == 2
        assert "journal" in result.stderr


def test_a_folder_of_the_old_journal_is_skipped_whole(
    go: Callable[..., dict], folder: Path, tmp_path: Path
) -> None:
    go()
    journal, old = tmp_path / "out" / JOURNAL, tmp_path / "out" / OLD_JOURNAL
    (file,) = journal.iterdir()
    # Versions before wrote all lines of all processes into one file, with times in whole seconds.
    lines = re.sub(rb"\.\d{6}Z", b"Z", file.read_bytes())
    old.write_bytes(lines)
    shutil.rmtree(journal)
    again = go()
    assert (again["done"], again["skipped"], again["failed"]) == (0, 2, 1)
    assert reasons(go("--retry-failed")) == {
        "a.png": "not recorded as failed",
        "b.jpg": "not recorded as failed",
    }
    inside = go("--dry-run", paths=(tmp_path / "out", tmp_path / "larger"), code=0)
    assert inside["to_make"] == 2
    # What is made anew is written down in the new form alone.
    assert made(go("--quality", 50)) == ["a.png", "b.jpg"]
    assert old.read_bytes() == lines
    assert go("--quality", 50)["skipped"] == 2


def test_a_run_without_a_journal_skips_what_exists(go: Callable[..., dict], tmp_path: Path) -> None:
    go("--no-journal")
    assert not (tmp_path / "out" / JOURNAL).exists()
    assert set(reasons(go("--no-journal", "--quality", 50)).values()) == {
        "exists (--overwrite makes it again)"
    }


def test_outputs_beside_inputs_are_not_inputs_again(go: Callable[..., dict], folder: Path) -> None:
    first = go("--in-place-suffix", "_x2", paths=(folder,))
    assert made(first) == ["a_x2.png", "b_x2.jpg"]
    second = go("--in-place-suffix", "_x2", paths=(folder, folder))
    assert made(second) == []
    assert second["passed_over"] == {"hidden": 1, "other": 1, "output": 2}


def test_numbered_outputs_beside_inputs_are_not_inputs_again(go: Callable[..., dict], folder: Path) -> None:
    for name in ("A.png", "a-2.png"):
        shutil.copy(folder / "a.png", folder / name)
    names = ["A_x2.png", "a-2_x2.png", "a-3_x2.png", "b_x2.jpg"]
    assert made(go("--in-place-suffix", "_x2", paths=(folder,))) == names
    second = go("--in-place-suffix", "_x2", paths=(folder,))
    assert (made(second), second["skipped"], second["passed_over"]["output"]) == ([], 4, 4)


def test_a_list_comes_through_a_pipe(folder: Path, tiny_weights: Path, tmp_path: Path) -> None:
    listed = b"./sub/b.jpg\0missing.png\0../secret.png\0notes.txt\0./sub\0"
    args = ["upscale", folder, tmp_path / "out", "--files0-from", "-", "--weights", tiny_weights, "--json"]
    result = CliRunner().invoke(app, [str(arg) for arg in args], input=listed)
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1
    assert made({"events": events}) == ["b.jpg"]
    failed = [event["reason"] for event in events if event["event"] == "failed"]
    assert len(failed) == 2
    assert "no such file" in failed[0]
    assert "outside of INPUT" in failed[1]
    assert events[-1]["passed_over"] == {"other": 1, "folder": 1}


def test_two_lists_or_one_that_cannot_be_read_are_refused(strsr: Run, folder: Path, tmp_path: Path) -> None:
    for options in (["--files-from", "-", "--files0-from", "-"], ["--files-from", tmp_path / "none"]):
        result = strsr("upscale", folder, tmp_path / "out", *options)
        assert result.exit_code == 2
        assert "--files-from" in result.stderr


def test_names_cannot_write_to_the_terminal(
    strsr: Run, folder: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    evil = "\x1b[2J\ndone x\u202e.png"
    for name in (evil, "broken\x1b.png", os.fsdecode(b"\xff.png")):
        shutil.copy(folder / ("broken.png" if "broken" in name else "a.png"), folder / name)
    result = strsr("upscale", folder, tmp_path / "out", "--weights", tiny_weights)
    dry = strsr("upscale", folder, tmp_path / "out", "--weights", tiny_weights, "--dry-run", "--overwrite")
    assert "\x1b" not in result.output + dry.output
    assert "\u202e" not in result.output + dry.output
    assert r"\x1b[2J\ndone x\u202e.png" in result.stderr
    assert (tmp_path / "out" / evil).exists()
    assert os.fsdecode(b"\xff.png") in os.listdir(tmp_path / "out")
    assert not any(line.startswith("done x") for line in result.stderr.splitlines())


def test_a_disk_too_small_ends_the_run_before_it_begins(
    strsr: Run, folder: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(total=2**30, free=2**24))
    args = ("upscale", folder, tmp_path / "out", "--weights", tiny_weights)
    result = strsr(*args)
    assert result.exit_code == 1
    assert "are free on this disk" in result.stderr
    assert not (tmp_path / "out" / "a.png").exists()
    assert "2 done" in strsr(*args, "--no-space-check").stderr


def test_an_image_that_memory_cannot_hold_fails_alone(
    go: Callable[..., dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "memory_there", lambda: 2**30 + 16 * 20 * 24)
    run = go()
    assert made(run) == ["b.jpg"]
    assert any("of memory" in event.get("reason", "") for event in run["events"])


def test_a_header_that_memory_cannot_hold_fails_alone(
    go: Callable[..., dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = plan.read_size

    def greedy(path: Path, *more: int) -> tuple[int, int]:
        if path.name == "a.png":
            raise MemoryError
        return read(path, *more)

    monkeypatch.setattr(plan, "read_size", greedy)
    run = go()
    assert made(run) == ["b.jpg"]
    assert run["failed"] == 2


def test_a_dry_run_tells_size_and_time_and_writes_nothing(
    go: Callable[..., dict], strsr: Run, folder: Path, tmp_path: Path
) -> None:
    told = go("--dry-run", code=0)
    assert (told["event"], told["to_make"], told["will_fail"], told["skipped"]) == ("forecast", 2, 1, 0)
    assert told["bytes"] > 1000
    assert told["seconds"] >= 0
    text = strsr("upscale", folder, tmp_path / "out", "--dry-run").stdout
    assert "2 to make, 0 skipped, 1 will fail; nothing was written; about" in text
    assert "passed over: 1 hidden file, 1 other file" in text
    assert not (tmp_path / "out").exists()
    go()
    (journal,) = (tmp_path / "out" / JOURNAL).iterdir()
    before = journal.read_bytes()
    os.utime(folder / "a.png", (1, 1))
    assert go("--dry-run", code=0)["skipped"] == 2
    assert journal.read_bytes() == before
