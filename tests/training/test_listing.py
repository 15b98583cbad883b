"""Which files are photos: neither what strsr has made nor second names; whose colours they have."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from strsr_cli.batch.journal import Journal, Made, version_of
from strsr_cli.images.color.restorer import network_input
from strsr_cli.images.read import read_image
from strsr_cli.training.data.pairs import PairWindows
from strsr_cli.training.data.photos import Photos, data_hash, have_own_colors, load_photos
from strsr_models import UsageError

from ..helpers.pairs import CPU, Home
from ..helpers.training import run


def names(photos: Photos) -> list[str]:
    return [file.name for file in photos.files]


def test_a_run_s_sheets_are_no_photos_wherever_links_lead(
    photo_folder: Path, tiny_config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_photos([photo_folder], 32)
    out = photo_folder / "run"
    run(photo_folder, out, tiny_config, "steps=1")
    (photo_folder / "back").symlink_to(out / "samples")
    (photo_folder / "sheet.png").symlink_to(out / "samples" / "0000001.png")
    (photo_folder / "more" / "loop").symlink_to(photo_folder)
    with caplog.at_level(logging.WARNING):
        now = load_photos([photo_folder], 32)
    assert names(now) == names(before)
    assert data_hash(now) == data_hash(before)
    assert f"images that strsr made in {out}" in caplog.text
    (out / "config.toml").unlink()
    assert names(load_photos([photo_folder], 32)) == names(before)


def test_outputs_by_their_journal_are_no_photos(photo_folder: Path) -> None:
    output, own = photo_folder / "more" / "big.png", photo_folder / "more" / "own.png"
    for path in (output, own):
        Image.new("RGB", (64, 64), "red").save(path)
    journal = Journal(photo_folder / "more")
    version = version_of(output, [])
    journal.done(output, output, Made(version, version, "settings", "weights"))
    Journal(photo_folder / "more").done(own, own, Made(version, version, "settings", "weights"))
    assert "more/big.png" not in names(load_photos([photo_folder], 32))
    # A person has put another file in an output's place.
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(own)
    assert "more/own.png" in names(load_photos([photo_folder], 32))


def test_data_in_a_run_s_folder_is_refused_in_one_line(
    photo_folder: Path, tiny_config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(photo_folder, out, tiny_config, "steps=1")
    for data, words in ((out, "is the folder of a run"), (out / "samples", f"lies in the run {out}")):
        with pytest.raises(UsageError, match=words):
            run(data, out, tiny_config, "steps=2")


def test_a_photo_with_two_names_counts_once_and_is_told(
    photo_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_photos([photo_folder], 32)
    (photo_folder / "x.png").hardlink_to(photo_folder / "0.png")
    (photo_folder / "y.png").symlink_to("1.png")
    with caplog.at_level(logging.WARNING):
        now = load_photos([photo_folder, photo_folder / "more"], 32)
    assert names(now) == names(before)
    assert f"3 photos that are there twice, such as {photo_folder / 'x.png'}" in caplog.text
    assert now.old_hash not in ("", data_hash(now))
    assert before.old_hash == ""


def test_pairs_of_photos_with_second_names_stay_of_use(home: Home) -> None:
    (home.photos / "again.png").hardlink_to(home.photos / "0.png")
    photos = load_photos([home.photos], 64)
    home.state(
        made_from={
            **json.loads((home.pairs / "pairs.json").read_text())["made_from"],
            "data": photos.old_hash,
        }
    )
    assert len(home.windows()) == 8


def wide_profile() -> bytes:
    """A profile whose red is green: nobody can mistake its numbers for sRGB's."""
    from strsr_cli.images.color.icc import D65, SRGB_CURVE, write_rgb_profile

    return write_rgb_profile(SRGB_CURVE, "wide", ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), D65)


@pytest.fixture
def wide_photo(tmp_path: Path, photo: np.ndarray) -> Path:
    folder = tmp_path / "wide"
    folder.mkdir()
    Image.fromarray(photo).save(folder / "wide.png", icc_profile=wide_profile())
    return folder


def test_photos_are_learnt_from_as_upscale_shows_them(wide_photo: Path, photo: np.ndarray) -> None:
    shown = network_input(read_image(wide_photo / "wide.png"))[0].permute(1, 2, 0).numpy() * 255
    for cache_gb in (0.0, 1.0):
        pixels, _ = load_photos([wide_photo], 32, cache_gb).read(0)
        assert pixels.dtype == np.uint8
        assert np.abs(pixels - shown).max() <= 0.5
        assert np.abs(pixels.astype(int) - photo).max() > 5
    stored, _ = load_photos([wide_photo], 32, colors="stored").read(0)
    assert (stored == photo).all()


def test_photos_without_profiles_keep_their_numbers(photo_folder: Path, photo: np.ndarray) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(photo).save(photo_folder / "0.png", icc_profile=srgb)
    photos = load_photos([photo_folder], 32)
    assert not have_own_colors(photos)
    assert (photos.read(0)[0] == photo).all()


def test_pairs_say_whose_colours_they_have_where_it_matters(home: Home) -> None:
    assert "colors" not in (home.pairs / "pairs.json").read_text()
    first = home.photos / "0.png"
    with Image.open(first) as image:
        image.save(first, icc_profile=wide_profile())
    photos = load_photos([home.photos], 64)
    assert have_own_colors(photos)
    made_from = json.loads((home.pairs / "pairs.json").read_text())["made_from"]
    home.state(made_from={**made_from, "data": data_hash(photos)})
    with pytest.raises(UsageError, match="were made with photo_colors=stored, and some photos have profiles"):
        home.windows()
    from strsr_cli.training.distill import read_distill_config

    config = read_distill_config("lite", None, [*home.settings, "photo_colors=stored"])
    stored = load_photos([home.photos], 64, colors="stored")
    assert len(PairWindows(config, stored, 16, CPU)) == 8
    home.state(made_from={**made_from, "data": data_hash(photos), "colors": "srgb"})
    assert len(home.windows()) == 8


def test_what_is_not_read_is_named_for_what_it_is(
    tmp_path: Path, photo: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    import tifffile

    Image.fromarray(photo).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "float.tif", photo.astype(np.float32) / 255, photometric="rgb")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    with caplog.at_level(logging.WARNING):
        load_photos([tmp_path], 32)
    assert "float.tif: a TIFF of floats, which training does not read; save it as PNG" in caplog.text
    assert "empty.png: not a PNG, JPEG, WebP, TIFF or BMP image, or empty" in caplog.text
    assert "text.png: not a PNG, " in caplog.text


def test_what_a_photo_s_decoder_remarks_is_said_once(
    tmp_path: Path, photo: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [Image.fromarray(photo), Image.fromarray(photo[::-1].copy())]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    photos = load_photos([tmp_path], 32, cache_gb=0)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            photos.read(0)
    assert caplog.text.count("frames, only the first is used") == 1
