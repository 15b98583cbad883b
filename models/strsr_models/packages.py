"""Commands that install packages into the environment that strsr runs in, whatever has made it. Light."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

# An index of PyTorch with CUDA, for systems whose builds on PyPI are for the CPU alone.
CUDA_INDEX = "https://download.pytorch.org/whl/cu128"


def installer() -> str:
    """Name what installs into this environment: pipx, uv tool, uv (without pip), or pip."""
    prefix = Path(sys.prefix)
    if (prefix / "pipx_metadata.json").exists():
        return "pipx"
    if (prefix / "uv-receipt.toml").exists():
        return "uv tool"
    try:
        settings = (prefix / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "pip"
    # uv makes environments without pip, unless it is asked for.
    made_by_uv = any(line.partition("=")[0].strip() == "uv" for line in settings.splitlines())
    has_pip = (
        any(prefix.glob("lib*/python*/site-packages/pip")) or (prefix / "Lib/site-packages/pip").exists()
    )
    return "uv" if made_by_uv and not has_pip else "pip"


def install_command(requirement: str) -> str:
    """Return the command that installs a requirement, such as strsr[jxl], beside strsr.

    pip, pipx and uv each have their own; a tool's environment is not the one that a plain `pip install` is for.
    """
    quoted = f"'{requirement}'" if "[" in requirement else requirement
    own = requirement.startswith("strsr[")
    return {
        "pip": f"pip install {quoted}",
        "pipx": f"pipx runpip strsr install {quoted}",
        "uv tool": f"uv tool install {quoted}" if own else f"uv tool install --with {quoted} strsr",
        "uv": f"uv pip install {quoted}",
    }[installer()]


def reinstall_command(package: str) -> str:
    """Return the command that puts a package of strsr's back as it belongs, over what another one has left there."""
    pip = f"install --force-reinstall --no-deps {package}"
    return {
        "pip": f"pip {pip}",
        "pipx": f"pipx runpip strsr {pip}",
        "uv tool": "uv tool install --reinstall strsr",
        "uv": f"uv pip install --reinstall --no-deps {package}",
    }[installer()]


def cuda_command() -> str:
    """Return the command that replaces a PyTorch for the CPU alone by one for NVIDIA's cards."""
    pip = "install --force-reinstall torch torchvision"
    if not (sys.platform == "linux" and platform.machine() == "x86_64"):
        pip += f" --index-url {CUDA_INDEX}"
    return {
        "pip": f"pip {pip}",
        "pipx": f"pipx runpip strsr {pip}",
        "uv tool": "uv tool install --reinstall --torch-backend auto strsr",
        "uv": "uv pip install --reinstall --torch-backend auto torch torchvision",
    }[installer()]
