"""What a plan costs on some numbers of workers: time, chunks, bytes a second, idle workers at the end."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Sequence
from typing import Any

from ...images.places import RemoteFile
from ...system.console import duration_text
from ..preflight import Preflight
from .chunks import Chunks

WORKERS = (1, 4, 16, 64)
MUCH = 1000.0  # MB/s that many a shared disk does not give


def simulate(chunks: Chunks, paces: Sequence[float]) -> tuple[float, int, float]:
    """Let workers of these paces, in seconds for an output megapixel, empty a queue.

    Returns the seconds until the last one is ready, the number of chunks, and the share of all workers' time, from 0
    to 1, in which they had nothing to do.
    """
    ready = [(0.0, number) for number in range(len(paces))]
    count, work, end = 0, 0.0, 0.0
    while chunks.left:
        at, number = heapq.heappop(ready)
        seconds = paces[number] * sum(chunks.megapixels[place] for place in chunks.take(paces[number]))
        count, work, end = count + 1, work + seconds, max(end, at + seconds)
        heapq.heappush(ready, (at + seconds, number))
    return end, count, 1 - work / (end * len(paces)) if end else 0.0


def cost_rows(forecast: Preflight) -> list[dict[str, Any]]:
    """Return, for each number of workers: seconds, chunks, MB read and written a second, and the idle share.

    All workers have the pace of this machine; what depends on it is None where it is not known. The time to load the
    networks does not count.
    """
    megabytes_in = sum(map(_input_bytes, forecast.pending)) / 1e6
    megabytes_out = sum(forecast.sizes.values()) / 1e6
    rows = []
    for workers in WORKERS:
        # Without a pace only images decide, as with the large models.
        chunks = Chunks(forecast.areas, workers, whole=forecast.pace is None)
        seconds, count, idle = simulate(chunks, [forecast.pace or 1.0] * workers)
        row: dict[str, Any] = {"workers": workers, "chunks": count}
        for name, value in (
            ("seconds", seconds),
            ("read_mb_per_second", megabytes_in / seconds if seconds else 0.0),
            ("written_mb_per_second", megabytes_out / seconds if seconds else 0.0),
            ("idle", idle),
        ):
            row[name] = None if forecast.pace is None else round(value, 3)
        rows.append(row)
    return rows


def _input_bytes(job: Any) -> float:
    """Return the bytes of a job's input, as its part of a file of several frames; 0 where it is not there."""
    if isinstance(job.source, RemoteFile):
        return float(job.source.size or 0)
    with contextlib.suppress(OSError):
        if job.source is not None:
            return float(job.source.stat().st_size / job.count)
    return 0.0


def cost_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return the rows in words, a heading first, and what there is to say about them."""
    if not rows:
        return []
    lines = ["workers  chunks      time   read MB/s  written MB/s  idle at the end"]
    fast = []
    for row in rows:
        line = f"{row['workers']:7}  {row['chunks']:6}"
        if row["seconds"] is None:
            lines.append(f"{line}   unknown")
            continue
        read, written = row["read_mb_per_second"], row["written_mb_per_second"]
        time = duration_text(row["seconds"])
        lines.append(f"{line}  {time:>8}  {read:10.1f}  {written:12.1f}  {100 * row['idle']:13.1f} %")
        if read + written > MUCH:
            fast.append(row)
    if rows[0]["seconds"] is None:
        lines.append("how long this model takes is not known before it runs")
    else:
        lines.append(
            "each worker at the pace of this machine, as measured by a small tile; loading not counted"
        )
    for row in fast[:1]:
        rate = row["read_mb_per_second"] + row["written_mb_per_second"]
        lines.append(
            f"from {row['workers']} workers on the disk is the limit, unless it takes {rate:,.0f} MB/s in all"
        )
    return lines
