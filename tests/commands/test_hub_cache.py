"""`strsr models` and the cache of huggingface_hub, which other programs have filled by the library itself."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download
from typer.testing import Result

from strsr_cli.setup.cache import cache_folder, can_link
from strsr_models import load_pipeline
from strsr_models.checkpoints.published import FOLDERS

from ..helpers.fake_hub import COMMIT, FakeHub
from .test_models import hub as hub  # noqa: PLC0414  (a fixture)

Run = Callable[..., Result]
LANGUAGE = "Qwen3-VL-4B-Instruct"


def fill_cache(hub: FakeHub, *folders: str) -> None:
    """Let huggingface_hub fetch whole repositories into its cache, as diffusers and transformers do."""
    for folder in folders:
        repository = FOLDERS[folder].repository
        for name in hub.repositories[repository]:
            hf_hub_download(repository, name, endpoint=hub.url, cache_dir=cache_folder())
    hub.requests.clear()


def describe(strsr: Run, root: Path) -> dict[str, dict]:
    description = json.loads(strsr("models", "list", "--json", "--models-dir", root).stdout)
    return {model["name"]: model for model in description["models"]}


def cached(folder: str, name: str) -> Path:
    """A file of the cache, by its name there."""
    repository = FOLDERS[folder].repository.replace("/", "--")
    return cache_folder() / f"models--{repository}" / "snapshots" / COMMIT / name


def test_what_other_programs_have_pulled_is_used(strsr: Run, hub: FakeHub, tmp_path: Path) -> None:
    root = tmp_path / "models"
    fill_cache(hub, "Z-Image-Turbo", LANGUAGE)
    before = describe(strsr, root)
    assert before[LANGUAGE]["state"] == "absent"
    assert before[LANGUAGE]["cached_bytes"] == sum(
        len(data)
        for name, data in hub.repositories[FOLDERS[LANGUAGE].repository].items()
        if name != "README.md"
    )
    assert before["StrSR-zimage"]["cached_bytes"] == 0
    assert "in the cache, for pull to use" in strsr("models", "list", "--models-dir", root).stdout

    result = strsr("models", "pull", "zimage", "--models-dir", root)
    assert result.exit_code == 0, result.output
    assert {path.split("/")[0] for path, _ in hub.requests} == {"StrSR-zimage"}
    assert "model.safetensors" in result.stdout
    assert result.stdout.count(", from the Hugging Face cache") > 5
    weights = root / LANGUAGE / "model.safetensors"
    assert weights.samefile(cached(LANGUAGE, "model.safetensors"))
    assert describe(strsr, root)[LANGUAGE]["state"] == "pulled"

    # A cache that is emptied takes nothing away.
    shutil.rmtree(cache_folder())
    assert strsr("models", "verify", "zimage", "--models-dir", root).exit_code == 0
    load_pipeline("zimage", root)


def test_pulls_fill_the_cache_for_others(strsr: Run, hub: FakeHub, tmp_path: Path) -> None:
    root = tmp_path / "models"
    assert strsr("models", "pull", LANGUAGE, "--models-dir", root).exit_code == 0
    assert cached(LANGUAGE, "config.json").samefile(root / LANGUAGE / "config.json")
    hub.requests.clear()
    for name in ("config.json", "model.safetensors"):
        hf_hub_download(FOLDERS[LANGUAGE].repository, name, endpoint=hub.url, cache_dir=cache_folder())
    assert hub.requests == []


def test_an_older_commit_s_files_count_where_they_are_the_same(
    strsr: Run, hub: FakeHub, tmp_path: Path
) -> None:
    fill_cache(hub, LANGUAGE)
    snapshot = cached(LANGUAGE, "config.json").parent
    snapshot.rename(snapshot.with_name("f" * 40))
    hub.repositories[FOLDERS[LANGUAGE].repository]["LICENSE"] = b"other terms"
    assert strsr("models", "pull", LANGUAGE, "--models-dir", tmp_path / "models").exit_code == 0
    assert hub.requests == [("LICENSE", None)]
    assert (tmp_path / "models" / LANGUAGE / "LICENSE").read_bytes() == b"other terms"


def test_a_cache_without_links_is_used_by_names(strsr: Run, hub: FakeHub, tmp_path: Path) -> None:
    fill_cache(hub, LANGUAGE)
    # As on systems that know no links: files lie where else the links would.
    for path in cached(LANGUAGE, "config.json").parent.iterdir():
        whole = path.resolve()
        path.unlink()
        whole.rename(path)
    assert strsr("models", "pull", LANGUAGE, "--models-dir", tmp_path / "models").exit_code == 0
    assert hub.requests == []


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1] + b"!", lambda data: data[:-1]], ids=["bytes", "length"]
)
def test_damaged_files_of_the_cache_are_pulled_and_mended(
    strsr: Run, hub: FakeHub, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    fill_cache(hub, LANGUAGE)
    weights = cached(LANGUAGE, "model.safetensors")
    whole = weights.read_bytes()
    weights.resolve().write_bytes(damage(whole))
    pull = ("models", "pull", LANGUAGE, "--models-dir", tmp_path / "models")
    result = strsr(*pull)
    assert result.exit_code == 0, result.output
    assert hub.requests == [("model.safetensors", None)]
    assert (tmp_path / "models" / LANGUAGE / "model.safetensors").read_bytes() == whole
    assert weights.read_bytes() == whole


@pytest.fixture
def far_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache on another disk than the models folder."""
    memory = Path("/dev/shm")
    if (
        not memory.is_dir()
        or memory.stat().st_dev == tmp_path.stat().st_dev
        or not os.access(memory, os.W_OK)
    ):
        pytest.skip("no second disk")
    folder = Path(tempfile.mkdtemp(prefix="strsr-test-", dir=memory))
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    yield folder
    shutil.rmtree(folder)


def test_a_cache_on_another_disk_is_copied_from_and_not_filled(
    strsr: Run, hub: FakeHub, tmp_path: Path, far_cache: Path
) -> None:
    root = tmp_path / "models"
    assert not can_link(root)
    assert cache_folder() == far_cache
    fill_cache(hub, LANGUAGE)
    known = sorted(path.name for path in far_cache.iterdir())
    assert strsr("models", "pull", "zimage", "--models-dir", root).exit_code == 0
    assert not [path for path, _ in hub.requests if path == "model.safetensors"]
    assert sorted(path.name for path in far_cache.iterdir()) == known
    assert not (root / LANGUAGE / "model.safetensors").is_symlink()
    names = {path.name for path in (root / "StrSR-zimage").iterdir()}
    assert names == {"state_dict.pth", "projector.pth", "strsr-pull.json"}
    shutil.rmtree(far_cache)
    far_cache.mkdir()
    assert strsr("models", "verify", "zimage", "--models-dir", root).exit_code == 0


def test_the_cache_is_where_the_library_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert cache_folder() == Path.home() / ".cache" / "huggingface" / "hub"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "huggingface" / "hub"
    monkeypatch.setenv("HF_HOME", "~/models")
    assert cache_folder() == Path.home() / "models" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", "/data/hub")
    assert cache_folder() == Path("/data/hub")
