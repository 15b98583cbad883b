from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "numpy",
    "PIL",
    "cv2",
    "diffusers",
    "transformers",
    "open_clip",
    "matplotlib",
    "huggingface_hub",
    "fsspec",
    "s3fs",
    "ray",
    "starlette",
    "uvicorn",
)


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "statement",
    [
        "import strsr_cli.app",
        "import strsr_models.errors",
        "import strsr; dir(strsr); strsr.__version__, strsr.ImageError, strsr.Settings",
        "import strsr_models.checkpoints.published",
        "from strsr_cli.app import app\ntry: app(['upscale', '--help'])\nexcept SystemExit: pass",
        "from strsr_cli.app import app\ntry: app(['fft-inspect', '--help'])\nexcept SystemExit: pass",
        "from strsr_cli.app import app\ntry: app(['fft-inspect', '.', '--lattice', '0'])\nexcept SystemExit: pass",
        "from strsr_cli.app import app\ntry: app(['serve', '--help'])\nexcept SystemExit: pass",
        "from strsr_cli.app import app\ntry: app(['upscale', '--help-all'])\nexcept SystemExit: pass",
        "from strsr_cli.app import app\ntry: app(['evaluate', '--help'])\nexcept SystemExit: pass",
        "from strsr_cli.app import app\ntry: app(['bench', '--batch', '0'])\nexcept SystemExit: pass",
        "from strsr_cli.app import app\ntry: app(['models', 'pull', '--help'])\nexcept SystemExit: pass",
        "from strsr_cli.app import app\ntry: app(['models', 'list'])\nexcept SystemExit: pass",
    ],
)
def test_help_loads_nothing_heavy(statement: str) -> None:
    assert loaded_after(statement).isdisjoint(HEAVY)


def test_the_lite_path_loads_no_other_family_and_no_plotting() -> None:
    loaded = loaded_after("from strsr_models import load_pipeline\nload_pipeline('lite')")
    assert loaded.isdisjoint(
        {"diffusers", "transformers", "open_clip", "matplotlib", "torchvision", "huggingface_hub"}
    )


def test_local_paths_load_nothing_of_remote_places(tmp_path: Path) -> None:
    local = f"app(['upscale', 'examples/cat.png', '{tmp_path / 'cat.png'}', '--scale', '2', '--json'])"
    loaded = loaded_after(f"from strsr_cli.app import app\ntry: {local}\nexcept SystemExit: pass")
    assert "strsr_cli.images.places" in loaded
    assert loaded.isdisjoint({"fsspec", "s3fs", "aiohttp", "botocore"})


def test_a_picture_loads_nothing_that_it_does_without(tmp_path: Path) -> None:
    output = tmp_path / "cat.png"
    command = f"app(['upscale', 'examples/cat.png', {str(output)!r}, '--scale', '2'])"
    loaded = loaded_after(f"from strsr_cli.app import app\ntry: {command}\nexcept SystemExit: pass")
    assert output.exists()
    libraries = {
        "torch._dynamo",
        "torch._inductor",
        "sympy",
        "torchvision",
        "scipy",
        "cv2",
        "rich",
        "filelock",
    }
    if version("torch").startswith("2.6."):
        libraries.remove("sympy")  # torch 2.6 computes with it
    others = {"strsr_models.spectrum", "strsr_models.pipelines.pretrained", "strsr_models.encoders.dit_trunk"}
    assert loaded.isdisjoint(libraries | others | {"strsr_cli.upscale.conditions"})


def test_the_local_engine_never_loads_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    command = f"['upscale', 'examples', {str(tmp_path / 'out')!r}, '--scale', '1', '--max-pixels', '1']"
    run = f"from strsr_cli.app import app\ntry: app({command})\nexcept SystemExit: pass"
    loaded = loaded_after(f"{run}\nimport strsr_cli.upscale.stages")
    assert "strsr_cli.upscale.preflight" in loaded
    assert not {name for name in loaded if name.split(".")[0] == "ray" or name.endswith("ray_driver")}


def test_plotting_is_loaded_for_a_picture_of_spectra_only() -> None:
    looking = "from strsr_cli.app import app\ntry: app(['fft-inspect', 'examples/cat.png'])\nexcept SystemExit: pass"
    assert "matplotlib" not in loaded_after(f"{looking}\nimport strsr_cli.upscale.stages")


def test_an_upscaler_loads_no_other_family_and_no_command() -> None:
    loaded = loaded_after("import strsr\nstrsr.Upscaler()")
    assert loaded.isdisjoint({"diffusers", "transformers", "open_clip", "matplotlib", "torchvision", "typer"})


def test_public_names_can_all_be_imported() -> None:
    import strsr_models

    assert all(getattr(strsr_models, name) is not None for name in strsr_models.__all__)
    with pytest.raises(AttributeError):
        _ = strsr_models.nothing
