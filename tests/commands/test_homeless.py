"""Users without a home folder, as containers run them: HOME is not set, and the system does not know their number."""

from __future__ import annotations

import functools
import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from strsr_models.checkpoints.homes import expand_home
from strsr_models.errors import WeightsError

Run = Callable[..., Result]
ROOT = Path(__file__).parents[2]
CACHES = ("HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TORCH_HOME")


@pytest.fixture
def _homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    for variable in (*CACHES, "STRSR_MODELS_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("_homeless")
@pytest.mark.parametrize(
    "command",
    [
        ["list"],
        ["list", "--json"],
        ["pull", "zimage"],
        ["verify", "zimage"],
        ["path", "zimage"],
        ["pull", "judges"],
    ],
)
def test_models_without_a_home_take_one_line(command: list[str], strsr: Run) -> None:
    result = strsr("models", *command)
    assert result.exit_code == 3, result.output
    assert result.stderr.startswith("strsr: ")
    assert result.stderr.count("\n") == 1
    assert "no home folder is known" in result.stderr


@pytest.mark.usefixtures("_homeless")
def test_doctor_without_a_home_says_the_rest(strsr: Run, tmp_path: Path) -> None:
    result = strsr("doctor")
    assert result.exit_code == 0, result.output
    assert "no home folder is known" in result.stdout
    assert "lite: weights are there" in result.stdout
    examination = json.loads(strsr("doctor", "--json").stdout)
    assert examination["models_dir"] is examination["disks"]["models"]["path"] is None
    assert not examination["weights"]["zimage"]["present"]
    named = json.loads(strsr("doctor", "--json", "--models-dir", tmp_path).stdout)
    assert named["models_dir"] == str(tmp_path)


@pytest.mark.usefixtures("_homeless")
def test_a_named_folder_needs_no_home(strsr: Run, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "StrSR-flux", tmp_path / "StrSR-flux")
    description = json.loads(strsr("models", "list", "--json", "--models-dir", tmp_path).stdout)
    assert description["cache"] is description["judges_dir"] is None
    assert {model["name"]: model["state"] for model in description["models"]}["StrSR-flux"] == "unrecorded"
    assert "unknown" in strsr("models", "list", "--models-dir", tmp_path).stdout
    assert strsr("models", "path", "StrSR-flux", "--models-dir", tmp_path).exit_code == 0


@pytest.mark.parametrize("variable", ["STRSR_MODELS_DIR", "TORCH_HOME", "HF_HOME"])
def test_a_home_of_nobody_is_named(variable: str, strsr: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "~no-such-user/models")
    assert strsr("doctor").exit_code == 0
    result = strsr("models", "pull", "judges" if variable == "TORCH_HOME" else "zimage")
    assert result.exit_code == 3
    assert result.stderr.count("\n") == 1
    if variable != "HF_HOME":
        assert f"{variable}: ~no-such-user/models" in result.stderr
    with pytest.raises(WeightsError, match="--models-dir: ~no-such-user: the system knows no such user"):
        expand_home("~no-such-user", "--models-dir")


def as_another(*args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter as a user whom the system does not know."""
    return subprocess.run(
        [sys.executable, *args],
        env={"PATH": os.defpath, **variables},
        cwd="/",
        user=12345,
        group=12345,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )


@functools.cache
def runs_for_others() -> bool:
    """Whether another user may run this interpreter, and read its packages."""
    find = "from importlib.util import find_spec; open(find_spec('torch').origin).close()"
    try:
        return as_another("-c", find).returncode == 0
    except PermissionError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize(
    ("command", "code"),
    [("doctor", 0), ("models list", 3), ("models pull zimage", 3), ("models pull judges", 3)],
)
def test_real_users_without_a_home_get_no_traceback(command: str, code: int) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "models")])
    if not runs_for_others():
        pytest.skip("this interpreter lies where other users may not read")
    result = as_another("-m", "strsr_cli", *command.split(), PYTHONPATH=paths, PYTHONDONTWRITEBYTECODE="1")
    assert "Traceback" not in result.stderr
    assert result.returncode == code, result.stderr
    assert "no home folder is known" in result.stdout + result.stderr
