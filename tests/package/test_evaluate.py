from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"


def test_psnr_is_that_of_eight_bit_luma() -> None:
    spec = importlib.util.spec_from_file_location("evaluate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    evaluate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(evaluate)
    hq = torch.full((1, 3, 16, 16), 100 / 255)
    pred = torch.full((1, 3, 16, 16), 110 / 255)
    error = 10 * (65.481 + 128.553 + 24.966) / 255
    assert evaluate.psnr_y(pred, hq) == pytest.approx(20 * math.log10(255 / error), abs=1e-3)
