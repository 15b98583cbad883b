"""Frames of animations and pages of TIFFs, each as an output of its own."""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import Result

from strsr_cli.batch import journal
from strsr_cli.batch.job import Job
from strsr_cli.batch.plan import make_plan
from strsr_cli.images import animation as frames_module
from strsr_cli.images.read import frames_of, read_frame, read_image, read_size
from strsr_cli.upscale.preflight import output_bytes
from strsr_models import ImageError, UsageError

from ..helpers.animations import Part, apng, gif
from ..helpers.image_files import camera_exif, small_files

Run = Callable[..., Result]
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
PALETTE = [RED, GREEN, BLUE, WHITE]
NOTHING = (0, 0, 0, 0)


def full(index: int, height: int = 4, width: int = 6) -> np.ndarray:
    return np.full((height, width), index)


def rgba(path: Path, number: int) -> np.ndarray:
    """A frame's pixels, (h, w, 4)."""
    picture = read_frame(path, number)
    color = np.broadcast_to(picture.color, (*picture.color.shape[:2], 3))
    top = np.iinfo(color.dtype).max
    alpha = np.full((*color.shape[:2], 1), top, color.dtype) if picture.alpha is None else picture.alpha
    return np.concatenate([color, alpha], axis=2)


def painted(*rows: str, **colors: tuple[int, ...]) -> np.ndarray:
    """An image by letters."""
    known = {"r": RED, "g": GREEN, "b": BLUE, "w": WHITE, ".": NOTHING, **colors}
    return np.array([[(*known[letter], 255)[:4] for letter in row] for row in rows])


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_gif_is_composed_as_viewers_do(tmp_path: Path) -> None:
    hole = np.array([[1, 3], [3, 1]])
    parts = [
        Part(full(0, 2, 4), 1, 1),  # smaller than the screen, whose rest is transparent
        Part(hole, 1, 1, disposal=2, transparent=3),  # over what is there; then cleared
        Part(np.array([[2]]), 5, 3, disposal=3),  # then what was there before
        Part(np.array([[3]]), 0, 0, disposal=0),  # no disposal is named: stays
        Part(full(1, 9, 9), 4, 2, palette=[GREEN, BLUE]),  # reaches beyond the screen
    ]
    path = saved(tmp_path / "a.gif", gif(6, 4, PALETTE, parts))
    assert (frames_of(path), read_size(path, frame=5)) == (5, (4, 6))
    shown = [
        painted("......", ".rrrr.", ".rrrr.", "......"),
        painted("......", ".grrr.", ".rgrr.", "......"),
        painted("......", "...rr.", "...rr.", ".....b"),
        painted("w.....", "...rr.", "...rr.", "......"),
        painted("w.....", "...rr.", "...rbb", "....bb"),
    ]
    for number in (1, 2, 3, 4, 5, 2, 4):  # and back
        np.testing.assert_array_equal(rgba(path, number), shown[number - 1], err_msg=str(number))


def test_a_gif_that_covers_all_has_no_alpha_and_grays_stay_gray(tmp_path: Path) -> None:
    grays = [(9, 9, 9), (200, 200, 200)]
    parts = [Part(full(0)), Part(np.array([[1]]), 2, 2, transparent=0)]
    picture = read_frame(saved(tmp_path / "a.gif", gif(6, 4, grays, parts)), 2)
    assert picture.alpha is None
    assert picture.color.shape == (4, 6, 1)
    assert (picture.color[2, 2, 0], picture.color[0, 0, 0]) == (200, 9)


