"""Colours, transparency and depth through the network: nothing shifts, bleeds or bands."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import color as sk_color
from skimage import data as sk_data

from strsr_cli.images.color.restorer import network_input, space_of, to_tensor, without_hidden
from strsr_cli.images.picture import Picture
from strsr_models import OneStepPipeline, load_pipeline

from ..helpers.image_files import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB_PRIMARIES,
    gray_profile,
    matrix_profile,
    matrix_to_xyz,
    scanner_profile,
)
from ..helpers.restoring import restored

SPACES = {"AdobeRGB": ADOBE_RGB, "Display P3": DISPLAY_P3}
lite = cache(lambda: load_pipeline("lite"))


def upscaled(picture: Picture, precision: str = "fp32", pipeline: OneStepPipeline | None = None) -> Picture:
    return restored(pipeline or lite(), picture, 4, precision)


def pictured(color: np.ndarray, alpha: np.ndarray | None = None, icc: bytes | None = None) -> Picture:
    return Picture(color if color.ndim == 3 else color[..., None], alpha, icc, "PNG")


def small(name: str) -> np.ndarray:
    """A photo of scikit-image, reduced to 128 px a side."""
    pixels = getattr(sk_data, name)()[..., :3]
    side = min(pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels[:side, :side]).resize((128, 128), Image.Resampling.BOX))


def reduced(pixels: np.ndarray, by: int = 4) -> np.ndarray:
    """Means over squares of `by` px, as floats."""
    h, w, c = pixels.shape
    return pixels.reshape(h // by, by, w // by, by, c).mean((1, 3))


# In px of the small picture: colours are compared over patches, in which an edge that got sharper is none.
PATCH = 4


def shift(small: np.ndarray, enlarged: np.ndarray, *space: object) -> float:
    """The mean CIEDE2000 between patches of a picture and of its enlargement by 4, both in [0, 1]."""
    labs = [to_lab(reduced(pixels, by), *space) for pixels, by in ((enlarged, 4 * PATCH), (small, PATCH))]
    return float(sk_color.deltaE_ciede2000(*labs).mean())


def tint(small: np.ndarray, enlarged: np.ndarray, *space: object) -> float:
    """The same between pixels and the means that became of them, but for lightness, which sharper edges change."""
    labs = [to_lab(pixels, *space) for pixels in (reduced(enlarged), small)]
    labs[0][..., 0] = labs[1][..., 0]
    return float(sk_color.deltaE_ciede2000(*labs).mean())


def to_lab(pixels: np.ndarray, primaries: tuple = SRGB_PRIMARIES, gamma: float | None = None) -> np.ndarray:
    """CIELAB under D50 of colours in [0, 1]; gamma None: sRGB's curve."""
    linear = np.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)
    if gamma is not None:
        linear = pixels**gamma
    return sk_color.xyz2lab(linear @ matrix_to_xyz(primaries).T, "D50")


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_colour_does_not_shift(name: str) -> None:
    pixels = small(name)
    enlarged = upscaled(pictured(pixels))
    difference = shift(pixels / 255, enlarged.color / 255)
    print(f"{name}: mean CIEDE2000 {difference:.3f}")
    assert difference < 0.5
    assert tint(pixels / 255, enlarged.color / 255) < 1.0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_smooth_sixteen_bit_gradient_does_not_band(precision: str) -> None:
    ramp = np.linspace(20_000, 30_000, 64)[None, :].repeat(64, 0).astype(np.uint16)
    enlarged = upscaled(pictured(ramp[..., None].repeat(3, 2)), precision).color
    levels = len(np.unique(enlarged))
    middle = enlarged[128, 32:-32].astype(int)
    steps = np.diff(middle, axis=0)
    print(f"{precision}: {levels} levels, largest step {np.abs(steps).max()} of 65,535")
    assert levels > 256
    assert np.abs(steps).max() < 257  # a step of 8 bits


