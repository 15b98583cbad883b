"""The scripts behind docs/developing/big-models-memory.md: what is counted is what is alive."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"
DOCS = Path(__file__).parents[2] / "docs" / "developing"


def script(*args: str) -> str:
    found = subprocess.run([sys.executable, *args], cwd=SCRIPTS, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_counts_are_of_live_bytes_and_flop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    from count_memory import GIB, count

    weight = torch.empty(64, 256, device="meta")
    x = torch.empty(1024, 256, device="meta")  # made before: not counted

    def run() -> torch.Tensor:
        y = torch.relu(x)  # 1 MiB
        y = y.view(-1, 256).add_(1) * 2  # 1 MiB more, then the first is free
        return y @ weight.T  # a quarter

    gib, tflop = count(run)
    assert gib * GIB == 2 * 2**20
    assert tflop * 1e12 == 2 * 1024 * 256 * 64

    heads = torch.empty(1, 4, 100, 16, device="meta")
    gib, tflop = count(lambda: torch.nn.functional.scaled_dot_product_attention(heads, heads, heads))
    assert gib * GIB == 4 * 100 * 16 * 4
    assert tflop * 1e12 == 4 * 4 * 100 * 100 * 16


@pytest.mark.slow
def test_the_page_says_what_is_counted() -> None:
    page = (DOCS / "big-models-memory.md").read_text()
    rows = [line for line in script("count_memory.py").splitlines() if line.startswith("| ")]
    assert len(rows) > 15
    assert [row for row in rows if row not in page] == []


@pytest.mark.slow
def test_the_benchmark_works_in_tiny() -> None:
    rows = script("bench_families.py", "--tiny", "--device", "cpu", "--tile", "64", "--runs", "1")
    assert rows.count("finite: True") == 8
    assert "| Qwen3-VL |" in rows