def pixel(*values: int, dtype: type = np.uint8) -> np.ndarray:
    return np.array([[values]], dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_apng_is_composed_as_its_standard_says(tmp_path: Path, dtype: type) -> None:
    top = np.iinfo(dtype).max
    half = top // 2 + 1
    ground = np.full((2, 3, 4), (top, 0, 0, top), dtype)
    parts = [
        Part(ground, disposal=0),
        Part(pixel(0, 0, top, half, dtype=dtype), 0, 0, disposal=2, over=True),  # then back
        Part(
            pixel(0, 0, top, half, dtype=dtype), 1, 0, disposal=1
        ),  # in place of what is there; then cleared
        Part(pixel(0, top, 0, half, dtype=dtype), 1, 0, over=True),  # over nothing
        Part(pixel(top, 0, 0, half, dtype=dtype), 1, 0, over=True),  # half over half
    ]
    path = saved(tmp_path / "a.png", apng(3, 2, 6, parts, default=np.zeros((2, 3, 4), dtype)))
    assert frames_of(path) == 5
    red = [top, 0, 0, top]
    shown = {
        1: [red, red],
        2: [[top - half, 0, half, top], red],
        3: [red, [0, 0, top, half]],
        4: [red, [0, top, 0, half]],
        5: [red, [round(top * 2 / 3), round(top / 3), 0, round(top * 0.75)]],
    }
    for number, expected in shown.items():
        pixels = rgba(path, number)
        assert pixels.dtype == dtype
        assert np.abs(pixels[0, :2].astype(int) - expected).max() <= 1, number
        np.testing.assert_array_equal(pixels[1], [red] * 3)


def test_an_apng_without_alpha_gets_one_where_it_is_cleared(tmp_path: Path) -> None:
    parts = [Part(np.full((2, 2, 1), 7, np.uint8), disposal=1), Part(np.full((1, 1, 1), 9, np.uint8))]
    path = saved(tmp_path / "a.png", apng(2, 2, 0, parts))
    first, second = read_frame(path, 1), read_frame(path, 2)
    assert (first.alpha, first.color.shape) == (None, (2, 2, 1))
    assert second.alpha is not None
    np.testing.assert_array_equal(second.alpha[..., 0], [[255, 0], [0, 0]])


@pytest.mark.parametrize("kind", ["webp", "avif", "gif", "png"])
def test_animations_of_other_programs(tmp_path: Path, photo: np.ndarray, kind: str) -> None:
    images = [Image.fromarray(np.roll(photo[:40, :50], 7 * number, axis=1)) for number in range(4)]
    path = tmp_path / f"a.{kind}"
    given: dict[str, Any] = {"webp": {"lossless": True}, "avif": {"quality": 100}}.get(kind, {})
    apply_orientation = kind in ("webp", "png")
    if apply_orientation:
        given["exif"] = camera_exif(orientation=6)
    images[0].save(path, save_all=True, append_images=images[1:], **given)
    assert frames_of(path) == 4
    for number in (3, 1, 2, 4):
        assert read_size(path, frame=number) == ((50, 40) if apply_orientation else (40, 50))
        picture = read_frame(path, number)
        upright = np.rot90(picture.color) if apply_orientation else picture.color
        error = np.abs(upright.astype(int) - np.asarray(images[number - 1])).mean()
        assert error < {"avif": 2, "gif": 12}.get(kind, 0.01), number
        if apply_orientation:
            assert picture.metadata.exif is not None
            assert b"Tester" in picture.metadata.exif


def test_pages_have_tags_of_their_own_and_thumbnails_are_none(tmp_path: Path, photo: np.ndarray) -> None:
    pages = [photo[:40, :50], photo[:30, :20, 0].astype(np.uint16) * 257, photo[:24, :32] / np.float32(255)]
    kinds: dict[str, dict[str, Any]] = {
        "a.tif": {},
        "big.tif": {"bigtiff": True},
        "mm.tif": {"byteorder": ">"},
    }
    for name, options in kinds.items():
        path = tmp_path / name
        with tifffile.TiffWriter(path, **options) as file:
            for number, page in enumerate(pages):
                more: dict[str, Any] = {"compression": "zlib"} if number else {"subifds": 1}
                words = f"page {number + 1}"
                more["photometric"] = "rgb" if page.ndim == 3 else "minisblack"
                file.write(
                    page, description=words, metadata=None, resolution=(72 + number, 72 + number), **more
                )
                if number == 0:
                    file.write(
                        page[::2, ::2], subfiletype=1, metadata=None, photometric="rgb"
                    )  # below the page
                    file.write(page[::2, ::2], subfiletype=1, metadata=None, photometric="rgb")  # beside it
        assert frames_of(path) == 3
        for number in (2, 1, 3):
            picture = read_frame(path, number)
            assert read_size(path, frame=number) == pages[number - 1].shape[:2]
            np.testing.assert_array_equal(picture.color.squeeze(), pages[number - 1])
            assert picture.color.dtype == pages[number - 1].dtype
            assert picture.metadata.dpi == (71 + number, 71 + number)
            assert name == "big.tif" or f"page {number}".encode() in (picture.metadata.exif or b"")


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg"])
def test_pages_that_pillow_writes(tmp_path: Path, photo: np.ndarray, compression: str) -> None:
    images = [Image.fromarray(np.roll(photo[:40, :50], 9 * number, axis=1)) for number in range(3)]
    path = tmp_path / "a.tif"
    images[0].save(path, save_all=True, append_images=images[1:], compression=compression)
    for number in (1, 3, 2):
        error = np.abs(read_frame(path, number).color.astype(int) - np.asarray(images[number - 1])).mean()
        assert error < (6 if compression == "jpeg" else 0.01)


def test_deep_pages_are_taken_out_of_their_file_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    ways: list[dict[str, Any]] = [
        {"tile": (16, 16), "compression": "zlib", "predictor": True},
        {"rowsperstrip": 3, "compression": "zlib"},
        {"planarconfig": "separate", "photometric": "rgb"},
        {"photometric": "rgb", "extrasamples": ["unassalpha"]},
        {"photometric": "minisblack", "dtype": np.float16},
    ]
    pages = [
        rng.integers(0, 65_536, shape).astype(np.uint16)
        for shape in ((37, 41), (37, 41), (3, 20, 30), (9, 8, 4))
    ] + [rng.random((7, 9)).astype(np.float16)]
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for page, way in zip(pages, ways, strict=True):
            file.write(page, metadata=None, **{"photometric": "minisblack", **way})
    pages[2] = pages[2].transpose(1, 2, 0)
    for number, page in enumerate(pages, start=1):
        picture = read_frame(path, number)
        parts = [picture.color] if picture.alpha is None else [picture.color, picture.alpha]
        np.testing.assert_array_equal(np.concatenate(parts, axis=2).squeeze(), page)


@pytest.mark.parametrize(("kind", "given"), [("gif", {"disposal": 3}), ("png", {"disposal": 2, "blend": 1})])
def test_frames_are_those_that_opencv_shows(tmp_path: Path, kind: str, given: dict[str, int]) -> None:
    images, path = [], tmp_path / f"a.{kind}"
    for number in range(5):
        pixels = np.zeros((30, 40, 4), np.uint8)
        pixels[5:15, 3 * number : 3 * number + 8] = (250, 40 * number, 10, 255)
        pixels[20:25, 30 - 3 * number : 36 - 3 * number] = (0, 200, 30 * number, 128)
        images.append(Image.fromarray(pixels))
    images[0].save(path, save_all=True, append_images=images[1:], duration=50, **given)  # type: ignore[arg-type]
    whole, shown = cv2.imreadanimation(str(path))
    assert whole
    for number, frame in enumerate(shown.frames, start=1):
        ours, theirs = rgba(path, number), frame[..., [2, 1, 0, 3]]
        visible = (ours[..., 3:] > 0) | (theirs[..., 3:] > 0)
        assert (np.abs(ours.astype(int) - theirs) * visible).max() <= 1


def test_stills_and_previews_are_no_animations(tmp_path: Path) -> None:
    moving = ("moving.gif", "moving.webp", "moving.png", "pages.tif")
    for name, data in small_files().items():
        assert frames_of(saved(tmp_path / name, data)) == (2 if name in moving else 1), name
    image = Image.new("RGB", (8, 8))
    image.save(tmp_path / "camera.jpg", "MPO", save_all=True, append_images=[image])
    assert frames_of(tmp_path / "camera.jpg") == 1


def damaged_gif(data: bytes) -> bytes:
    """Codes that mean nothing, in the third frame."""
    at = [number for number in range(len(data)) if data.startswith(b"\x07\x1a\x80", number)][2]
    return data[: at + 3] + b"\xff" * 8 + data[at + 11 :]


def five_frames(kind: str) -> bytes:
    """6x4 px, and each of another shade."""
    if kind == "png":
        return apng(6, 4, 0, [Part(np.full((4, 6, 1), 40 * number, np.uint8)) for number in range(1, 6)])
    grays = [(40 * number,) * 3 for number in range(6)]
    return gif(6, 4, grays, [Part(full(number)) for number in range(1, 6)])


@pytest.mark.parametrize(
    ("kind", "damage", "count"),
    [
        ("gif", damaged_gif, 5),
        ("gif", lambda data: data[: data.index(bytes([3] * 10)) + 9], 3),
        ("png", lambda data: data[: data.rindex(b"fcTL") - 90], 5),
        ("png", lambda data: data[: (at := data.index(b"fdAT") + 77)] + b"?" + data[at + 1 :], 5),
    ],
    ids=["codes of a GIF", "a GIF cut", "an APNG cut", "an APNG's checksum"],
)
def test_frames_before_a_damaged_one_come_out(
    strsr: Run, tiny_weights: Path, tmp_path: Path, kind: str, damage: Callable[[bytes], bytes], count: int
) -> None:
    path = saved(tmp_path / f"a.{kind}", damage(five_frames(kind)))
    out = tmp_path / "out"
    result = strsr("upscale", path, out, "--frames", "all", "--scale", 2, "--weights", tiny_weights, "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1, result.output
    assert sorted(file.name for file in out.glob("*.png")) == ["a_0001.png", "a_0002.png"]
    reasons = {event["input"]: event["reason"] for event in events if event["event"] == "failed"}
    assert sorted(reasons) == [f"{path} (frame {number})" for number in range(3, count + 1)]
    for number in range(4, count + 1):
        assert "builds on frame 3" in reasons[f"{path} (frame {number})"]
    assert events[-1]["found"] == count


def test_frames_are_planned_made_and_known_again(
    strsr: Run, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    saved(folder / "clip.gif", five_frames("gif"))
    saved(folder / "clip_0002.png", small_files()["one-bit.png"])
    saved(folder / "broken.gif", b"GIF89a")
    saved(folder / "claims.png", five_frames("png").replace(struct.pack(">I", 5), b"\x7f\0\0\0", 1))
    names = ["clip_0001.png", "clip_0002.gif.png", *(f"clip_000{number}.png" for number in (3, 4, 5))]
    args = ("upscale", folder, out, "--frames", "all", "--scale", 2, "--weights", tiny_weights, "--json")
    dry = [json.loads(line) for line in strsr(*args, "--dry-run").stdout.splitlines()]
    assert [Path(e["output"]).name for e in dry if "clip.gif" in e.get("input", "")] == names
    assert (dry[-1]["to_make"], dry[-1]["will_fail"]) == (6, 2)

    hashed: list[Path] = []
    real = journal.sha256_of
    monkeypatch.setattr(journal, "sha256_of", lambda path: hashed.append(path) or real(path))
    result = strsr(*args)
    assert result.exit_code == 1, result.output
    assert sorted(path.name for path in out.glob("*.png")) == sorted([*names, "clip_0002.png"])
    assert hashed.count(folder / "clip.gif") == 1
    for number, name in enumerate(names, start=1):
        with Image.open(out / name) as image:
            assert image.size == (12, 8)
            np.testing.assert_allclose(np.asarray(image).mean(), 40 * number, atol=12)

    (out / names[3]).unlink()
    last = json.loads(strsr(*args).stdout.splitlines()[-1])
    assert (last["found"], last["done"], last["skipped"], last["failed"]) == (8, 1, 5, 2)


def test_a_single_animation_becomes_a_folder(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.gif", five_frames("gif"))
    still = saved(tmp_path / "b.png", small_files()["one-bit.png"])
    out = str(tmp_path / "out")
    plan = make_plan(str(path), out, "jpg", frames=True)
    assert [str(job.target) for job in plan.jobs[:2]] == [f"{out}/a_0001.jpg", f"{out}/a_0002.jpg"]
    assert plan.root == Path(out)
    assert [job.target for job in make_plan(str(still), out, "keep", frames=True).jobs] == [
        Path(out, "b.png")
    ]
    beside = make_plan(str(path), None, "keep", add="_x4", frames=True)
    assert beside.jobs[4].target == tmp_path / "a_0005_x4.png"
    for source, target in ((path, "out.png"), (path, "-"), (still, "out.jpg"), ("-", out)):
        with pytest.raises(UsageError, match="--frames all"):
            make_plan(str(source), str(target), "keep", frames=True)


def test_a_frame_is_estimated_by_its_share_of_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", bytes(300_000))
    page = Job(path, tmp_path / "a_0001.tif", "tif", 1, 10)
    assert output_bytes(page, 16_000, 1_000) == 16_000 * 15 + 1024


def test_frames_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    first, second = (gif(6, 4, PALETTE, count * [Part(full(0))]) for count in (1, 2))
    frame = second[len(first) - 1 : -1]
    assert second == first[:-1] + frame + b";"
    many = {"gif": first[:-1] + 10_000 * frame + b";"}
    # An APNG says how many it has; it must be large enough for them.
    five = five_frames("png")
    many["png"] = five.replace(struct.pack(">I", 5), struct.pack(">I", 10_001), 1) + bytes(10_001 * 50)
    for kind, data in many.items():
        with pytest.raises(ImageError, match="more than 10,000 frames"):
            frames_of(saved(tmp_path / f"a.{kind}", data))


def test_frames_of_any_size_are_bounded(tmp_path: Path) -> None:
    data = bytearray(gif(6, 4, PALETTE, [Part(full(0)), Part(full(1))]))
    at = data.rindex(b",\0\0\0\0\6\0\4\0")
    data[at + 5 : at + 9] = b"\xff" * 4
    path = saved(tmp_path / "a.gif", bytes(data))
    assert read_frame(path, 1).color.shape == (4, 6, 3)
    with pytest.raises(ImageError, match="--max-pixels"):
        read_frame(path, 2)


def test_frames_are_decoded_once_in_whatever_order_threads_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.gif", gif(6, 4, PALETTE, [Part(full(number % 4)) for number in range(40)]))
    decoded = []
    real = frames_module._rgba
    monkeypatch.setattr(frames_module, "_rgba", lambda *args: decoded.append(1) or real(*args))
    order = [number + 1 for start in range(0, 40, 4) for number in (start + 1, start, start + 3, start + 2)]
    with ThreadPoolExecutor(4) as pool:
        shown = dict(zip(order, pool.map(lambda number: rgba(path, number)[0, 0, :3], order), strict=True))
    assert [tuple(shown[number + 1]) for number in range(40)] == [PALETTE[number % 4] for number in range(40)]
    assert len(decoded) == 40


def test_a_gif_without_its_end_is_remarked_upon_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(tmp_path / "a.gif", five_frames("gif")[:-1])
    for number in (1, 2, 5):
        read_frame(path, number)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: has no end mark, so that there may have been more frames"
    ]


def test_a_file_that_changes_is_opened_again(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.gif", five_frames("gif"))
    assert read_frame(path, 2).color[0, 0, 0] == 80
    saved(path, gif(6, 4, PALETTE, [Part(full(0)), Part(full(3)), Part(full(3))]))
    assert read_frame(path, 2).color[0, 0, 0] == 255


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_given_by_name_is_read_once(tiny_weights: Path, strsr: Run, tmp_path: Path) -> None:
    pipe, out = tmp_path / "pipe", tmp_path / "out.png"
    os.mkfifo(pipe)
    data = small_files()["gray.jpg"]
    writer = threading.Thread(target=lambda: pipe.write_bytes(data), daemon=True)
    writer.start()
    result = strsr("upscale", pipe, out, "--scale", 2, "--weights", tiny_weights)
    assert result.exit_code == 0, result.output
    assert read_image(out).color.shape == (20, 24, 1)
    for options in (("--frames", "all"), ("--in-place-suffix", "_x4")):
        assert strsr("upscale", pipe, *([out] if "all" in options else []), *options).exit_code == 2
