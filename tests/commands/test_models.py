"""`strsr models` on real folders, and against a hub of our own."""

from __future__ import annotations

import errno
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
from filelock import FileLock
from typer.testing import Result

from strsr_cli.setup import store
from strsr_cli.setup.cache import cache_folder
from strsr_models import WeightsError, load_pipeline
from strsr_models.checkpoints.published import FAMILIES, FOLDERS, pull_command

from ..helpers.fake_hub import COMMIT, PORTAL, FakeHub, hash_of

Run = Callable[..., Result]
ADAPTER = ("StrSR-zimage", "jkwang28/StrSR")


@pytest.fixture
def hub(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """All repositories of both families, with files that nobody needs among them."""
    hub = FakeHub()
    for name, published in FOLDERS.items():
        files = hub.repositories.setdefault(
            published.repository, {"README.md": b"a card", "LICENSE": b"terms"}
        )
        prefix = f"{name}/" if published.word else ""
        for path in sorted((models / name).rglob("*")):
            if path.is_file():
                files[prefix + path.relative_to(models / name).as_posix()] = path.read_bytes()
    hub.repositories[FOLDERS["Z-Image-Turbo"].repository]["all-in-one.safetensors"] = bytes(1000)
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "STRSR_MODELS_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # of the library, before it tries again
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    huggingface_hub.close_session()
    yield hub
    huggingface_hub.close_session()
    hub.close()


def one_line(result: Result, code: int = 3) -> str:
    """The one line of a failure, with its exit code checked."""
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("strsr: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_a_family_is_pulled_and_loads(strsr: Run, hub: FakeHub, tmp_path: Path) -> None:
    result = strsr("models", "pull", "zimage", "--models-dir", tmp_path)
    assert result.exit_code == 0, result.output
    for folder in FAMILIES["zimage"]:
        assert f"{folder}: whole, in {tmp_path / folder}" in result.stdout
    assert "licence: test-licence" in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FAMILIES["zimage"], "cache"])
    base = tmp_path / "Z-Image-Turbo"
    assert (base / "LICENSE").exists()
    assert not (base / "all-in-one.safetensors").exists()
    assert not (base / "text_encoder").exists()
    load_pipeline("zimage", tmp_path)

    assert strsr("models", "verify", "zimage", "--models-dir", tmp_path).exit_code == 0
    fetched = len(hub.requests)
    again = strsr("models", "pull", "zimage", "--models-dir", tmp_path)
    assert again.stdout.count("is there already") == 3
    assert len(hub.requests) == fetched
    record = json.loads((base / store.RECORD).read_text())
    assert (record["repository"], record["revision"]) == ("Tongyi-MAI/Z-Image-Turbo", COMMIT)


def test_the_text_encoder_comes_on_request_and_stays(strsr: Run, hub: FakeHub, tmp_path: Path) -> None:
    pull = ("models", "pull", "Z-Image-Turbo", "--models-dir", tmp_path)
    assert strsr(*pull).exit_code == 0
    hub.requests.clear()
    assert strsr(*pull, "--text-encoder").exit_code == 0
    assert {path.split("/")[0] for path, _ in hub.requests} == {"text_encoder", "tokenizer"}
    (tmp_path / "Z-Image-Turbo" / "text_encoder" / "config.json").unlink()
    assert (
        "incomplete: no text_encoder/config.json" in strsr("models", "list", "--models-dir", tmp_path).stdout
    )
    assert strsr(*pull).exit_code == 0
    assert (tmp_path / "Z-Image-Turbo" / "text_encoder" / "config.json").exists()
    assert not list(tmp_path.glob(".*"))


