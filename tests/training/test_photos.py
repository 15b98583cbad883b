"""Photos of a folder: listed, read, kept, lost on the way, and hashed."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from strsr_cli.training.data.crops import Crops
from strsr_cli.training.data.photos import data_hash, load_photos
from strsr_models.errors import StrsrError, UsageError

from ..conftest import EXAMPLES
from ..helpers.batches import assert_same, run


def test_photos_of_every_kind_come_as_three_channels_in_8_bits(tmp_path: Path, photo: np.ndarray) -> None:
    gray = photo[..., 1]
    Image.fromarray(photo).save(tmp_path / "a.jpg")
    Image.fromarray(gray).save(tmp_path / "b.png")
    Image.fromarray(np.dstack([photo, gray])).save(tmp_path / "c.webp")
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "d.png")
    Image.fromarray(photo).save(tmp_path / "e.bmp")
    turned = Image.Exif()
    turned[274] = 6  # lies on its side
    Image.fromarray(photo).save(tmp_path / "f.jpg", exif=turned)
    photos = load_photos([tmp_path], 32)
    shapes = [photos.read(index)[0].shape for index in range(len(photos))]
    assert shapes == [(120, 160, 3)] * 5 + [(160, 120, 3)]
    assert all(photos.read(index)[0].dtype == np.uint8 for index in range(len(photos)))


def test_photos_unreadable_or_small_are_named_and_skipped(
    photo_folder: Path, photo: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    (photo_folder / "damaged.jpg").write_text("no")
    (photo_folder / "empty.png").touch()
    (photo_folder / "notes.txt").write_text("not a photo")
    (photo_folder / ".hidden.png").write_text("no")
    Image.fromarray(photo[:31]).save(photo_folder / "flat.png")
    photos = load_photos([photo_folder], 32)
    assert [file.name for file in photos.files] == ["0.png", "1.png", "2.png", "3.png", "more/4.webp"]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    assert all(message.startswith("skipped: ") for message in messages)
    assert any("damaged.jpg: not a PNG" in message for message in messages)
    assert any(
        "empty.png: not a PNG, JPEG, WebP, TIFF or BMP image, or empty" in message for message in messages
    )
    assert any("flat.png: 160x31 px is smaller than 32" in message for message in messages)


def test_listing_decodes_nothing(photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow decodes a whole PNG to look for its orientation; 85,000 of them would take an hour."""
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    assert len(load_photos([photo_folder], 32, cache_gb=0)) == 5


def test_photos_skipped_in_great_number_are_counted(
    photo_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(25):
        (photo_folder / f"bad{number}.jpg").write_text("no")
    assert len(load_photos([photo_folder], 32)) == 5
    assert len(caplog.records) == 11
    assert caplog.records[-1].getMessage() == "skipped: 15 more, 25 in all"


def test_a_folder_without_photos_is_refused(photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for where, smallest in ((tmp_path / "empty", 32), (photo_folder, 121)):
        with pytest.raises(
            UsageError, match=f"{where.name}: no photo of at least {smallest} px on its short"
        ):
            load_photos([where], smallest)
    with pytest.raises(UsageError, match="missing: no such folder"):
        load_photos([tmp_path / "missing"], 32)


def test_the_cache_keeps_to_its_budget_and_changes_no_sample(photo_folder: Path) -> None:
    size = 3 * 120 * 160
    by_budget = [load_photos([photo_folder], 32, cache_gb=count * size / 1e9) for count in (0, 2.5, 5)]
    assert [len(photos.decoded) for photos in by_budget] == [0, 2, 5]
    runs = [run(Crops(photos, 32, 3)) for photos in by_budget]
    assert_same(runs[0], runs[1])
    assert_same(runs[0], runs[2])


def test_processes_not_forked_get_the_list_without_the_pixels(photo_folder: Path) -> None:
    photos = load_photos([photo_folder], 32)
    copy = pickle.loads(pickle.dumps(photos))
    assert len(photos.decoded) == 5
    assert not copy.decoded
    assert np.array_equal(copy.read(1)[0], photos.read(1)[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_photo_lost_is_replaced_by_the_next_and_told_once(
    photo_folder: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    photos = load_photos([photo_folder], 32, cache_gb=0)
    data = (photo_folder / "1.png").read_bytes()
    (photo_folder / "1.png").write_bytes(data[: len(data) // 2])  # the header is whole
    assert np.array_equal(photos.read(1)[0], photos.read(2)[0])
    assert load_photos([photo_folder], 32).decoded.keys() == {0, 2, 3, 4}
    batches_ = run(Crops(photos, 32, 0), stop=6, workers=workers)
    assert [record.getMessage().count("1.png: cannot be decoded") for record in caplog.records] == [1]
    assert "another photo stands in for it" in caplog.records[0].getMessage()
    assert_same(batches_, run(Crops(load_photos([photo_folder], 32), 32, 0), stop=6))


def test_a_photo_that_shrank_counts_as_lost(photo_folder: Path, photo: np.ndarray) -> None:
    photos = load_photos([photo_folder], 32, cache_gb=0)
    Image.fromarray(photo[:20]).save(photo_folder / "0.png")
    pixels, lost = photos.read(0)
    assert np.array_equal(pixels, photos.read(1)[0])
    assert lost == (f"{photo_folder / '0.png'}: has become smaller than 32 px",)


def test_photos_that_are_all_gone_are_an_error(photo_folder: Path) -> None:
    photos = load_photos([photo_folder], 32, cache_gb=0)
    shutil.rmtree(photo_folder)
    with pytest.raises(StrsrError, match="none of the 5 photos can be read any more"):
        run(Crops(photos, 32, 0))


def test_the_data_hash_names_the_photos_wherever_they_lie(photo_folder: Path, tmp_path: Path) -> None:
    first = data_hash(load_photos([photo_folder], 32))
    assert len(first) == 64
    moved = shutil.copytree(photo_folder, tmp_path / "elsewhere")
    assert data_hash(load_photos([moved], 32)) == first
    assert (
        data_hash(load_photos([moved, photo_folder], 32))
        == data_hash(load_photos([photo_folder, moved], 32))
        != first
    )
    (moved / "0.png").rename(moved / "9.png")
    renamed = data_hash(load_photos([moved], 32))
    with (moved / "9.png").open("ab") as file:
        file.write(b"\0")
    assert len({first, renamed, data_hash(load_photos([moved], 32))}) == 3


def test_the_data_hash_is_that_of_its_description(tmp_path: Path, photo: np.ndarray) -> None:
    """Golden: sha256 of "name<tab>bytes<newline>" lines in order."""
    import hashlib

    shutil.copy(EXAMPLES / "cat.png", tmp_path / "b.png")
    shutil.copy(EXAMPLES / "cat.png", tmp_path / "a.png")
    size = (EXAMPLES / "cat.png").stat().st_size
    expected = hashlib.sha256(f"a.png\t{size}\nb.png\t{size}\n".encode()).hexdigest()
    assert data_hash(load_photos([tmp_path], 32)) == expected
