"""Runs of the command in processes of their own, on Ray or not: followed while they go on, and their events."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path


def finish(process: subprocess.Popen[str], code: int, lines: list[str] | None = None) -> list[dict]:
    """Wait for the end of a run; returns its events. What it says is JSON alone, and nothing on stderr."""
    stdout, stderr = rest(process)
    assert process.returncode == code, stderr
    assert stderr == ""
    events = [json.loads(line) for line in [*(lines or []), *stdout.splitlines()]]
    last = events[-1]
    assert last["event"] == "summary"
    assert last["found"] == sum(last[part] for part in ("done", "skipped", "failed", "left", "unreached"))
    return events


def rest(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for the end of a run; returns what it says from here on, read from where `readline` has come to."""
    assert process.stdout is not None
    assert process.stderr is not None
    said = process.stdout.read(), process.stderr.read()
    process.wait()
    return said


def until_done(process: subprocess.Popen[str], count: int) -> list[str]:
    """Wait until a run has made so many images; returns its lines so far."""
    lines, done = [], 0
    assert process.stdout is not None
    while done < count:
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        lines.append(line)
        done += '"event": "done"' in line
    return lines


def ends(events: list[dict]) -> dict[str, str]:
    """What became of each image; nothing happens to one twice."""
    found = [(Path(e["input"]).name, e["event"]) for e in events if e["event"] in ("done", "failed", "left")]
    assert len(found) == len(dict(found))
    return dict(found)
