"""The embedded weights, pinned: a stored result on the CPU in float32; `make golden` stores it again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from strsr_models import load_pipeline
from strsr_models.compute.devices import cpu_has_fast_bf16

GOLDEN = Path(__file__).parent.parent / "golden" / "lite-cat.npy"


@pytest.fixture
def lq(photo: np.ndarray) -> torch.Tensor:
    part = photo[20:52, 30:62]  # an eye, and fur
    return torch.from_numpy(part).permute(2, 0, 1)[None].float() / 255


def test_the_embedded_weights_give_the_stored_result(lq: torch.Tensor) -> None:
    hq = load_pipeline("lite").upscale(lq, 4)[0].numpy()
    if os.environ.get("STRSR_UPDATE_GOLDEN"):
        np.save(GOLDEN, hq.astype(np.float16))
    expected = np.load(GOLDEN).astype(np.float32)
    difference = np.abs(hq - expected)
    histogram = np.histogram(difference, bins=[0, 1e-4, 5e-4, 1e-3, 1e-2, 1])
    np.testing.assert_allclose(hq, expected, rtol=1e-3, atol=3e-4, err_msg=f"errors: {histogram}")


def test_bfloat16_on_the_cpu_stays_close(lq: torch.Tensor) -> None:
    if not cpu_has_fast_bf16():
        pytest.skip("slow without bfloat16 in hardware")
    lite = load_pipeline("lite")
    exact, rough = lite.upscale(lq, 4), lite.upscale(lq, 4, precision="bf16")
    mse = float((exact - rough).square().mean())
    assert -10 * np.log10(mse) > 45