def test_an_interrupted_pull_goes_on_with_what_is_missing(strsr: Run, hub: FakeHub, tmp_path: Path) -> None:
    name, repository = ADAPTER
    pull = ("models", "pull", name, "--models-dir", tmp_path)
    path = f"{name}/state_dict.pth"
    hub.cut[path] = 500
    message = one_line(strsr(*pull))
    assert repository in message
    assert "503" in message
    assert "try again later" in message
    assert not (tmp_path / name).exists()
    assert "incomplete" in strsr("models", "list", "--models-dir", tmp_path).stdout
    one_line(strsr("models", "path", name, "--models-dir", tmp_path))

    hub.broken = False
    hub.requests.clear()
    assert strsr(*pull).exit_code == 0
    assert hub.requests == [(path, None)]
    assert (tmp_path / name / "state_dict.pth").read_bytes() == hub.repositories[repository][path]
    assert strsr("models", "path", name, "--models-dir", tmp_path).stdout == f"{tmp_path / name}\n"


def test_a_line_that_breaks_is_taken_up_by_bytes(
    strsr: Run, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The library writes blocks of 10 MB: what has come of the last one is lost.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 100)
    name, repository = ADAPTER
    path = f"{name}/state_dict.pth"
    hub.cut[path], hub.comes_back = 500, True
    assert strsr("models", "pull", name, "--models-dir", tmp_path).exit_code == 0
    assert [asked for asked in hub.requests if asked[0] == path] == [(path, None), (path, "bytes=500-")]
    assert (tmp_path / name / "state_dict.pth").read_bytes() == hub.repositories[repository][path]


def test_files_put_there_by_hand_are_adopted(strsr: Run, hub: FakeHub, models: Path, tmp_path: Path) -> None:
    name, _ = ADAPTER
    shutil.copytree(models / name, tmp_path / name)
    assert "unrecorded" in strsr("models", "list", "--models-dir", tmp_path).stdout
    message = one_line(strsr("models", "verify", name, "--models-dir", tmp_path))
    assert "not pulled by strsr" in message
    assert message.endswith(f"to repair: strsr models pull {name} --models-dir {tmp_path}\n")
    assert strsr("models", "pull", name, "--models-dir", tmp_path).exit_code == 0
    assert hub.requests == []
    assert strsr("models", "verify", name, "--models-dir", tmp_path).exit_code == 0


