"""Whether strsr works with the oldest packages that pyproject.toml allows: `make lowest`.

For each version of Python that is named, a fresh environment gets every dependency and every extra at its lower
bound, and runs the fast tests. Bounds that contradict each other are named by uv and end it: they promise what
nobody can install.

    python scripts/lowest.py [--folder FOLDER] [--processes N] [--keep] 3.10 3.13

Wants uv, and about 7 GB of disk for each version. Only wheels are installed: a release that has none for a Python
makes its bound false.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
# Looks at the code and is never imported with it; its own wishes would lift the bounds of what is.
TOOLS = ("ruff", "import-linter")


def main() -> None:
    """Read the command line, test each Python, and end with 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("pythons", nargs="+", metavar="PYTHON", help="versions, such as 3.10")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / ".lowest", help="where the environments are made"
    )
    parser.add_argument("--processes", type=int, default=2, help="of the tests")
    parser.add_argument("--keep", action="store_true", help="do not remove the environments")
    arguments = parser.parse_args()
    failed = False
    for python in arguments.pythons:
        folder = arguments.folder.absolute() / python
        failed |= not is_passed(python, folder, arguments.processes)
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    raise SystemExit(int(failed))


def lowest_requirements() -> list[str]:
    """The requirements of strsr, of all its extras and of its tests, each held to the series of its lower bound.

    torch>=2.6 becomes torch==2.6.*, of which the first release is taken.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    lines = {line for group in groups for line in group if not line.startswith(TOOLS)}
    return sorted(re.sub(r">=([\w.]+)", r"==\1.*", line, count=1) for line in lines)


def is_passed(python: str, folder: Path, processes: int) -> bool:
    """Make the environment of a Python and run the fast tests in it; returns whether all of them passed."""
    wanted, locked = (folder.with_name(f"{folder.name}.{kind}") for kind in ("in", "txt"))
    wanted.parent.mkdir(parents=True, exist_ok=True)
    wanted.write_text("\n".join(lowest_requirements()) + "\n")
    lowest = ("--resolution", "lowest-direct", "--no-build")
    uv("pip", "compile", "-q", *lowest, "--python-version", python, wanted, "-o", locked)
    # With pip: what strsr advises to install, and how, is tested too.
    uv("venv", "-q", "--clear", "--seed", "--python", python, folder)
    uv("pip", "install", "-q", "--no-build", "--python", folder, "-r", locked)
    # An older typer-slim, which transformers wants, has files of the same names.
    uv("pip", "install", "-q", "--no-build", "--python", folder, "-r", locked, "--reinstall-package", "typer")
    uv("pip", "install", "-q", "--no-deps", "--python", folder, "-e", ROOT)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    tests = ("-m", "pytest", "-q", "-n", str(processes), "--dist", "worksteal", "-p", "no:cacheprovider")
    result = subprocess.run([folder / "bin" / "python", *tests], cwd=ROOT, env=environment, check=False)
    return result.returncode == 0


def uv(*arguments: object) -> None:
    """Run uv, found beside this Python or on the path; ends the script where it fails."""
    beside = Path(sys.executable).with_name("uv")
    program = str(beside) if beside.exists() else "uv"
    result = subprocess.run([program, *map(str, arguments)], cwd=ROOT, check=False)
    if result.returncode != 0:
        raise SystemExit(f"uv {arguments[0]} {arguments[1]} failed")


if __name__ == "__main__":
    main()
