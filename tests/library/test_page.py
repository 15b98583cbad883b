"""The page on Python: its blocks run as they stand, one after the other."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "using" / "python.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks() -> list[str]:
    return BLOCK.findall(PAGE.read_text(encoding="utf-8"))


def test_blocks_of_the_page_run(
    photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(photo[:40, :50]).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks(), start=1):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)  # noqa: S102
    assert number > 5
    with Image.open("large.png") as large, Image.open("same.png") as same:
        assert large.size == same.size == (200, 160)
        assert large.tobytes() == same.tobytes()
    assert "1 of 1 tiles" in capsys.readouterr().out


def test_answers_are_typed_as_they_come(tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text(
        "from pathlib import Path\n"
        "import numpy as np\nimport torch\nfrom PIL import Image\nimport strsr\n"
        "upscaler = strsr.Upscaler(tile=512)\n"
        "image: Image.Image = strsr.upscale('a.png', 2, device='cpu')\n"
        "same: Image.Image = upscaler.upscale(image)\n"
        "array: np.ndarray = upscaler.upscale(np.zeros((2, 2)))\n"
        "tensor: torch.Tensor = strsr.upscale(torch.zeros(3, 2, 2))\n"
        "path: Path = upscaler.upscale(image, output='b.png')\n"
        "wrong: np.ndarray = upscaler.upscale('a.png')\n"
        "strsr.upscale('a.png', dvice='cpu')\n"
    )
    mypy = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", tmp_path / "typed.py"]
    result = subprocess.run(mypy, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [int(number) for number in re.findall(r"typed\.py:(\d+): error:", result.stdout)]
    assert set(lines) == {12, 13}, result.stdout
