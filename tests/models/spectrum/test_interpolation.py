"""Plain enlargements are told from grids: their pixels follow from their neighbours, and what is printed on them does not."""

from __future__ import annotations

import io
import math

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from skimage import data
from torch import Tensor

from strsr_models.spectrum import inspect_lattice, main_period, verdict
from strsr_models.spectrum.certainty import certainty
from strsr_models.spectrum.interpolation import find_interpolation
from strsr_models.tiling.enlargement import enlarge

SIDE = 384


def as_image(pixels: np.ndarray) -> Tensor:
    """(1, 1 or 3, h, w) of uint8 (h, w) or (h, w, 3), in [0, 1]."""
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(np.ascontiguousarray(planes)).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A photo of 256 x 256 px, reduced so that no file format's blocks are left: (256, 256, 3) uint8."""
    image = Image.fromarray(data.astronaut()).resize((256, 256), Image.Resampling.LANCZOS)
    return np.asarray(image).copy()


def of_strsr(small: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    large = enlarge(as_image(small), size[1], size[0]).clamp(0, 1)
    return (large[0].permute(1, 2, 0) * 255).round().byte().numpy()


def as_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).copy()


KERNELS = {
    "bilinear": lambda small, size: np.asarray(
        Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)
    ),
    "bicubic": lambda small, size: np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)),
    "lanczos": lambda small, size: np.asarray(Image.fromarray(small).resize(size, Image.Resampling.LANCZOS)),
    "cubic of OpenCV": lambda small, size: cv2.resize(small, size, interpolation=cv2.INTER_CUBIC),
    "lanczos of OpenCV": lambda small, size: cv2.resize(small, size, interpolation=cv2.INTER_LANCZOS4),
    "ours": of_strsr,
}


