"""Profile and pixels of one kind: gray with gray, colour with RGB; what is of no use is dropped with a warning."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from typer.testing import Result

from strsr_cli.images.picture import Picture
from strsr_cli.images.read import decode_image, read_frame, read_image
from strsr_cli.images.write import EncodeSettings, encode_image

from ..helpers.image_files import (
    ADOBE_RGB,
    DISPLAY_P3,
    bmp_with_alpha,
    gray_profile,
    ink_profile,
    matrix_profile,
    scanner_profile,
    with_chunks,
)

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
FULL = EncodeSettings(quality=100)


def colors() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (16, 16, 3)).astype(np.uint8)


def to_lab(image: Image.Image, icc: bytes) -> np.ndarray:
    """CIELAB by LittleCMS, in its 8 bits."""
    own = ImageCms.ImageCmsProfile(BytesIO(icc))
    lab, exact = ImageCms.createProfile("LAB"), ImageCms.Flags.NOOPTIMIZE
    converted = ImageCms.profileToProfile(image, own, lab, 1, outputMode="LAB", flags=exact)
    assert converted is not None
    values = np.asarray(converted).astype(np.int16)
    values[..., 1:] = (values[..., 1:] + 128) % 256
    return values


def space_of_profile(icc: bytes) -> str:
    return ImageCms.ImageCmsProfile(BytesIO(icc)).profile.xcolor_space.strip()


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


# --- gray pixels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["webp", "avif"])
@pytest.mark.parametrize("alpha", [False, True], ids=["opaque", "alpha"])
@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.6])
def test_gray_with_a_profile_becomes_rgb_of_its_curve(kind: str, alpha: bool, gamma: float) -> None:
    icc = gray_profile(gamma)
    opaque = np.full((16, 16, 1), 200, np.uint8) if alpha else None
    data = encode_image(Picture(RAMP[..., None], opaque, icc, "PNG"), kind, FULL)
    with Image.open(BytesIO(data)) as image:
        own = image.info["icc_profile"]
        assert image.mode == ("RGBA" if alpha else "RGB")
        assert space_of_profile(own) == "RGB"
        stored = image.convert("RGB")
    pixels = np.asarray(stored)
    # WebP's own arithmetic leaves gray by a level or two.
    loss = 4 if kind == "webp" else 0
    assert np.ptp(pixels, axis=2).max() <= loss
    expected = to_lab(Image.fromarray(pixels[..., 1]), icc)
    assert np.abs(to_lab(stored, own) - expected)[2 * loss :].max() <= 1 + loss


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_gray_with_a_profile_stays_gray_where_it_can(kind: str) -> None:
    icc = gray_profile(1.8)
    data = encode_image(Picture(RAMP[..., None], None, icc, "PNG"), kind, FULL)
    with Image.open(BytesIO(data)) as image:
        assert (image.mode, image.info["icc_profile"]) == ("L", icc)


@pytest.mark.parametrize("kind", ["PNG", "palette", "JPEG", "TIFF"])
@pytest.mark.parametrize(
    "icc",
    [matrix_profile(*ADOBE_RGB), matrix_profile(*DISPLAY_P3), scanner_profile()],
    ids=["adobe", "p3", "scanner"],
)
def test_grays_with_an_rgb_profile_get_its_gray_one(kind: str, icc: bytes) -> None:
    image = Image.fromarray(RAMP)
    if kind == "palette":
        image = Image.fromarray(RAMP).convert("P")
    data = saved(image, "PNG" if kind == "palette" else kind, icc_profile=icc)
    picture = decode_image(data, "x")
    assert picture.icc is not None
    assert picture.color.shape == (16, 16, 1)
    assert space_of_profile(picture.icc) == "GRAY"
    gray = Image.fromarray(picture.color[..., 0])
    expected = to_lab(Image.merge("RGB", [gray] * 3), icc)
    assert np.abs(to_lab(gray, picture.icc) - expected).max() <= 1


def test_grays_that_a_profile_tints_become_colours() -> None:
    icc = matrix_profile(ADOBE_RGB[0], 2.2, blue_gamma=1.6)
    picture = decode_image(saved(Image.fromarray(RAMP), "PNG", icc_profile=icc), "x")
    assert picture.icc == icc
    np.testing.assert_array_equal(picture.color, RAMP[..., None].repeat(3, 2))


def test_sixteen_bit_grays_get_a_gray_profile() -> None:
    buffer = BytesIO()
    icc = matrix_profile(*ADOBE_RGB)
    tifffile.imwrite(buffer, RAMP.astype(np.uint16) * 257, photometric="minisblack", iccprofile=icc)
    picture = decode_image(buffer.getvalue(), "x")
    assert picture.icc is not None
    assert (picture.color.dtype, space_of_profile(picture.icc)) == (np.uint16, "GRAY")


def test_a_gray_avif_with_a_gray_profile_is_gray() -> None:
    """AVIF may hold gray pixels with a profile of gray, which Pillow before 13 shows as RGB."""
    icc = gray_profile(1.8)
    data = saved(Image.fromarray(RAMP), "AVIF", icc_profile=icc, subsampling="4:0:0", quality=100)
    picture = decode_image(data, "x")
    assert picture.icc == icc
    assert picture.color.shape == (16, 16, 1)


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_gray_avif_is_gray_with_alpha_too(mode: str, frames: int, tmp_path: Path) -> None:
    """Whatever Pillow makes of it: before 13 RGB of both, since then of the one with alpha."""
    values = np.arange(200, dtype=np.uint8).reshape(10, 20)
    path = tmp_path / "a.avif"
    image = Image.fromarray(values)
    if mode == "LA":
        image.putalpha(Image.fromarray(255 - values))
    more = {"save_all": True, "append_images": [image] * (frames - 1)}
    image.save(path, subsampling="4:0:0", quality=100, **more)
    picture = read_image(path) if frames == 1 else read_frame(path, 2)
    assert picture.color.shape == (10, 20, 1)
    np.testing.assert_allclose(picture.color[..., 0], values, atol=1)
    assert (picture.alpha is not None) == (mode == "LA")
    if picture.alpha is not None:
        np.testing.assert_allclose(picture.alpha[..., 0], 255 - values, atol=1)


def test_an_avif_of_equal_channels_is_no_gray_one() -> None:
    buffer = BytesIO()
    Image.new("RGB", (20, 10), (77, 77, 77)).save(buffer, "AVIF", subsampling="4:4:4")
    assert decode_image(buffer.getvalue(), "x").color.shape == (10, 20, 3)


# --- profiles of no use ------------------------------------------------------------------------------

SOUND = matrix_profile(*ADOBE_RGB)
OF_NO_USE = {
    "gray": (gray_profile(2.2), "it is for GRAY"),
    "inks": (ink_profile((100, 120, 60)), "it is for CMYK"),
    "link": (SOUND[:12] + b"link" + SOUND[16:], "a device link"),
    "abstract": (SOUND[:12] + b"abst" + SOUND[16:], "an abstract one"),
    "named": (SOUND[:12] + b"nmcl" + SOUND[16:], "of named colours"),
    "no-class": (SOUND[:12] + b"zzzz" + SOUND[16:], "an unknown class"),
    "lab": (SOUND[:16] + b"Lab " + SOUND[20:], "it is for Lab"),
    "cut": (SOUND[:200], "it is damaged"),
    "noise": (bytes(range(256)) * 4, "it is damaged"),
    "one-byte": (b"x", "it is damaged"),
}


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("name", OF_NO_USE)
def test_profiles_of_no_use_are_dropped(form: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    icc, reason = OF_NO_USE[name]
    picture = decode_image(saved(Image.fromarray(colors()), form, icc_profile=icc), "holiday.x")
    assert picture.icc is None
    assert picture.color.shape == (16, 16, 3)
    (record,) = caplog.records
    assert record.getMessage().startswith("holiday.x: its colour profile cannot be used and was dropped")
    assert reason in record.getMessage()


def jpeg_with_segments(mode: str, numbers: list[int], count: int) -> bytes:
    """A JPEG with those of a profile's `count` segments, in that order."""
    icc = ink_profile((100, 120, 60)) if mode == "CMYK" else SOUND
    plain = saved(Image.fromarray(colors()).convert(mode), "JPEG", quality=95)
    size = -(-len(icc) // count)
    made = b""
    for number in numbers:
        body = b"ICC_PROFILE\0" + bytes((number, count)) + icc[size * (number - 1) : size * number]
        made += b"\xff\xe2" + (len(body) + 2).to_bytes(2, "big") + body
    return plain[:2] + made + plain[2:]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("numbers", [[1, 3], [2, 3], [1, 1, 3], [1, 2, 3, 3], [3]])
def test_a_profile_with_a_missing_segment_is_dropped(
    mode: str, numbers: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    picture = decode_image(jpeg_with_segments(mode, numbers, 3), "holiday.jpg")
    assert picture.icc is None
    assert [record.getMessage() for record in caplog.records] == [
        "holiday.jpg: parts of its colour profile are missing: it was dropped"
    ]


def test_segments_of_a_profile_may_come_in_any_order(caplog: pytest.LogCaptureFixture) -> None:
    assert decode_image(jpeg_with_segments("RGB", [3, 1, 2], 3), "x").icc == SOUND
    assert not caplog.records


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
@pytest.mark.parametrize("name", ["link", "cut", "noise", "one-byte", "gray"])
def test_inks_with_a_profile_of_no_use_are_plain(
    form: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    inks = Image.fromarray(colors()).convert("CMYK")
    data = saved(inks, form, icc_profile=OF_NO_USE[name][0])
    picture = decode_image(data, "print.x")
    assert picture.icc is None
    with Image.open(BytesIO(data)) as image:
        np.testing.assert_array_equal(picture.color, np.asarray(image.convert("RGB")))
    (record,) = caplog.records
    assert record.getMessage().startswith("print.x: its colour profile cannot be used, its inks are")


def test_a_png_whose_profile_is_empty_says_so(caplog: pytest.LogCaptureFixture) -> None:
    data = with_chunks(saved(Image.fromarray(colors()), "PNG"), (b"iCCP", b"no zero, no method"))
    assert decode_image(data, "holiday.png").icc is None
    assert caplog.records[0].getMessage().startswith("holiday.png: its ICC profile is damaged")


@pytest.mark.parametrize("kind", ["png", "tif", "webp"])
def test_one_warning_of_a_batch_names_the_file(
    kind: str, tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    """Pictures are read twice at times, and are warned of once."""
    path = tmp_path / "holiday.jpg"
    path.write_bytes(saved(Image.fromarray(colors()), "JPEG", icc_profile=gray_profile(2.2)))
    result = strsr("upscale", path, tmp_path / f"out.{kind}", "--scale", "2")
    assert result.exit_code == 0
    assert result.output.count("holiday.jpg: its colour profile cannot be used") == 1
    with Image.open(tmp_path / f"out.{kind}") as image:
        assert not image.info.get("icc_profile")


# --- BMP ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gray", [False, True], ids=["colour", "gray"])
def test_bmp_without_a_profile_is_converted_to_srgb(gray: bool) -> None:
    icc = gray_profile(1.0) if gray else matrix_profile(*ADOBE_RGB)
    color = RAMP[..., None] if gray else colors() // 2 + 64
    data = encode_image(Picture(color, None, icc, "PNG"), "bmp", FULL)
    with Image.open(BytesIO(data)) as image:
        assert image.mode == ("L" if gray else "RGB")
        back = image.convert("RGB")
    own = Image.fromarray(color.squeeze(2) if gray else color)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    inside = (np.asarray(back) > 0).all(2) & (np.asarray(back) < 255).all(2)
    assert inside.mean() > 0.6
    assert np.abs(to_lab(own, icc) - to_lab(back, srgb))[inside].max() <= 3


@pytest.mark.parametrize("header", [56, 108, 124])
def test_bmp_whose_alpha_is_nothing_is_opaque(header: int) -> None:
    pixels = np.dstack([colors(), np.zeros((16, 16, 1), np.uint8)])
    picture = decode_image(bmp_with_alpha(pixels, header), "x")
    assert picture.alpha is None
    np.testing.assert_array_equal(picture.color, colors())
    pixels[3, 4, 3] = 1
    picture = decode_image(bmp_with_alpha(pixels, header), "x")
    assert picture.alpha is not None
    assert picture.alpha.sum() == 1


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_alpha_of_nothing_stays_in_other_formats(form: str) -> None:
    """Viewers show such files as wholly transparent; the colours beneath are kept."""
    pixels = np.dstack([colors(), np.zeros((16, 16, 1), np.uint8)])
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    picture = decode_image(saved(Image.fromarray(pixels), form, **options), "x")
    assert picture.alpha is not None
    assert picture.alpha.max() == 0
    if form != "AVIF":
        np.testing.assert_array_equal(picture.color, colors())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [2, 4])
def test_an_unspecified_sample_of_tiff_is_no_alpha(dtype: type, channels: int) -> None:
    pixels = np.random.default_rng(6).integers(1, 200, (16, 16, channels)).astype(dtype)
    if dtype == np.float32:
        pixels = pixels / dtype(200)
    pixels[..., -1] = 0
    buffer = BytesIO()
    photometric = "rgb" if channels == 4 else "minisblack"
    tifffile.imwrite(
        buffer, pixels, photometric=photometric, extrasamples=["unspecified"], planarconfig="contig"
    )
    picture = decode_image(buffer.getvalue(), "x")
    assert picture.alpha is None
    np.testing.assert_array_equal(picture.color, pixels[..., :-1])
