from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from strsr_cli.training.data.crops import Batch, Crops, FromStep, batches, draw_crop, fit, join, prepare
from strsr_cli.training.data.degrade import DegradeConfig
from strsr_cli.training.data.photos import Photos, data_hash, load_photos
from strsr_cli.training.preview import write_preview
from strsr_models.errors import StrsrError, UsageError

from ..conftest import EXAMPLES

CPU = torch.device("cpu")
FIELDS = ("hq", "lq_up", "picture")


@pytest.fixture
def folder(tmp_path: Path, photo: np.ndarray) -> Path:
    """Five photos that differ, one in a folder below."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number in range(4):
        Image.fromarray(np.roll(photo, 31 * number, axis=1)).save(folder / f"{number}.png")
    Image.fromarray(photo[::-1].copy()).save(folder / "more" / "4.webp", lossless=True)
    return folder


@pytest.fixture
def photos(folder: Path) -> Photos:
    return load_photos([folder], 32)


def run(crops: Crops, start: int = 0, stop: int = 3, batch_size: int = 4, **more: int) -> list[Batch]:
    options = {"workers": 0, **more}
    return list(
        batches(crops, DegradeConfig(), CPU, start=start, stop=stop, batch_size=batch_size, **options)
    )


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        for name in FIELDS:
            assert torch.equal(getattr(a, name), getattr(b, name)), name


# --- photos ----------------------------------------------------------------------------------------


def test_photos_of_every_kind_come_as_three_channels_of_eight_bits(tmp_path: Path, photo: np.ndarray) -> None:
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


def test_unreadable_and_small_photos_are_named_and_skipped(
    folder: Path, photo: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "damaged.jpg").write_text("no")
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("not a photo")
    (folder / ".hidden.png").write_text("no")
    Image.fromarray(photo[:31]).save(folder / "flat.png")
    photos = load_photos([folder], 32)
    assert [file.name for file in photos.files] == ["0.png", "1.png", "2.png", "3.png", "more/4.webp"]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    assert all(message.startswith("skipped: ") for message in messages)
    assert any("damaged.jpg: not a PNG" in message for message in messages)
    assert any(
        "empty.png: not a PNG, JPEG, WebP, TIFF or BMP image, or empty" in message for message in messages
    )
    assert any("flat.png: 160x31 px is smaller than 32" in message for message in messages)


def test_listing_decodes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow decodes a whole PNG to look for its orientation; 85,000 of them would take an hour."""
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert len(load_photos([folder], 32, cache_gb=0)) == 5


def test_many_skipped_photos_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(25):
        (folder / f"bad{number}.jpg").write_text("no")
    assert len(load_photos([folder], 32)) == 5
    assert len(caplog.records) == 11
    assert caplog.records[-1].getMessage() == "skipped: 15 more, 25 in all"


def test_a_folder_without_photos_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for where, smallest in ((tmp_path / "empty", 32), (folder, 121)):
        with pytest.raises(
            UsageError, match=f"{where.name}: no photo of at least {smallest} px on its short"
        ):
            load_photos([where], smallest)
    with pytest.raises(UsageError, match="missing: no such folder"):
        load_photos([tmp_path / "missing"], 32)


def test_the_cache_keeps_to_its_budget_and_changes_no_sample(folder: Path) -> None:
    size = 3 * 120 * 160
    by_budget = [load_photos([folder], 32, cache_gb=count * size / 1e9) for count in (0, 2.5, 5)]
    assert [len(photos.decoded) for photos in by_budget] == [0, 2, 5]
    runs = [run(Crops(photos, 32, 3)) for photos in by_budget]
    assert_same(runs[0], runs[1])
    assert_same(runs[0], runs[2])


