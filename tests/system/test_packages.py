"""The commands that messages give for packages: those of the environment that strsr runs in."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

import pytest

from strsr_models import packages


def test_commands_are_those_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert packages.install_command("strsr[jxl]") == "pip install 'strsr[jxl]'"
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nuv = 0.9.1\n")
    assert packages.install_command("strsr[jxl]") == "uv pip install 'strsr[jxl]'"
    assert packages.cuda_command().startswith("uv pip install --reinstall --torch-backend auto")
    (tmp_path / "lib" / "python3.12" / "site-packages" / "pip").mkdir(parents=True)
    assert packages.installer() == "pip"
    (tmp_path / "uv-receipt.toml").touch()
    assert packages.install_command("strsr[jxl]") == "uv tool install 'strsr[jxl]'"
    assert packages.install_command("peft") == "uv tool install --with peft strsr"
    (tmp_path / "uv-receipt.toml").rename(tmp_path / "pipx_metadata.json")
    assert packages.install_command("strsr[jxl]") == "pipx runpip strsr install 'strsr[jxl]'"
    assert packages.cuda_command().startswith("pipx runpip strsr install --force-reinstall torch")


@pytest.mark.skipif(sys.platform == "win32", reason="environments have another layout there")
def test_messages_under_pipx_name_pipx(tmp_path: Path) -> None:
    environment = tmp_path / "pipx" / "venvs" / "strsr"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (environment / "pipx_metadata.json").write_text("{}")
    (tmp_path / "a.jxl").write_bytes(b"\xff\x0a" + bytes(20))
    # Of what is installed all is there but the reader of JPEG XL.
    (tmp_path / "pillow_jxl.py").write_text("raise ImportError")
    path = [str(tmp_path), os.environ.get("PYTHONPATH", ""), *sys.path, *site.getsitepackages()]
    run = subprocess.run(
        [environment / "bin" / "python", "-m", "strsr_cli", "upscale", "a.jxl", "b.png"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stderr
    assert "a JPEG XL image; to read it: pipx runpip strsr install 'strsr[jxl]'" in run.stderr
