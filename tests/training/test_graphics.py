from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from strsr_cli.training.data.crops import Crops, batches, draw_crop, join, prepare
from strsr_cli.training.data.degrade import DegradeConfig
from strsr_cli.training.data.graphics import draw_graphic
from strsr_cli.training.data.photos import Photos, load_photos
from strsr_cli.training.data.seeds import generator_for

CPU = torch.device("cpu")
CONFIG = DegradeConfig(clean_share=0.5, mild_share=0.5)


def drawn(seed: int, side: int = 64) -> Tensor:
    return draw_graphic(side, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def many() -> list[Tensor]:
    return [drawn(seed) for seed in range(60)]


@pytest.fixture
def photos(tmp_path: Path, photo: np.ndarray) -> Photos:
    for number in range(3):
        Image.fromarray(np.roll(photo, 31 * number, axis=1)).save(tmp_path / f"{number}.png")
    return load_photos([tmp_path], 32)


@pytest.mark.parametrize("side", [32, 48, 256])
def test_drawings_have_the_side_asked_for(side: int) -> None:
    for seed in range(5):
        picture = drawn(seed, side)
        assert picture.shape == (1, 3, side, side)
        assert picture.dtype == torch.uint8
        assert picture.is_contiguous()


def test_drawings_are_a_function_of_the_generator(many: list[Tensor]) -> None:
    assert all(torch.equal(drawn(seed), many[seed]) for seed in range(5))
    assert len({picture.numpy().tobytes() for picture in many}) == len(many)


def test_drawings_are_smooth_at_times_and_sharp_at_times(many: list[Tensor]) -> None:
    steps = [max(int(picture.int().diff(dim=dim).abs().max()) for dim in (-1, -2)) for picture in many]
    assert sum(step <= 24 for step in steps) >= 5
    assert sum(step >= 128 for step in steps) >= 10


def test_drawings_reach_the_ends_of_every_channel(many: list[Tensor]) -> None:
    pixels = torch.cat(many)
    assert pixels.amin((0, 2, 3)).tolist() == [0, 0, 0]
    assert pixels.amax((0, 2, 3)).tolist() == [255, 255, 255]
    # Strong colours too, not only black and white.
    spread = pixels.amax(1).int() - pixels.amin(1).int()
    assert (spread == 255).any()


def test_crops_may_all_be_drawn(photos: Photos) -> None:
    crops = Crops(photos, 32, 7, graphics_share=1.0)
    raw = join([crops[number] for number in range(6)])
    assert raw.drawn == (0, 1, 2, 3, 4, 5)
    assert raw.hq.shape == (6, 3, 32, 32)
    assert raw.picture.shape == (6, 3, 128, 128)
    assert raw.hq.dtype == raw.picture.dtype == torch.uint8
    assert torch.equal(crops[4].hq, raw.hq[4:5])
    assert len({sample.numpy().tobytes() for sample in raw.hq}) == 6
    for hq, picture in zip(raw.hq.float(), raw.picture.float(), strict=True):  # of the same thing
        reduced = torch.nn.functional.avg_pool2d(picture, 4)
        assert (hq - reduced).abs().mean() < 12


def test_crops_without_a_share_are_cut_as_ever(photos: Photos) -> None:
    crops = Crops(photos, 32, 7, graphics_share=0.0)
    for number in range(8):
        rng = generator_for("crop", 7, number)
        photo, _ = photos.read(int(torch.randint(3, (), generator=rng)))
        hq, picture = draw_crop(photo, 32, rng)
        assert torch.equal(crops[number].hq, hq)
        assert torch.equal(crops[number].picture, picture)
        assert crops[number].drawn == ()


def test_crops_beside_drawings_are_those_without_them(photos: Photos) -> None:
    plain, mixed = (Crops(photos, 32, 7, share) for share in (0.0, 0.3))
    samples = [mixed[number] for number in range(60)]
    some = [number for number, sample in enumerate(samples) if sample.drawn]
    assert 8 <= len(some) <= 30
    for number, sample in enumerate(samples):
        assert torch.equal(sample.hq, plain[number].hq) == (number not in some)


def test_batches_name_their_drawn_rows_in_order(photos: Photos) -> None:
    crops = Crops(photos, 32, 7, 0.5)
    raw = join([crops[number] for number in range(12)])
    assert raw.drawn == tuple(number for number in range(12) if crops[number].drawn)
    assert 0 < len(raw.drawn) < 12


def test_drawings_are_never_shown_to_teachers(photos: Photos) -> None:
    crops = Crops(photos, 32, 7, 0.5)
    raw = join([crops[number] for number in range(12)])
    asked: list[Tensor] = []

    def teach(lq: Tensor, kind: str, size: tuple[int, int]) -> Tensor:
        asked.append(lq)
        return torch.full((len(lq), 3, *size), 0.25)

    batch = prepare(raw, 0, CONFIG, 7, CPU, teach)
    assert batch.teacher is not None
    for row in range(12):
        wanted = batch.hq[row] if row in raw.drawn else torch.full((3, 32, 32), 0.25)
        assert torch.equal(batch.teacher[row], wanted)
    assert sum(map(len, asked)) == 12 - len(raw.drawn)
    # They are degraded like all others.
    assert all(not torch.equal(batch.lq_up[row], batch.hq[row]) for row in raw.drawn)


def test_teachers_are_not_called_where_all_is_drawn(photos: Photos) -> None:
    def teach(lq: Tensor, kind: str, size: tuple[int, int]) -> Tensor:
        pytest.fail("asked")

    options = {"start": 0, "stop": 2, "batch_size": 3, "workers": 0}
    for batch in batches(Crops(photos, 32, 7, 1.0), CONFIG, CPU, teachers=teach, **options):
        assert batch.teacher is not None
        assert torch.equal(batch.teacher, batch.hq)