def test_processes_that_are_not_forked_get_the_list_without_the_pixels(photos: Photos) -> None:
    copy = pickle.loads(pickle.dumps(photos))
    assert len(photos.decoded) == 5
    assert not copy.decoded
    assert np.array_equal(copy.read(1)[0], photos.read(1)[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_photo_lost_on_the_way_is_replaced_by_the_next_and_told_once(
    folder: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    photos = load_photos([folder], 32, cache_gb=0)
    data = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(data[: len(data) // 2])  # the header is whole
    assert np.array_equal(photos.read(1)[0], photos.read(2)[0])
    assert load_photos([folder], 32).decoded.keys() == {0, 2, 3, 4}
    batches_ = run(Crops(photos, 32, 0), stop=6, workers=workers)
    assert [record.getMessage().count("1.png: cannot be decoded") for record in caplog.records] == [1]
    assert "another photo stands in for it" in caplog.records[0].getMessage()
    assert_same(batches_, run(Crops(load_photos([folder], 32), 32, 0), stop=6))


def test_a_photo_that_shrank_counts_as_lost(folder: Path, photo: np.ndarray) -> None:
    photos = load_photos([folder], 32, cache_gb=0)
    Image.fromarray(photo[:20]).save(folder / "0.png")
    pixels, lost = photos.read(0)
    assert np.array_equal(pixels, photos.read(1)[0])
    assert lost == (f"{folder / '0.png'}: has become smaller than 32 px",)


def test_no_photo_left_is_an_error_not_an_endless_search(folder: Path) -> None:
    photos = load_photos([folder], 32, cache_gb=0)
    shutil.rmtree(folder)
    with pytest.raises(StrsrError, match="none of the 5 photos can be read any more"):
        run(Crops(photos, 32, 0))


def test_the_data_hash_names_the_photos_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    first = data_hash(load_photos([folder], 32))
    assert len(first) == 64
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert data_hash(load_photos([moved], 32)) == first
    assert data_hash(load_photos([moved, folder], 32)) == data_hash(load_photos([folder, moved], 32)) != first
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


# --- crops -----------------------------------------------------------------------------------------


def test_reducing_bytes_is_reducing_floats(photo: np.ndarray) -> None:
    for side, mode in ((48, "bicubic"), (128, "bilinear")):
        square = photo[:, 20:140]
        floats = torch.from_numpy(square.copy()).permute(2, 0, 1)[None].float()
        expected = F.interpolate(floats, (side, side), mode=mode, antialias=True).clamp(0, 255)
        assert (fit(square, side, mode).float() - expected).abs().max() <= 1


@pytest.mark.parametrize("seed", range(16))
def test_crop_and_picture_are_turned_alike(seed: int) -> None:
    """On ramps along the two axes, the picture's slopes have the signs of the crop's."""
    rows, columns = np.mgrid[0:200, 0:260]
    photo = np.stack([rows, columns * 0.9, rows * 0], axis=-1).astype(np.uint8)
    crop, picture = draw_crop(photo, 64, torch.Generator().manual_seed(seed))
    assert crop.shape == (1, 3, 64, 64)
    assert picture.shape == (1, 3, 128, 128)
    assert crop.dtype == picture.dtype == torch.uint8
    for channel in (0, 1):
        slopes = []
        for image in (crop[0, channel].float(), picture[0, channel].float()):
            down, right = image[-5:].mean() - image[:5].mean(), image[:, -5:].mean() - image[:, :5].mean()
            slopes.append((int(down.sign() * (down.abs() > 9)), int(right.sign() * (right.abs() > 9))))
        assert slopes[0] == slopes[1]
        assert sorted(map(abs, slopes[0])) == [0, 1]


def test_all_eight_turns_come_and_crops_reach_every_border() -> None:
    rows, columns = np.mgrid[0:100, 0:100]
    photo = np.stack([rows, columns, rows * 0], axis=-1).astype(np.uint8)
    turns, low, high = set(), 255, 0
    for seed in range(300):
        crop, _ = draw_crop(photo, 32, torch.Generator().manual_seed(seed))
        corners = crop[0, :2, [0, 0, -1], [0, -1, 0]].int()
        turns.add(tuple((corners[:, 1:] - corners[:, :1]).sign().flatten().tolist()))
        low, high = min(low, int(crop[0, :2].min())), max(high, int(crop[0, :2].max()))
    assert len(turns) == 8
    assert low <= 1
    assert high >= 98


def test_a_crop_as_large_as_the_photo_is_the_photo(photo: np.ndarray) -> None:
    crop, _ = draw_crop(photo[:, :120], 120, torch.Generator().manual_seed(0))
    whole = torch.from_numpy(photo[:, :120].copy()).permute(2, 0, 1)[None]
    turns = [whole.rot90(k, (-2, -1)) for k in range(4)]
    assert any(torch.equal(crop, turned) for turned in [*turns, *(turned.mT for turned in turns)])


# --- batches ---------------------------------------------------------------------------------------


def test_batches_have_their_shapes_and_ranges(photos: Photos) -> None:
    for batch in run(Crops(photos, 48, 1), batch_size=3):
        assert batch.hq.shape == batch.lq_up.shape == (3, 3, 48, 48)
        assert batch.picture.shape == (3, 3, 128, 128)
        for name in FIELDS:
            tensor = getattr(batch, name)
            assert tensor.dtype == torch.float32
            assert not tensor.is_inference()  # autograd takes it
            assert 0 <= tensor.min() <= tensor.max() <= 1


def test_batches_do_not_depend_on_workers(photos: Photos) -> None:
    crops = Crops(photos, 32, 3)
    assert_same(run(crops, 2, 5), run(crops, 2, 5, workers=2))


def test_a_resumed_run_sees_what_it_would_have_seen(photos: Photos) -> None:
    crops = Crops(photos, 32, 3)
    assert_same(run(crops, 0, 5)[3:], run(crops, 3, 5))
    assert not torch.equal(run(crops, 0, 1)[0].hq, run(crops, 1, 2)[0].hq)
    assert not torch.equal(run(crops, 0, 1)[0].hq, run(Crops(photos, 32, 4), 0, 1)[0].hq)


@pytest.mark.parametrize("world", [2, 4])
def test_processes_together_see_what_one_would_see(photos: Photos, world: int) -> None:
    """To the bit, through every kind of degradation: eight steps of four."""
    crops = Crops(photos, 48, 5)
    parts = [run(crops, 0, 8, rank=rank, world=world) for rank in range(world)]
    whole = run(crops, 0, 8)
    for batch, *pieces in zip(whole, *parts, strict=True):
        for name in FIELDS:
            assert torch.equal(getattr(batch, name), torch.cat([getattr(piece, name) for piece in pieces]))


def test_parts_follow_each_other_in_a_batch() -> None:
    assert list(FromStep(2, 4, 6)) == [list(range(12, 18)), list(range(18, 24))]
    assert [list(FromStep(2, 3, 6, rank, 3)) for rank in range(3)] == [[[12, 13]], [[14, 15]], [[16, 17]]]
    assert len(FromStep(2, 4, 6)) == 2


def test_a_batch_that_cannot_be_divided_is_refused_at_once(photos: Photos) -> None:
    with pytest.raises(UsageError, match="batch_size 4: must be divisible by the number of processes, 3"):
        batches(
            Crops(photos, 32, 0),
            DegradeConfig(),
            CPU,
            start=0,
            stop=1,
            batch_size=4,
            workers=0,
            world=3,
        )


def test_sharpening_changes_the_target_and_what_is_made_of_it(photos: Photos) -> None:
    crops = Crops(photos, 64, 2)
    raw = join([crops[number] for number in range(4)])
    plain, sharp = (prepare(raw, 0, DegradeConfig(sharpen=weight), 2, CPU) for weight in (0.0, 0.5))
    assert torch.equal(plain.hq, raw.hq.float() / 255)
    assert (sharp.hq - plain.hq).abs().max() > 0.02
    assert not torch.equal(sharp.lq_up, plain.lq_up)
    assert torch.equal(sharp.picture, plain.picture)


def test_clean_crops_are_close_to_their_targets(photos: Photos) -> None:
    crops = Crops(photos, 64, 2)
    config = DegradeConfig(clean_share=1.0, mild_share=0.0, scale_four_share=0.0, scale=(2.0, 2.0))
    batch = prepare(join([crops[number] for number in range(4)]), 0, config, 2, CPU)
    assert (batch.lq_up - batch.hq).abs().mean() < 0.05
    assert torch.equal(batch.picture, (batch.picture * 255).round() / 255)


@pytest.mark.gpu
def test_processes_together_see_what_one_would_see_on_a_gpu(photos: Photos) -> None:
    """Nearly: where a last bit hangs on the size of a batch, rounding to 8 bits can widen it."""
    crops, gpu = Crops(photos, 48, 5), torch.device("cuda")
    raws = [crops[number] for number in range(16)]
    whole = prepare(join(raws), 0, DegradeConfig(), 5, gpu)
    halves = [prepare(join(raws[part : part + 8]), 0, DegradeConfig(), 5, gpu) for part in (0, 8)]
    for name in FIELDS:
        parts = torch.cat([getattr(half, name) for half in halves])
        assert (getattr(whole, name) - parts).abs().mean() < 1e-4


# --- preview ---------------------------------------------------------------------------------------


def test_the_preview_is_a_sheet_of_rows(photos: Photos, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    write_preview(sheet, Crops(photos, 64, 0), DegradeConfig(), batch_size=4)
    with Image.open(sheet) as image:
        pixels = np.array(image)
    assert pixels.shape == (28 + 8 * 198, 124 + 2 * 198, 3)
    # The crop is shown three times as large, each pixel a square.
    cell = pixels[28 : 28 + 192, 124 : 124 + 192]
    assert np.array_equal(cell, cell[::3, ::3].repeat(3, 0).repeat(3, 1))
    assert (pixels[28:220, :124] < 128).any()  # a label
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["sheet.png"]


def test_the_preview_shows_what_the_run_will_see(photos: Photos, tmp_path: Path) -> None:
    crops, sheet = Crops(photos, 192, 0), tmp_path / "sheet.png"
    photos.smallest = 0
    write_preview(sheet, crops, DegradeConfig(), batch_size=2, rows=1)
    first = run(crops, 0, 1, batch_size=2)[0].hq[0]
    with Image.open(sheet) as image:
        shown = np.array(image)[28 : 28 + 192, 124 : 124 + 192]
    assert np.abs(shown / 255 - first.permute(1, 2, 0).numpy()).max() < 1e-6


def test_a_preview_of_one_kind_has_all_its_rows(photos: Photos, tmp_path: Path) -> None:
    config = DegradeConfig(clean_share=0.0, mild_share=0.0)
    write_preview(tmp_path / "sheet.png", Crops(photos, 32, 0), config, batch_size=4, rows=3)
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size[1] == 28 + 3 * 198