def enlarged(photo: np.ndarray, kernel: str, factor: int) -> Tensor:
    small = np.ascontiguousarray(photo[: SIDE // factor, : SIDE // factor])
    return as_image(KERNELS[kernel](small, (small.shape[1] * factor, small.shape[0] * factor)).copy())


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_plain_enlargement_is_clean_and_named(kernel: str, factor: int, photo: np.ndarray) -> None:
    report = inspect_lattice(enlarged(photo, kernel, factor))
    assert verdict(report) == "clean"
    assert main_period(report) is None
    assert report.interpolation is not None
    assert report.interpolation.factor == factor
    assert report.interpolation.gain > 0.05
    assert not report.interpolation.blocks


@pytest.mark.parametrize("cut", [0, 3])
def test_where_an_enlargement_begins_does_not_matter(cut: int, photo: np.ndarray) -> None:
    report = inspect_lattice(enlarged(photo, "bicubic", 4)[..., cut:, cut + 2 :])
    assert verdict(report) == "clean"
    assert report.interpolation is not None
    assert report.interpolation.factor == 4


@pytest.mark.parametrize(("factor", "period"), [(2, 2), (3, 3), (4, 4), (5, 5), (8, 8), (16, 16)])
def test_nearest_neighbour_is_blocks_and_says_so(factor: int, period: int, photo: np.ndarray) -> None:
    large = photo[: SIDE // factor, : SIDE // factor].repeat(factor, 0).repeat(factor, 1)
    report = inspect_lattice(as_image(large[1:, 3:]))
    assert verdict(report) == "grid"
    assert main_period(report) == period
    assert report.interpolation is not None
    assert report.interpolation.blocks
    assert report.interpolation.factor == factor


def test_what_is_printed_on_an_enlargement_is_a_grid(photo: np.ndarray) -> None:
    image = enlarged(photo, "bicubic", 4)
    steps = torch.arange(image.shape[-1]) // 4
    checkers = ((steps[:, None] + steps) % 2 * 2 - 1) / 255
    report = inspect_lattice(((image + checkers).clamp(0, 1) * 255).round() / 255)
    assert report.interpolation is not None
    assert verdict(report) == "grid"
    assert main_period(report) == 8


@pytest.mark.parametrize("quality", [None, 60, 95])
def test_photos_and_jpegs_are_no_enlargements(quality: int | None, photo: np.ndarray) -> None:
    if quality is not None:
        photo = as_jpeg(photo, quality)
    assert inspect_lattice(as_image(photo)).interpolation is None


@pytest.mark.parametrize(("quality", "radius"), [(10, 0), (60, 2), (85, 3)])
def test_blocks_of_a_smooth_jpeg_are_no_enlargement(quality: int, radius: int) -> None:
    """Few waves are left in each, so that pixels follow from their neighbours; but across borders they jump."""
    moon = Image.fromarray(data.moon()).filter(ImageFilter.GaussianBlur(radius))
    moon = moon.convert("F").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    pixels = np.rint(np.asarray(moon)).clip(0, 255).astype(np.uint8)
    report = inspect_lattice(as_image(as_jpeg(pixels, quality)))
    assert report.interpolation is None
    assert verdict(report) == "grid"
    assert report.origin_aligned[1]


def test_a_weave_that_any_weights_predict_is_no_enlargement() -> None:
    across = torch.arange(SIDE)
    weave = 0.5 + 4 / 255 * torch.cos(2 * math.pi * across / 40) * torch.cos(math.pi * across / 2)
    assert find_interpolation(weave.expand(1, SIDE, SIDE)) is None


DOWN, ACROSS = np.indices((512, 512)).astype(np.float32)
PAGE = np.full((800, 600), 255, np.float32)
PAGE[100:110, 50:500] = 0
WITHOUT_CONTENT = {
    "black": np.zeros((256, 256)),
    "grey": np.full((256, 256), 120),
    "horizontal ramp": ACROSS / 2,
    "vertical ramp": DOWN / 2,
    "diagonal ramp": (ACROSS + DOWN) / 4,
    "radial ramp": np.hypot(ACROSS - 256, DOWN - 256) * 0.7,
    "bowl": ((ACROSS - 256) ** 2 + (DOWN - 200) ** 2) / 514,
    "sky above noise": np.where(DOWN < 300, 127, np.random.default_rng(0).random((512, 512)) * 102),
    "white page with one rule": PAGE,
}


@pytest.mark.parametrize("name", WITHOUT_CONTENT)
def test_pictures_without_content_are_clean(name: str) -> None:
    report = inspect_lattice(as_image(np.rint(WITHOUT_CONTENT[name]).clip(0, 255).astype(np.uint8)))
    assert verdict(report) == "clean"


@pytest.mark.parametrize(
    "curve", [(256, 200, 514, 1.0), (200, 300, -1028, 1.0), (130, 400, 771, 0.5), (256, 256, 514, 1.0)]
)
def test_a_bowl_is_no_enlargement(curve: tuple[float, float, float, float]) -> None:
    """Its stairs of rounding repeat nearly every 16 px, so that pixels follow from their neighbours by any weights."""
    across, down, width, flat = curve
    bowl = ((ACROSS - across) ** 2 + flat * (DOWN - down) ** 2) / width + (width < 0) * 255
    report = inspect_lattice(as_image(np.rint(bowl).clip(0, 255).astype(np.uint8)))
    assert report.interpolation is None or report.interpolation.smooth
    assert verdict(report) == "clean"


def test_an_enlargement_by_three_halves_is_not_one_by_three() -> None:
    """scikit-image's moon is 256 px, doubled: at three quarters its weights repeat after 3 px, as at three times."""
    side = SIDE // 4 * 4
    doubled = Image.fromarray(data.moon())
    pixels = np.asarray(doubled.convert("F").resize((side, side), Image.Resampling.LANCZOS))
    report = inspect_lattice(as_image(np.rint(pixels).clip(0, 255).astype(np.uint8)))
    assert report.interpolation is None
    assert verdict(report) == "clean"


@pytest.mark.parametrize("filter", [Image.Resampling.BILINEAR, Image.Resampling.LANCZOS])
def test_a_smooth_place_enlarged_eight_times_is_clean(filter: Image.Resampling) -> None:
    """Its pieces are hardly more than bowls: no note is due, but no grid either."""
    cat = Image.fromarray(data.chelsea()).convert("L")
    corner = cat.crop((0, 0, 80, 80)).resize((640, 640), filter)
    assert verdict(inspect_lattice(as_image(np.asarray(corner).copy()))) == "clean"


def planted_wave(name: str, both: object, side: int) -> tuple[Tensor, Tensor]:
    """A photo, and the same with cosines of 16 px and one step of root mean square."""
    image = Image.fromarray(getattr(data, name)()).convert("L")
    image = image.crop((0, 0, min(image.size), min(image.size))).resize(
        (side, side), Image.Resampling.LANCZOS
    )
    y = as_image(np.asarray(image).copy())
    wave = torch.cos(2 * math.pi * torch.arange(side) / 16)
    lattice = both(wave, wave[:, None]).expand(side, side)  # type: ignore[operator]
    return y, ((y + lattice / lattice.square().mean().sqrt() / 255) * 255).round() / 255


@pytest.mark.parametrize("both", [lambda x, y: x + y, lambda x, y: x * y, lambda x, y: x])
@pytest.mark.parametrize("name", ["camera", "chelsea", "coffee", "rocket"])
def test_cosines_of_one_step_are_noticed(name: str, both: object) -> None:
    """Nothing but the first harmonic, where photos are loud."""
    clean, planted = planted_wave(name, both, SIDE)
    assert verdict(inspect_lattice(clean)) == "clean"
    report = inspect_lattice(planted)
    assert report.interpolation is None
    assert verdict(report) != "clean"
    assert main_period(report) == 16


def test_a_wave_that_no_block_shows_adds_up_over_the_picture() -> None:
    clean, planted = (inspect_lattice(y, (16,)) for y in planted_wave("astronaut", lambda x, y: x, SIDE))
    assert clean.certainty[0] < 1.5
    assert planted.certainty[0] > 2.5
    assert max(planted.coherence) < 0.15
    assert verdict(planted) == "suspect"


def test_certainty_is_what_its_name_says_of_noise() -> None:
    """Of 200 pictures of noise 20 have a certainty above 1 by each of about ten kinds of sums, which depend on each other."""
    rng = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(200, 1, 256, 256, generator=rng)
    values = [certainty(y, 8) for y in noise]
    assert 20 <= sum(value > 1 for value in values) <= 120
    assert max(values) < 4


def test_a_smooth_corner_counts_for_more_than_a_rough_rest() -> None:
    """The lattice is a tenth of the noise elsewhere: what shows it is a sixteenth of the picture."""
    rng = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(1, 512, 512, generator=rng)
    noise[:, :128, :128] *= 0.05
    wave = 2**0.5 / 255 * torch.cos(2 * math.pi * torch.arange(512) / 16)
    assert certainty(0.5 + noise, 16) < 2
    assert certainty(0.5 + noise + wave, 16) > 4


@pytest.mark.parametrize("period", [13, 15, 17])
def test_a_wave_beside_the_period_is_not_taken_for_it(period: int) -> None:
    rng = torch.Generator().manual_seed(0)
    wave = 2 / 255 * torch.cos(2 * math.pi * torch.arange(SIDE) / period)
    image = 0.5 + 0.02 * torch.randn(1, SIDE, SIDE, generator=rng) + wave
    assert certainty(image, period) > 6
    assert certainty(image, 16) < 2.3


def test_stronger_prints_are_surer() -> None:
    clean, planted = (y[0] for y in planted_wave("coffee", lambda x, y: x + y, SIDE))
    values = [certainty(clean + share * (planted - clean), 16) for share in (0, 0.5, 1, 2)]
    assert values == sorted(values)
    assert values[0] < 1.5
    assert values[-1] > 8


def test_texture_that_changes_along_one_axis_is_suspect() -> None:
    rng = torch.Generator().manual_seed(0)
    grain = torch.randn(SIDE, SIDE, generator=rng) * (1 + 0.3 * (torch.arange(SIDE) % 4 == 0))[:, None]
    report = inspect_lattice(0.5 + 0.02 * grain[None, None])
    assert verdict(report) == "suspect"
    assert report.trace[0] > 2
    assert report.trace[1] == 0
