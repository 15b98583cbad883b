"""What workers share: chunks of a list, a cluster's CPUs and GPUs, events on their way back, costs."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from strsr_cli.batch.job import Job
from strsr_cli.batch.report import JsonReporter
from strsr_cli.images.places import Place, RemoteFile
from strsr_cli.upscale.engines.chunks import FIRST, IMAGES, SECONDS, Chunks
from strsr_cli.upscale.engines.costs import cost_rows, simulate
from strsr_cli.upscale.engines.events import Forwarder, replay
from strsr_cli.upscale.engines.order import Order, check_node, store_variables, take_over
from strsr_cli.upscale.engines.ray_cluster import Share, share_out
from strsr_cli.upscale.engines.ray_driver import amounts
from strsr_cli.upscale.preflight import Preflight
from strsr_models.errors import DeviceError


def taken(chunks: Chunks, pace: float | None = None) -> list[int]:
    sizes = []
    while chunks.left:
        sizes.append(len(chunks.take(pace)))
    assert len(chunks.take(pace)) == 0
    return sizes


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("workers", [1, 3, 500])
@pytest.mark.parametrize("pace", [None, 0.001, 2.0])
def test_chunks_hand_out_each_image_once(whole: bool, workers: int, pace: float | None) -> None:
    chunks, places = Chunks([0.5] * 1000, workers, whole), []
    while chunks.left:
        places += chunks.take(pace)
    assert places == list(range(1000))


def test_chunks_end_at_64_images_or_30_seconds() -> None:
    assert taken(Chunks([1.0] * 1000, 1), 0.001)[:3] == [IMAGES] * 3
    assert taken(Chunks([1.0] * 1000, 1), SECONDS / 10)[:3] == [10] * 3
    # An image that takes longer is a chunk by itself.
    assert taken(Chunks([1.0, 100.0, 1.0], 1), 1.0) == [1, 1, 1]
    # The pace of a new worker, and the sizes of streams, are not known.
    assert taken(Chunks([0.0] * 1000, 1))[0] == FIRST


def test_chunks_become_small_at_the_end() -> None:
    sizes = taken(Chunks([1.0] * 1000, 4), 0.001)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1
    # Where each chunk has to load networks, they are as few as there are workers.
    assert taken(Chunks([1.0] * 100, 4, whole=True)) == [25, 19, 14, 11, 8, 6, 5, 3, 3, 2, 1, 1, 1, 1]


def test_simulated_queue_loses_little_to_a_slow_worker() -> None:
    paces = [0.1] * 9 + [1.0]
    seconds, count, idle = simulate(Chunks([1.0] * 200_000, 10), paces)
    best = 200_000 / sum(1 / pace for pace in paces)
    assert best < seconds < 1.05 * best
    assert 0 < idle < 0.05
    assert count > 200_000 / IMAGES


def node(**resources: float) -> dict:
    return {"Alive": True, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "gpus", "share"),
    [
        ([node(CPU=2)], "auto", None, None, Share(1, 2, 0.0)),
        ([node(CPU=2)], "auto", 2, None, Share(2, 1, 0.0)),
        ([node(CPU=1), node(CPU=16), node(CPU=6)], "auto", None, None, Share(5, 4, 0.0)),
        ([node(CPU=4), node(CPU=64, GPU=8)], "auto", None, None, Share(8, 8, 1.0)),
        ([node(CPU=64, GPU=8)], "auto", None, 2.0, Share(4, 16, 2.0)),
        ([node(CPU=8, GPU=1)], "auto", None, 0.1, Share(10, 0, 0.1)),
        ([node(CPU=8, GPU=1)], "cpu", None, None, Share(2, 4, 0.0)),
        ([node()], "auto", 16, 1.0, Share(16, 1, 1.0)),
        ([{"Alive": False, "Resources": {"CPU": 8.0}}, node(CPU=4)], "auto", None, None, Share(1, 4, 0.0)),
    ],
)
def test_share_of_each_worker(
    nodes: list[dict], device: str, workers: int | None, gpus: float | None, share: Share
) -> None:
    assert share_out(nodes, device, workers, gpus) == share


def test_share_of_an_empty_cluster_is_an_error() -> None:
    with pytest.raises(DeviceError, match="the cluster has no CPUs; with --workers N the command waits"):
        share_out([node()], "auto", None, None)
    with pytest.raises(DeviceError, match="no node of the cluster has 2 GPUs"):
        share_out([node(CPU=8, GPU=1)], "auto", None, 2.0)


def test_forwarded_events_are_reported_as_at_home(capsys: pytest.CaptureFixture[str]) -> None:
    far = Forwarder()
    far.done("a.png", "out/a.png", 40, 30, 1.0, 99, verdict="clean", score_db=0.1)
    far.failed("b.png", "b.png: broken")
    logging.getLogger("strsr_cli.far").warning("c.png: strange")
    far.tile(1, 4)
    far.tile(2, 4)
    events = far.fetch()
    assert far.fetch() == []
    far.close()
    assert [event for event in events if event[0] == "tile"] == [("tile", (2, 4), {})]
    near = JsonReporter()
    for event in events:
        replay(event, near)
    near.close()
    done, failed, message = map(json.loads, capsys.readouterr().out.splitlines())
    assert done == {"event": "done", "input": "a.png", "output": "out/a.png", "width": 40, "height": 30,
                    "seconds": 1.0, "bytes": 99, "verdict": "clean", "score_db": 0.1}  # fmt: skip
    assert failed == {"event": "failed", "input": "b.png", "reason": "b.png: broken"}
    assert message == {"event": "message", "level": "warning", "text": "c.png: strange"}
    assert (near.counts["done"], near.counts["failed"]) == (1, 1)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--workers", 2), "--workers: is for --engine ray"),
        (("--gpus-per-worker", 1), "--gpus-per-worker: is for --engine ray"),
        (("--engine", "ray", "--device", "cuda:0"), "--device cuda:0: with --engine ray use auto"),
        (("--engine", "ray", "--device", "cpu", "--gpus-per-worker", 1), "not with --device cpu"),
    ],
)
def test_options_of_engines_that_contradict_are_refused(
    options: tuple, reason: str, strsr: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    result = strsr("upscale", photos, tmp_path / "out", *options)
    assert result.exit_code == 2, result.output
    assert reason in result.stderr


def test_single_images_and_streams_are_not_for_ray(
    strsr: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    for source, target in ((photos / "cat.png", tmp_path / "a.png"), ("-", "-")):
        result = strsr("upscale", source, target, "--engine", "ray")
        assert result.exit_code == 2, result.output
        assert "--engine ray: is for folders" in result.stderr


@pytest.mark.parametrize(
    ("address", "code", "reason"),
    [
        ("127.0.0.1:9", 3, "RAY_ADDRESS=127.0.0.1:9: no Ray cluster answers: Connection refused"),
        ("ray://127.0.0.1:10001", 2, "is of Ray Client; run the command on a node"),
    ],
)
def test_addresses_without_a_cluster_are_told_at_once(
    address: str,
    code: int,
    reason: str,
    strsr: Callable[..., Result],
    photos: Path,
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", address)
    result = strsr("upscale", photos, tmp_path / "out", "--weights", tiny_weights, "--engine", "ray")
    assert result.exit_code == code, result.output
    assert reason in result.stderr
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.png"))


def test_dry_run_for_ray_prints_what_workers_cost(
    strsr: Callable[..., Result], photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    args = ("upscale", photos, tmp_path / "out", "--weights", tiny_weights, "--engine", "ray", "--dry-run")
    lines = strsr(*args).stdout.splitlines()
    rows = [line.split() for line in lines if line.strip()[:2].strip().isdecimal() and "%" in line]
    assert [row[0] for row in rows] == ["1", "4", "16", "64"]
    forecast = json.loads(strsr(*args, "--json").stdout.splitlines()[-1])
    assert [row["workers"] for row in forecast["cluster"]] == [1, 4, 16, 64]
    one, four = forecast["cluster"][:2]
    # Two small pictures: the other two of four workers have nothing to do.
    assert one["chunks"] == four["chunks"] == 2
    assert one["idle"] == 0
    assert four["idle"] >= 0.5
    assert one["seconds"] >= four["seconds"] > 0
    local = json.loads(strsr(*args[:-3], "--dry-run", "--json").stdout.splitlines()[-1])
    assert "cluster" not in local
    assert not (tmp_path / "out").exists()


def test_workers_reach_stores_by_the_command_s_variables() -> None:
    here = {"AWS_ENDPOINT_URL": "http://s", "AWS_REGION": "eu", "HF_TOKEN": "t", "GOOGLE_CLOUD_PROJECT": "p"}
    # Those are of the machine that the command runs on, and of nothing else.
    of_machine = {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/x", "AWS_BATCH_JOB_ID": "1", "PATH": "/bin"}
    assert store_variables({**here, **of_machine}) == here
    none = {"AWS_SESSION_TOKEN": "", "AWS_PROFILE": ""}
    key = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    assert store_variables(key) == {**key, **none}


def test_a_node_s_token_never_goes_with_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the node's")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the node's")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the node's")
    take_over({})
    assert os.environ["AWS_SESSION_TOKEN"] == "the node's"
    take_over(store_variables({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}))
    assert "AWS_SESSION_TOKEN" not in os.environ
    assert os.environ["AWS_ACCESS_KEY_ID"] == "a"


def order(**places: object) -> Order:
    settings = {"root": None, "place": None, "sample": None, "session": "", "weights": ""}
    return Order(options=None, cpus=1, gpus=0.0, folder=str(Path.cwd()), **{**settings, **places})  # type: ignore[arg-type]


def test_nodes_that_reach_no_inputs_or_outputs_are_unfit(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    check_node(order(root=tmp_path, sample=tmp_path))
    with pytest.raises(DeviceError, match="all nodes must share INPUT and OUTPUT"):
        check_node(order(root=tmp_path / "none"))
    nowhere = Place("http://127.0.0.1:9")
    with pytest.raises(DeviceError, match=r"a.png: no such object; where the command runs it is"):
        check_node(order(sample=RemoteFile(nowhere, "a.png")))
    assert "secret" not in repr(order(variables={"AWS_SECRET_ACCESS_KEY": "secret"}))


def test_work_on_objects_is_told_by_their_bytes() -> None:
    place = Place("s3://bucket")
    jobs = [Job(RemoteFile(place, f"{n}.png", n * 10**6), None, "png") for n in (1, 3)]
    assert amounts(Preflight(jobs, [0.0, 0.0])) == [1.0, 3.0]
    assert amounts(Preflight(jobs, [0.5, 2.0])) == [0.5, 2.0]
    unknown = [Job(RemoteFile(Place("https://host"), "a.png"), None, "png")] * 2
    assert amounts(Preflight(unknown, [0.0, 0.0])) == [1.0, 1.0]
    assert [row["workers"] for row in cost_rows(Preflight([*jobs, *unknown], [0.0] * 4))] == [1, 4, 16, 64]