def test_verify_says_what_is_wrong_and_pull_repairs_it(strsr: Run, hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "Qwen3-VL-4B-Instruct"
    strsr("models", "pull", folder.name, "--models-dir", tmp_path)
    weights, config = folder / "model.safetensors", folder / "config.json"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    config.write_bytes(config.read_bytes()[:-10])
    (folder / "tokenizer_config.json").unlink()
    with (folder / "tokenizer.json").open("a") as file:
        file.write(" ")
    (folder / "notes.txt").write_text("mine")
    result = strsr("models", "verify", folder.name, "--models-dir", tmp_path)
    message = one_line(result)
    assert f"strsr models pull {folder.name} --models-dir {tmp_path}" in message
    assert f"{weights}: changed" in result.stdout
    assert f"{config}: truncated" in result.stdout
    assert "tokenizer_config.json: missing" in result.stdout
    assert "tokenizer.json: too long" in result.stdout
    assert f"{folder / 'notes.txt'}: extra" in result.stdout

    hub.requests.clear()
    assert strsr("models", "pull", folder.name, "--models-dir", tmp_path).exit_code == 0
    names = {path for path, _ in hub.requests}
    # What was damaged here was so in the cache, by its other name; what was removed here was still there.
    assert names == {"model.safetensors", "config.json", "tokenizer.json"}
    assert strsr("models", "verify", folder.name, "--models-dir", tmp_path).exit_code == 0
    assert (folder / "notes.txt").read_text() == "mine"


def test_downloads_that_come_damaged_are_not_kept(strsr: Run, hub: FakeHub, tmp_path: Path) -> None:
    hub.damaged.add("StrSR-zimage/state_dict.pth")
    assert "came damaged" in one_line(strsr("models", "pull", "StrSR-zimage", "--models-dir", tmp_path))
    assert not (tmp_path / "StrSR-zimage").exists()
    hub.damaged.clear()
    assert strsr("models", "pull", "StrSR-zimage", "--models-dir", tmp_path).exit_code == 0


def test_a_listing_without_sizes_is_made_up_for_by_asking(strsr: Run, hub: FakeHub, tmp_path: Path) -> None:
    hub.bare = True
    name, repository = ADAPTER
    pull = ("models", "pull", name, "--models-dir", tmp_path)
    assert strsr(*pull).exit_code == 0
    whole = hub.repositories[repository][f"{name}/state_dict.pth"]
    assert (tmp_path / name / "state_dict.pth").read_bytes() == whole
    assert strsr("models", "verify", name, "--models-dir", tmp_path).exit_code == 0
    shutil.rmtree(tmp_path / name)
    shutil.rmtree(tmp_path / "cache")
    hub.damaged.add(f"{name}/state_dict.pth")
    assert "came damaged" in one_line(strsr(*pull))


def test_nothing_is_kept_of_which_no_hash_is_known(strsr: Run, hub: FakeHub, tmp_path: Path) -> None:
    hub.bare = hub.nameless = True
    message = one_line(strsr("models", "pull", "StrSR-zimage", "--models-dir", tmp_path))
    assert "tells neither size nor hash" in message
    assert "HF_ENDPOINT" in message
    assert hub.requests == []
    assert not (tmp_path / "StrSR-zimage").exists()


@pytest.mark.parametrize("portal", ["all", "files"])
def test_pages_of_a_portal_become_no_part_of_a_model(
    strsr: Run, hub: FakeHub, tmp_path: Path, portal: str
) -> None:
    name, repository = ADAPTER
    pull = ("models", "pull", name, "--models-dir", tmp_path)
    hub.portal = portal
    one_line(strsr(*pull))
    assert not (tmp_path / name).exists()
    hub.portal = ""
    assert strsr(*pull).exit_code == 0
    for part in ("state_dict.pth", "projector.pth"):
        assert (tmp_path / name / part).read_bytes() == hub.repositories[repository][f"{name}/{part}"]
    assert strsr("models", "verify", name, "--models-dir", tmp_path).exit_code == 0


def test_what_others_have_begun_is_not_gone_on_with(strsr: Run, hub: FakeHub, tmp_path: Path) -> None:
    """A page lies where a download would be resumed: in the cache, and in the folder of an earlier pull."""
    name, repository = ADAPTER
    data = hub.repositories[repository][f"{name}/state_dict.pth"]
    blobs = cache_folder() / f"models--{repository.replace('/', '--')}" / "blobs"
    for path in (
        blobs / f"{hash_of('state_dict.pth', data)}.incomplete",
        tmp_path / f".{name}.pull" / "state_dict.pth",
        tmp_path / f".{name}.pull" / ".state_dict.pth.part",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PORTAL)
    pull = ("models", "pull", name, "--models-dir", tmp_path)
    result = strsr(*pull)
    if result.exit_code:
        # A library that resumes what lies there brings a file that is not the one listed; it is thrown away.
        assert "came damaged" in one_line(result)
        assert strsr(*pull).exit_code == 0
    assert (tmp_path / name / "state_dict.pth").read_bytes() == data
    names = {path.name for path in (tmp_path / name).iterdir()}
    assert names == {"state_dict.pth", "projector.pth", store.RECORD}


def test_downloads_that_come_damaged_leave_the_cache(strsr: Run, hub: FakeHub, tmp_path: Path) -> None:
    hub.damaged.add("StrSR-zimage/state_dict.pth")
    one_line(strsr("models", "pull", "StrSR-zimage", "--models-dir", tmp_path))
    blobs = [path for path in cache_folder().glob("*/blobs/*") if path.is_file()]
    assert [path for path in blobs if not any(path.read_bytes())] == []


def test_pulls_at_one_time_do_not_write_into_one_file(strsr: Run, hub: FakeHub, tmp_path: Path) -> None:
    pull = ("models", "pull", "StrSR-zimage", "--models-dir", tmp_path)
    hub.broken = True
    one_line(strsr(*pull))
    (lock,) = tmp_path.glob(".StrSR-zimage.pull/*.lock")
    hub.broken = False
    with FileLock(lock):
        assert "another pull is fetching it" in one_line(strsr(*pull))
    assert strsr(*pull).exit_code == 0
    names = {"state_dict.pth", "projector.pth", store.RECORD}
    assert {path.name for path in (tmp_path / "StrSR-zimage").iterdir()} == names


def test_a_full_disk_is_seen_before_anything_is_fetched(strsr: Run, hub: FakeHub, tmp_path: Path) -> None:
    hub.oversize = 10**15
    message = one_line(strsr("models", "pull", "zimage", "--models-dir", tmp_path / "new"))
    assert "to fetch" in message
    assert "free on its disk" in message
    assert hub.requests == []
    assert not (tmp_path / "new").exists()


def test_failures_of_the_hub_take_one_line(strsr: Run, hub: FakeHub, tmp_path: Path) -> None:
    pull = ("models", "pull", "FLUX.2-klein-base-4B", "--models-dir", tmp_path)
    repository = "black-forest-labs/FLUX.2-klein-base-4B"
    assert "no such revision" in one_line(strsr(*pull, "--revision", "nowhere"))
    assert strsr(*pull, "--revision", COMMIT).exit_code == 0
    shutil.rmtree(tmp_path / "FLUX.2-klein-base-4B")
    shutil.rmtree(tmp_path / "cache")
    hub.gated.add(repository)
    assert f"licence must be accepted first: at {hub.url}/{repository}" in one_line(strsr(*pull))
    files = hub.repositories.pop(repository)
    assert f"not at {hub.url}" in one_line(strsr(*pull))
    hub.repositories[repository] = {"README.md": files["README.md"]}
    assert "lists no transformer, vae" in one_line(strsr(*pull))


def test_pull_without_network_or_offline_takes_one_line(
    strsr: Run, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull = ("models", "pull", "flux2", "--models-dir", tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be pulled from http://127.0.0.1:9" in one_line(strsr(*pull))
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "1")
            assert f"offline ({variable} is set)" in one_line(strsr(*pull))


@pytest.mark.parametrize("layout", ["StrSR-{}/{}", "weights/z-{}/step/{}", "{}_{}"])
def test_adapters_are_found_where_they_lie(strsr: Run, hub: FakeHub, tmp_path: Path, layout: str) -> None:
    files = hub.repositories["jkwang28/StrSR"]
    for family in ("zimage", "flux"):
        for part in ("state_dict.pth", "projector.pth"):
            files[layout.format(family, part)] = files.pop(f"StrSR-{family}/{part}")
    assert strsr("models", "pull", "StrSR-flux", "--models-dir", tmp_path).exit_code == 0
    written = (tmp_path / "StrSR-flux" / "projector.pth").read_bytes()
    assert written == files[layout.format("flux", "projector.pth")]


def test_adapters_that_cannot_be_told_apart_are_refused(strsr: Run, hub: FakeHub, tmp_path: Path) -> None:
    files = hub.repositories["jkwang28/StrSR"]
    files["other-flux/state_dict.pth"] = files["old-flux/state_dict.pth"] = files.pop(
        "StrSR-flux/state_dict.pth"
    )
    message = one_line(strsr("models", "pull", "StrSR-flux", "--models-dir", tmp_path))
    assert "cannot tell which file is StrSR-flux/state_dict.pth" in message
    assert "old-flux/state_dict.pth" in message


def test_the_coach_is_pulled_as_one_file(strsr: Run, hub: FakeHub, tmp_path: Path) -> None:
    name = "CLIP-convnext_xxlarge-laion2B-s34B-b82K-augreg-soup"
    for file in ("open_clip_pytorch_model.bin", "open_clip_model.safetensors", "pytorch_model.bin"):
        hub.repositories[f"laion/{name}"][file] = b"weights"
    assert strsr("models", "pull", name, "--models-dir", tmp_path).exit_code == 0
    names = sorted(path.name for path in (tmp_path / name).iterdir())
    assert names == ["LICENSE", "open_clip_model.safetensors", store.RECORD]


def test_names_and_options_that_make_no_sense_take_one_line(strsr: Run, tmp_path: Path) -> None:
    assert "did you mean 'zimage'" in one_line(strsr("models", "pull", "zimagee"), 2)
    assert "lite comes with strsr" in one_line(strsr("models", "verify", "lite"), 2)
    revision = ("--revision", "v1", "--models-dir", tmp_path)
    assert "one repository" in one_line(strsr("models", "pull", "zimage", *revision), 2)


def test_list_tells_programs_and_people(strsr: Run, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "Z-Image-Turbo", tmp_path / "Z-Image-Turbo")
    (tmp_path / "Z-Image-Turbo" / "vae" / "config.json").unlink()
    shutil.copytree(models / "StrSR-flux", tmp_path / "StrSR-flux")
    shutil.copytree(models / "Qwen3-VL-4B-Instruct", tmp_path / "Qwen3-VL-4B-Instruct")
    (tmp_path / "Qwen3-VL-4B-Instruct" / store.RECORD).write_text("{")
    description = json.loads(strsr("models", "list", "--json", "--models-dir", tmp_path).stdout)
    states = {model["name"]: (model["state"], model["missing"]) for model in description["models"]}
    assert states["Z-Image-Turbo"] == ("incomplete", ["vae/config.json"])
    assert states["StrSR-flux"] == ("unrecorded", [])
    assert states["StrSR-zimage"] == ("absent", [])
    assert states["Qwen3-VL-4B-Instruct"] == ("incomplete", [store.RECORD])
    assert description["families"]["zimage"] == list(FAMILIES["zimage"])
    plain = strsr("models", "list", "--models-dir", tmp_path).stdout
    assert "incomplete: no vae/config.json" in plain
    assert "\x1b" not in plain


@pytest.mark.parametrize("command", [["list"], ["verify", "zimage"], ["path", "zimage"]])
def test_a_folder_that_may_not_be_read_takes_one_line(
    command: list[str], strsr: Run, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(store, "read_record", refuse)
    result = strsr("models", *command, "--models-dir", models)
    assert result.exit_code == 3
    assert result.stderr == f"strsr: {models / 'Z-Image-Turbo'}: Permission denied\n"


def test_a_pipe_gets_headings_and_whole_lines(
    strsr: Run, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = strsr("models", "list", "--models-dir", models).stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("name "))
    assert re.split(r" {2,}", lines[start]) == ["name", "state", "size", "licence", "repository"]
    assert all(len(re.split(r" {2,}", line)) == 5 for line in lines[start + 1 : -4])
    assert len(lines[start + 1 : -4]) == 10


def test_a_lost_shard_is_seen(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Qwen3-VL-4B-Instruct"
    shutil.copytree(models / folder.name, folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    state = store.state_of(tmp_path, FOLDERS[folder.name])
    assert (state.word, state.missing) == ("incomplete", ("model-00002-of-00002.safetensors",))


def test_a_loader_that_lacks_pieces_gives_the_command(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"strsr models pull zimage --models-dir {tmp_path}"):
        load_pipeline("zimage", tmp_path)
    root = Path("my models")
    assert pull_command(root, ["Qwen3-VL-4B-Instruct"]).endswith(
        "Qwen3-VL-4B-Instruct --models-dir 'my models'"
    )
    text = pull_command(root, ["Z-Image-Turbo/text_encoder", "Z-Image-Turbo/tokenizer"])
    assert text == "strsr models pull Z-Image-Turbo --text-encoder --models-dir 'my models'"
    # One adapter is not the 36 GB of its family.
    assert pull_command(root, ["StrSR-zimage"]) == "strsr models pull StrSR-zimage --models-dir 'my models'"