@pytest.mark.parametrize("space", SPACES)
def test_the_network_sees_srgb(space: str) -> None:
    """Colours within sRGB, by arithmetic of this file, against the tables."""
    primaries, gamma = SPACES[space]
    rng = np.random.default_rng(0)
    srgb = rng.uniform(0.1, 0.9, (40, 40, 3))
    linear = ((srgb + 0.055) / 1.055) ** 2.4
    own = linear @ (np.linalg.inv(matrix_to_xyz(primaries)) @ matrix_to_xyz(SRGB_PRIMARIES)).T
    own = np.rint(own.clip(0, 1) ** (1 / gamma) * 65_535).astype(np.uint16)
    picture = pictured(own, icc=matrix_profile(primaries, gamma))
    shown = network_input(picture)[0].permute(1, 2, 0).numpy()
    error = np.abs(shown - srgb) * 255
    print(f"{space}: 99 of 100 within {np.percentile(error, 99):.2f}, largest {error.max():.2f} of 255")
    assert np.percentile(error, 99) < 3
    assert error.max() < 6  # where sRGB ends, between two nodes
    own_space = space_of(picture)
    assert own_space is not None
    back = own_space.from_srgb(torch.tensor(srgb, dtype=torch.float32).permute(2, 0, 1)[None])
    assert (back - to_tensor(own)).abs().max() < 1 / 255


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("side", "most"), [(16, 8), (64, 4)])
def test_wide_colours_stay(space: str, side: int, most: float) -> None:
    """The most saturated colours that a space has lie far outside of sRGB.

    lite keeps the level of colours over some 100 px of its output: in narrower patches they shift a little.
    """
    primaries, gamma = SPACES[space]
    patches = np.zeros((2 * side, 3 * side, 3), np.uint8)
    for at, patch in enumerate([(0, 255, 0), (255, 0, 0), (0, 200, 100)]):
        patches[:, side * at : side * at + side] = patch
    picture = pictured(patches, icc=matrix_profile(primaries, gamma))
    enlarged = upscaled(picture)
    assert enlarged.icc == picture.icc
    colors, wanted = (
        pixels.reshape(2 * side, 3, side, 3)[:, :, side // 4 : -side // 4]
        for pixels in (reduced(enlarged.color), patches.astype(float))
    )
    inner = np.abs(colors - wanted)
    print(f"{space}: mean {inner.mean():.2f}, largest {inner.max():.2f} of 255")
    assert inner.max() < most
    plain = upscaled(pictured(patches))
    assert np.abs(reduced(plain.color) - patches).mean() < 4


@pytest.mark.parametrize("space", SPACES)
def test_photos_in_other_spaces_do_not_shift(space: str) -> None:
    primaries, gamma = SPACES[space]
    pixels = small("astronaut")
    enlarged = upscaled(pictured(pixels, icc=matrix_profile(primaries, gamma)))
    difference = shift(pixels / 255, enlarged.color / 255, primaries, gamma)
    print(f"{space}: mean CIEDE2000 {difference:.3f}")
    assert difference < 0.5
    assert tint(pixels / 255, enlarged.color / 255, primaries, gamma) < 1.0


def test_detail_reaches_pictures_in_other_spaces() -> None:
    """The same photo, in sRGB and in AdobeRGB: what the network adds is the same to the eye."""
    pixels = small("astronaut")
    linear = sk_color.rgb2xyz(pixels) @ np.linalg.inv(sk_color.colorconv.xyz_from_rgb).T
    own = linear @ (np.linalg.inv(matrix_to_xyz(ADOBE_RGB[0])) @ matrix_to_xyz(SRGB_PRIMARIES)).T
    own = np.rint(own.clip(0, 1) ** (1 / ADOBE_RGB[1]) * 65_535).astype(np.uint16)
    enlarged = upscaled(pictured(own, icc=matrix_profile(*ADOBE_RGB))).color / 65_535
    plain = upscaled(pictured(pixels)).color / 255
    difference = sk_color.deltaE_ciede2000(to_lab(enlarged, *ADOBE_RGB), to_lab(plain))
    bicubic = np.asarray(Image.fromarray(pixels).resize((512, 512), Image.Resampling.BICUBIC)) / 255
    without = sk_color.deltaE_ciede2000(to_lab(bicubic), to_lab(plain))
    print(f"with detail {difference.mean():.3f}, without {without.mean():.3f}")
    assert difference.mean() < 0.5 * without.mean()


def test_srgb_profiles_change_nothing() -> None:
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = small("coffee")
    np.testing.assert_array_equal(
        upscaled(pictured(pixels, icc=srgb)).color, upscaled(pictured(pixels)).color
    )


def test_gray_stays_gray_in_its_own_space() -> None:
    pixels = small("astronaut").mean(2, keepdims=True).astype(np.uint8)
    picture = pictured(pixels, icc=gray_profile(1.8))
    enlarged = upscaled(picture)
    assert enlarged.color.shape == (512, 512, 1)
    # In the network's own space, whose level it keeps; a sharper edge has another mean behind another curve.
    large = network_input(pictured(enlarged.color, icc=gray_profile(1.8)))
    assert abs((large.mean() - network_input(picture).mean()).item()) < 0.25 / 255
    shown = network_input(pictured(np.full((4, 4, 1), 128, np.uint8), icc=gray_profile(1.8)))
    linear = (128 / 255) ** 1.8
    assert shown.mean().item() == pytest.approx(1.055 * linear ** (1 / 2.4) - 0.055, abs=2 / 255)


@pytest.mark.parametrize("icc", [gray_profile(2.2), b"nonsense" * 40], ids=["gray", "damaged"])
def test_profiles_of_no_use_leave_the_numbers(icc: bytes) -> None:
    picture = pictured(small("coffee"), icc=icc)
    assert space_of(picture) is None
    np.testing.assert_array_equal(network_input(picture), to_tensor(picture.color))


def test_a_profile_that_leads_one_way_is_used_that_way() -> None:
    """A scanner's table tells what its numbers look like, and not which numbers a colour has."""
    picture = pictured(small("coffee"), icc=scanner_profile())
    space = space_of(picture)
    assert space is not None
    shown = network_input(picture)
    # The table's cube is sRGB's but for the darkest corner, of L* 20.
    assert shown.min() > 0.1
    assert (space.from_srgb(shown) - shown).abs().max() < 1e-6


def test_floats_keep_what_lies_beyond_white() -> None:
    color = np.full((16, 16, 3), 0.5, np.float32)
    color[:, 8:] = 3.0
    enlarged = upscaled(pictured(color)).color
    assert enlarged.dtype == np.float32
    assert enlarged[32, 60] == pytest.approx(3, abs=0.1)
    assert enlarged[32, 4] == pytest.approx(0.5, abs=0.05)


# --- transparency ----------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(0, 0, 0), (0, 255, 0), (255, 255, 255)], ids=["black", "green", "white"])
def test_colour_that_transparency_hides_does_not_bleed(hidden: tuple[int, int, int]) -> None:
    rows, columns = np.mgrid[:48, :48] - 23.5
    alpha = (np.clip(17 - np.hypot(rows, columns), 0, 1) * 255).astype(np.uint8)[..., None]
    red = np.array((200, 40, 30), np.uint8)
    enlarged = upscaled(pictured(np.where(alpha > 0, red, np.array(hidden, np.uint8)), alpha))
    assert enlarged.alpha is not None
    opaque = enlarged.alpha / 255
    on_gray = enlarged.color * opaque + 128 * (1 - opaque)
    expected = red * opaque + 128 * (1 - opaque)
    print(f"largest difference {np.abs(on_gray - expected).max():.2f} of 255")
    assert np.abs(on_gray - expected).max() < 6  # bleeding black makes 60 of it
    # The edge lies where it lay, and nothing faint surrounds it.
    assert opaque.sum() / 16 == pytest.approx((alpha / 255).sum(), rel=0.01)
    rows, columns = (np.mgrid[:192, :192] - 95.5) / 4
    assert enlarged.alpha[np.hypot(rows, columns) > 19.5].max() == 0


def test_soft_shadows_and_pictures_without_any_colour_are_left() -> None:
    color, faint = torch.rand(1, 3, 9, 7), torch.full((1, 1, 9, 7), 0.5)
    assert without_hidden(color, torch.zeros(1, 1, 9, 7)) is color
    torch.testing.assert_close(without_hidden(color, faint), color)
    alpha = torch.zeros(1, 1, 9, 7)
    alpha[..., 3, 2] = 1
    filled = without_hidden(color, alpha)
    torch.testing.assert_close(filled, color[..., 3:4, 2:3].expand_as(filled))


def test_sixteen_bit_alpha_is_smooth() -> None:
    alpha = np.linspace(0, 65_535, 16 * 64).reshape(64, 16).T[..., None].astype(np.uint16)
    enlarged = upscaled(pictured(np.full((16, 64, 1), 30_000, np.uint16), alpha))
    assert enlarged.alpha is not None
    assert enlarged.color.shape[2] == 1
    assert len(np.unique(enlarged.alpha)) > 256
