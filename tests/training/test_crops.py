"""Crops of photos: cut, turned, joined into batches, and shown by a preview."""

from __future__ import annotations

import errno
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from strsr_cli.training.data.crops import Crops, FromStep, batches, draw_crop, fit, join, prepare
from strsr_cli.training.data.degrade import DegradeConfig
from strsr_cli.training.data.photos import Photos, load_photos
from strsr_cli.training.preview import write_preview
from strsr_models.errors import UsageError

from ..helpers.batches import CPU, FIELDS, assert_same, run
from ..helpers.refusing import refuse


@pytest.fixture
def photos(photo_folder: Path) -> Photos:
    return load_photos([photo_folder], 32)


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


def test_crops_come_in_eight_turns_and_reach_every_border() -> None:
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


@pytest.mark.parametrize("lacking", ["Lock", "share_memory_"])
def test_a_machine_without_semaphores_crops_by_itself(
    photos: Photos, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lacking: str
) -> None:
    crops = Crops(photos, 32, 0)
    expected = run(crops)
    module = multiprocessing if lacking == "Lock" else torch.Tensor
    refuse(monkeypatch, lacking, errno.ENOSYS, module=module)
    assert_same(run(crops, workers=2), expected)
    assert "workers=2: cannot be started here" in caplog.text


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
